// Attention maps on a canvas: bytes as colours, tokens along the axes, lines between tokens, and a picture to keep.
Object.assign(
  window.workbench,
  (() => {
    const { dark, digits, pieces } = window.workbench;
    // The stops of colours.py, at equal distances, for a light page.
    const SEQUENTIAL = ["ffffff", "d3e2fa", "97bbf2", "5590e6", "2a66cf", "16449a", "0c2b66"];
    const DIVERGING = ["123c8c", "3a72d2", "8fb4f0", "d8e5fa", "ffffff", "fbe0c8", "f2ad74", "d2691e", "8a3a06"];
    const rgb = (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const mix = (a, b, t) => a.map((value, i) => Math.round(value + (b[i] - value) * t));

    // A colour on a dark page: dimmed, inverted, and its hue turned back, as colours.py and the page's style do with
    // cells, so that white becomes the page's background.
    const GROUND = 0.06;
    const TURN = [
      [-0.574, 1.43, 0.144],
      [0.426, 0.43, 0.144],
      [0.426, 1.43, -0.856],
    ];
    const onDarkPage = (colour) =>
      TURN.map((row) =>
        Math.round(
          Math.min(
            255,
            Math.max(
              0,
              row.reduce((sum, part, i) => sum + part * (255 - (1 - GROUND) * colour[i]), 0),
            ),
          ),
        ),
      );
    const stopsOf = (signed, onDark) =>
      (signed ? DIVERGING : SEQUENTIAL).map(rgb).map((stop) => (onDark ? onDarkPage(stop) : stop));

    // A place on the scale, 0 to 1 -> [r, g, b]
    function between(stops, place) {
      const at = Math.min(Math.max(place, 0), 1) * (stops.length - 1);
      const low = Math.min(Math.floor(at), stops.length - 2);
      return mix(stops[low], stops[low + 1], at - low);
    }

    // t in [0, 1], or of a signed map in [-1, 1] -> [r, g, b]: the page's background at zero
    const colour = (map, t, onDark) => between(stopsOf(map.signed, onDark), map.signed ? (t + 1) / 2 : t);

    // A byte holds the square root of a magnitude (see pixels.py), as a part of the map's `scale`.
    const magnitude = (byte, signed) => (signed ? (byte - 128) / 127 : byte / 255);
    const strength = (byte, signed) => (signed ? Math.abs(byte - 128) : byte);

    const CURVES = {
      linear: { shade: (weight) => weight, weight: (shade) => shade },
      sqrt: { shade: Math.sqrt, weight: (shade) => shade * shade },
      log: {
        shade: (weight) => (weight > 0 ? Math.max(0, 1 + Math.log10(weight) / 4) : 0),
        weight: (shade) => 10 ** (4 * (shade - 1)),
      },
    };

    // A map without its first key. In large maps its column also stands for other keys, whose values are `second`.
    function withoutFirst(map) {
      const bytes = map.bytes.slice(),
        { side, second } = map;
      for (let row = 0; row < side; row++) bytes[row * side] = second?.[row] ?? (map.signed ? 128 : 0);
      return { ...map, bytes };
    }

    // The strongest byte of a map.
    function strongest(map) {
      let best = 0;
      for (let row = 0; row < map.side; row++) {
        for (let column = 0; column <= row; column++) {
          best = Math.max(best, strength(map.bytes[row * map.side + column], map.signed));
        }
      }
      return map.signed ? 128 + best : best;
    }

    // The 256 colours of a map as packed pixels; the byte `top` is shown at full strength.
    function palette(map, curve, top, onDark) {
      const full = magnitude(top, map.signed) ** 2 || 1;
      const packed = new Uint32Array(256),
        stops = stopsOf(map.signed, onDark);
      for (let byte = 0; byte < 256; byte++) {
        const root = magnitude(byte, map.signed);
        const shade = CURVES[curve].shade(Math.min((root * root) / full, 1));
        const [r, g, b] = between(stops, map.signed ? (1 + Math.sign(root) * shade) / 2 : shade);
        packed[byte] = 0xff000000 | (b << 16) | (g << 8) | r;
      }
      return packed;
    }

    // Strongest byte under each screen pixel, so that thin lines survive shrinking: side² -> pixels².
    function pool(map, pixels) {
      const { side, bytes, signed } = map;
      const pooled = new Uint8Array(pixels * pixels).fill(signed ? 128 : 0);
      const place = Int32Array.from({ length: side }, (_, i) => Math.floor((i * pixels) / side));
      for (let row = 0; row < side; row++) {
        const out = place[row] * pixels,
          from = row * side;
        for (let column = 0; column <= row; column++) {
          const byte = bytes[from + column],
            at = out + place[column];
          if (strength(byte, signed) > strength(pooled[at], signed)) pooled[at] = byte;
        }
      }
      return { ...map, side: pixels, bytes: pooled };
    }

    // Paint a causal map (side²) into a canvas; pixels above the diagonal stay transparent.
    function paint(canvas, map, { curve, skipFirst, pixels = 640, onDark = dark() }) {
      const asked = skipFirst ? withoutFirst(map) : map,
        shown = map.side > pixels ? pool(asked, pixels) : asked;
      const { side, bytes } = shown,
        colours = palette(map, curve, strongest(shown), onDark);
      const hidden = skipFirst && shown === asked && !map.second ? 1 : 0; // a column of the first key alone stays clear
      canvas.width = canvas.height = side;
      const context = canvas.getContext("2d"),
        image = context.createImageData(side, side);
      const packed = new Uint32Array(image.data.buffer);
      for (let row = 0; row < side; row++) {
        for (let column = hidden; column <= row; column++)
          packed[row * side + column] = colours[bytes[row * side + column]];
      }
      context.putImageData(image, 0, 0);
    }

    // The content of a colour bar: colours from one end to the other, and the numbers at both ends and in the middle.
    function scaleOf(map, { curve, skipFirst, onDark = dark() }) {
      const top = skipFirst ? map.rest : map.scale,
        low = map.signed ? -1 : 0;
      const colours = Array.from({ length: 33 }, (_, i) => `rgb(${colour(map, low + ((1 - low) * i) / 32, onDark)})`);
      const middle = map.signed ? "0" : digits(CURVES[curve].weight(0.5) * top);
      const least = curve === "log" ? `≤ ${digits(1e-4 * top)}` : "0";
      return { colours, numbers: [map.signed ? `−${digits(top)}` : least, middle, digits(top)] };
    }

    // The context of a canvas at the screen's resolution, measured in CSS pixels.
    function crisp(canvas, width, height, ratio = window.devicePixelRatio || 1) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      const context = canvas.getContext("2d");
      context.scale(ratio, ratio);
      return context;
    }

    // A token at a place, marks of whitespace dimmed.
    function token(context, text, x, y, align) {
      const widths = pieces(text).map(([part]) => context.measureText(part).width),
        alpha = context.globalAlpha;
      let at = align === "right" ? x - widths.reduce((sum, width) => sum + width, 0) : x;
      context.textAlign = "left";
      pieces(text).forEach(([part, isMark], index) => {
        context.globalAlpha = isMark ? alpha * 0.45 : alpha;
        context.fillText(part, at, y);
        at += widths[index];
      });
      context.globalAlpha = alpha;
    }

    const short = (text, most = 12) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
    const SMALLEST = 9; // pixels of a cell that a token can be written beside
    const STEPS = [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000];

    // How a map of `length` tokens fits into a width: the room its labels take, the side that is left, and its labels.
    function fit(width, texts, mono) {
      const context = document.createElement("canvas").getContext("2d"),
        roomy = (width - 40) / texts.length;
      context.font = `${Math.min(12, 0.85 * roomy)}px ${mono}`;
      const widest = Math.ceil(Math.max(...texts.map((text) => context.measureText(short(text)).width))) + 7;
      if ((width - widest) / texts.length >= SMALLEST)
        return { edge: widest, side: Math.floor(width - widest), written: true };
      return { edge: 34, side: Math.floor(width - 34), written: false };
    }

    // Queries to the left of a square, keys below it: tokens where there is room, else position numbers.
    function axes(context, { edge, side, written }, texts, { ink, mono, sans, at = null }) {
      const step = side / texts.length,
        place = (index) => (index + 0.5) * step;
      const apart = written ? 1 : (STEPS.find((every) => every * step >= 38) ?? texts.length);
      const label = (index, isChosen, x, y) => {
        context.globalAlpha = isChosen ? 1 : 0.72;
        context.font = `${isChosen ? "600 " : ""}${written ? `${Math.min(12, 0.85 * step)}px ${mono}` : `11px ${sans}`}`;
        token(context, written ? short(texts[index]) : String(index), x, y, "right");
      };
      context.fillStyle = context.strokeStyle = ink;
      context.textBaseline = "middle";
      const shown = texts.map((_, index) => index).filter((index) => index % apart === 0);
      for (const index of shown)
        label(index, index === at?.query, edge - 5, written ? place(index) : Math.max(6, place(index)));
      for (const index of shown) {
        context.save();
        context.translate(edge + place(index), side + 5);
        context.rotate(-Math.PI / 2);
        label(index, index === at?.key, 0, 0);
        context.restore();
      }
      context.globalAlpha = 0.35;
      for (const index of written ? [] : shown) {
        context.fillRect(edge - 4, place(index) - 0.5, 3, 1);
        context.fillRect(edge + place(index) - 0.5, side + 1, 1, 3);
      }
      context.globalAlpha = 1;
    }

    // Token-to-token lines: keys on the left, queries on the right; all but the chosen query's are faint.
    function threads(context, map, texts, side, { ink, mono, colours, skipFirst, query = null }) {
      const step = side / texts.length,
        edge = side * 0.3,
        y = (index) => (index + 0.5) * step;
      const most = magnitude(strongest(skipFirst ? withoutFirst(map) : map), map.signed) ** 2 || 1;
      context.font = `${Math.min(12, step * 0.85)}px ${mono}`;
      context.fillStyle = ink;
      context.textBaseline = "middle";
      texts.forEach((text, index) => {
        token(context, short(text, 14), edge - 5, y(index), "right");
        token(context, short(text, 14), side - edge + 5, y(index), "left");
      });
      context.lineWidth = Math.max(1, step * 0.12);
      for (let row = 0; row < map.side; row++) {
        for (let column = skipFirst ? 1 : 0; column <= row; column++) {
          const root = magnitude(map.bytes[row * map.side + column], map.signed),
            part = Math.min(1, (root * root) / most);
          context.globalAlpha = part * (query === null || query === row ? 1 : 0.12);
          if (context.globalAlpha < 0.02) continue;
          context.strokeStyle = map.signed ? colours[root < 0 ? "below" : "above"] : colours.plain;
          context.beginPath();
          context.moveTo(side - edge, y(row));
          context.bezierCurveTo(side * 0.55, y(row), side * 0.45, y(column), edge, y(column));
          context.stroke();
        }
      }
      context.globalAlpha = 1;
    }

    function colourBar(context, { colours, numbers }, right, top) {
      const width = 128,
        left = right - width,
        ramp = context.createLinearGradient(left, 0, right, 0);
      for (const [index, stop] of colours.entries()) ramp.addColorStop(index / (colours.length - 1), stop);
      context.fillStyle = ramp;
      context.fillRect(left, top, width, 9);
      context.fillStyle = "#3f3f46";
      numbers.forEach((number, index) => {
        context.textAlign = ["left", "center", "right"][index];
        context.fillText(number, left + (index * width) / 2, top + 18);
      });
    }

    const SIDES = "left: key (source)   right: query (destination)";
    const ON_PAPER = { plain: "#2a66cf", above: "#b5530f", below: "#2a66cf" }; // lines, as on a light page

    // A map as a square with its axes and its colour bar.
    function drawSquare(context, map, texts, { layout, width, ink, mono, sans, curve, skipFirst }) {
      const square = document.createElement("canvas"),
        middle = layout.side / 2;
      paint(square, map, { curve, skipFirst, pixels: 2 * layout.side, onDark: false });
      context.drawImage(square, layout.edge, 0, layout.side, layout.side);
      axes(context, layout, texts, { ink, mono, sans });
      context.font = `11px ${sans}`;
      context.save();
      colourBar(context, scaleOf(map, { curve, skipFirst, onDark: false }), width, 2);
      context.restore();
      context.fillStyle = ink;
      context.textAlign = "center";
      context.fillText("key (source)", layout.edge + middle, layout.side + layout.edge + 9);
      context.save();
      context.rotate(-Math.PI / 2);
      context.fillText("query (destination)", -middle, -10);
      context.restore();
    }

    // A map as lines between tokens.
    function drawLines(context, map, texts, { layout, ink, mono, sans, skipFirst }) {
      threads(context, map, texts, layout.side, { ink, mono, colours: ON_PAPER, skipFirst });
      context.font = `11px ${sans}`;
      context.textAlign = "center";
      context.fillText(SIDES, layout.side / 2, layout.side + 9);
    }

    // Maps side by side for a paper: titles, axes, colour bars, and their provenance below. figures: [{map, title}].
    // With `lines`, they are lines between tokens.
    async function picture(figures, texts, { title, measure, about, curve, skipFirst, lines, format = "png" }) {
      const sans = "system-ui, sans-serif",
        mono = "ui-monospace, 'DejaVu Sans Mono', monospace",
        ink = "#18181b";
      const width = figures.length > 1 ? 460 : 640,
        layout = lines ? { edge: 0, side: width } : fit(width, texts, mono),
        gap = 46,
        head = 62;
      const whole = figures.length * (width + gap) + 10;
      const probe = document.createElement("canvas").getContext("2d");
      probe.font = `10.5px ${sans}`;
      const foot = window.workbench.wrapped(probe, about, whole - 40),
        below = head + layout.side + layout.edge + 24;
      const context = window.workbench.sheet(format, whole, below + 14 * foot.length + 12);
      context.fillStyle = ink;
      context.textBaseline = "middle";
      context.font = `600 14px ${sans}`;
      context.fillText(title, 26, 20);
      figures.forEach(({ map, title: name }, index) => {
        context.save();
        context.translate(26 + index * (width + gap), head);
        (lines ? drawLines : drawSquare)(context, map, texts, { layout, width, ink, mono, sans, curve, skipFirst });
        context.textAlign = "right";
        const told = figures.length > 1 && !map.signed ? `attention of ${name}` : measure;
        context.fillText(told, width, lines ? -14 : 32);
        context.restore();
        context.font = `12px ${sans}`;
        context.textAlign = "left";
        context.fillText(name, 26 + index * (width + gap) + layout.edge, head - 14);
      });
      context.font = `10.5px ${sans}`;
      context.fillStyle = "#52525b";
      for (const [index, line] of foot.entries()) context.fillText(line, 26, below + 14 * index + 6);
      return context.blob();
    }

    return { paint, scaleOf, crisp, fit, axes, threads, picture, SIDES };
  })(),
);
