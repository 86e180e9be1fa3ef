// Draws a picture that is saved as PNG or as SVG, and the lines with its provenance below it.
//   const pen = wb.sheet("svg", width, height); pen.fillText("a", 5, 5); wb.save(await pen.blob(), "a.svg")
// The pen of an SVG has the part of a canvas context that the pictures use, so both are drawn by the same script.
{
  const SPACE = "http://www.w3.org/2000/svg";
  const ANCHORS = { left: "start", center: "middle", right: "end" };

  // A colour in a form that all programs read; computed styles hold color(srgb r g b / a), which few programs read.
  function plain(colour) {
    const parts = /^color\(srgb ([^)]*)\)$/.exec(colour)?.[1].split(/[ /]+/).map(Number);
    return parts ? `rgba(${parts.map((part, i) => (i < 3 ? Math.round(255 * part) : part)).join(", ")})` : colour;
  }

  function vector(width, height) {
    const probe = document.createElement("canvas").getContext("2d"),
      root = document.createElementNS(SPACE, "svg"),
      kept = [];
    let state = { moved: "", path: "", fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, globalAlpha: 1, dash: "" };
    Object.assign(state, { textAlign: "left", textBaseline: "alphabetic", font: "10px sans-serif" });

    const add = (parent, name, attributes) => {
      const made = parent.appendChild(document.createElementNS(SPACE, name));
      for (const [key, value] of Object.entries(attributes)) if (value !== "") made.setAttribute(key, value);
      return made;
    };
    const look = () => ({
      fill: state.fillStyle.url ?? plain(state.fillStyle),
      opacity: state.globalAlpha === 1 ? "" : state.globalAlpha,
      transform: state.moved,
    });
    add(root, "rect", { width, height, fill: "#fff" });
    for (const [key, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) {
      root.setAttribute(key, value);
    }

    const pen = {
      save: () => kept.push({ ...state }),
      restore: () => {
        state = kept.pop();
      },
      translate: (x, y) => {
        state.moved += `translate(${x} ${y})`;
      },
      rotate: (angle) => {
        state.moved += `rotate(${(180 * angle) / Math.PI})`;
      },
      measureText: (text) => {
        probe.font = state.font;
        return probe.measureText(text);
      },
      fillRect: (x, y, width, height) => add(root, "rect", { x, y, width, height, ...look() }),
      fillText: (text, x, y) => {
        const anchor = ANCHORS[state.textAlign],
          dy = state.textBaseline === "middle" ? "0.35em" : "";
        const style = `font: ${state.font}; white-space: pre`;
        add(root, "text", { x, y, dy, "text-anchor": anchor, style, ...look() }).textContent = text;
      },
      beginPath: () => {
        state.path = "";
      },
      moveTo: (x, y) => {
        state.path += `M${x} ${y}`;
      },
      bezierCurveTo: (...places) => {
        state.path += `C${places.join(" ")}`;
      },
      setLineDash: (lengths) => {
        state.dash = lengths.join(" ");
      },
      stroke: () => {
        const line = {
          stroke: plain(state.strokeStyle),
          "stroke-width": state.lineWidth,
          "stroke-dasharray": state.dash,
        };
        add(root, "path", { d: state.path, ...look(), ...line, fill: "none" });
      },
      drawImage: (canvas, x, y, width, height) => {
        const style = "image-rendering: pixelated";
        add(root, "image", { x, y, width, height, href: canvas.toDataURL(), style, transform: state.moved });
      },
      createLinearGradient: (x1, y1, x2, y2) => {
        const id = `ramp${root.children.length}`;
        const made = add(root, "linearGradient", { id, x1, y1, x2, y2, gradientUnits: "userSpaceOnUse" });
        return {
          url: `url(#${id})`,
          addColorStop: (offset, colour) => add(made, "stop", { offset, "stop-color": plain(colour) }),
        };
      },
      blob: () => new Blob([new XMLSerializer().serializeToString(root)], { type: "image/svg+xml" }),
    };
    for (const name of ["fillStyle", "strokeStyle", "lineWidth", "globalAlpha", "textAlign", "textBaseline", "font"]) {
      Object.defineProperty(pen, name, {
        get: () => state[name],
        set: (value) => {
          state[name] = value;
        },
      });
    }
    return pen;
  }

  function pixels(width, height) {
    const canvas = document.createElement("canvas"),
      pen = canvas.getContext("2d"),
      scale = 2;
    canvas.width = Math.ceil(width * scale);
    canvas.height = Math.ceil(height * scale);
    pen.scale(scale, scale);
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.imageSmoothingEnabled = false;
    pen.blob = () => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    return pen;
  }

  window.workbench.sheet = (format, width, height) => (format === "svg" ? vector : pixels)(width, height);

  // Words in lines of at most a width, in the font of the pen.
  window.workbench.wrapped = (pen, text, width) => {
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
      if (pen.measureText(longer).width > width && lines.at(-1)) lines.push(word);
      else lines[lines.length - 1] = longer;
    }
    return lines;
  };
}
