// What the views share: colours, tokens as text, data from the server, and the selection that travels between tabs.
window.workbench = (() => {
  const CIVIDIS = ["00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838"];
  const rgb = (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const mix = (a, b, t) => a.map((value, i) => Math.round(value + (b[i] - value) * t));
  const dark = () => document.body.classList.contains("dark");

  // t in [0, 1] -> [r, g, b]
  function sequential(t) {
    const at = Math.min(Math.max(t, 0), 1) * (CIVIDIS.length - 1);
    const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
    return mix(rgb(CIVIDIS[low]), rgb(CIVIDIS[low + 1]), at - low);
  }

  // t in [-1, 1] -> [r, g, b]: blue below zero, orange above, the page's own grey at zero
  function diverging(t) {
    const middle = dark() ? [38, 38, 42] : [244, 244, 245];
    const end = t < 0 ? rgb(dark() ? "60a5fa" : "1d4ed8") : rgb(dark() ? "fb923c" : "c2410c");
    return mix(middle, end, Math.min(Math.abs(t), 1));
  }

  // A byte holds the square root of a magnitude, so that small weights keep three digits.
  // Unsigned: (byte / 255)²; signed: sign · ((byte − 128) / 127)². Both times the full scale.
  const magnitude = (byte, signed) => (signed ? (byte - 128) / 127 : byte / 255);
  const decode = (byte, map) => {
    const root = magnitude(byte, map.signed);
    return Math.sign(root) * root * root * map.scale;
  };

  const CURVES = {
    linear: (weight) => weight,
    sqrt: (weight) => Math.sqrt(weight),
    log: (weight) => (weight > 0 ? Math.max(0, 1 + Math.log10(weight) / 4) : 0),
  };

  // The 256 colours of a map as packed pixels; `top` is the byte shown at full strength.
  function palette(map, curve, top) {
    const full = magnitude(top, map.signed) ** 2 || 1;
    const packed = new Uint32Array(256);
    for (let byte = 0; byte < 256; byte++) {
      const root = magnitude(byte, map.signed);
      const shade = CURVES[curve](Math.min((root * root) / full, 1));
      const [r, g, b] = map.signed ? diverging(Math.sign(root) * shade) : sequential(shade);
      packed[byte] = 0xff000000 | (b << 16) | (g << 8) | r;
    }
    return packed;
  }

  const strength = (byte, signed) => (signed ? Math.abs(byte - 128) : byte);

  // The strongest byte of a map, the first column left out when it is hidden.
  function strongest(map, skipFirst) {
    let best = 0;
    for (let row = 0; row < map.side; row++) {
      for (let column = skipFirst ? 1 : 0; column <= row; column++) {
        best = Math.max(best, strength(map.bytes[row * map.side + column], map.signed));
      }
    }
    return map.signed ? 128 + best : best;
  }

  // Strongest byte under each screen pixel, so that thin lines survive shrinking: side² -> pixels².
  function pool(map, pixels) {
    const { side, bytes, signed } = map;
    const pooled = new Uint8Array(pixels * pixels).fill(signed ? 128 : 0);
    const place = Int32Array.from({ length: side }, (_, i) => Math.floor((i * pixels) / side));
    for (let row = 0; row < side; row++) {
      const out = place[row] * pixels, from = row * side;
      for (let column = 0; column <= row; column++) {
        const byte = bytes[from + column], at = out + place[column];
        if (strength(byte, signed) > strength(pooled[at], signed)) pooled[at] = byte;
      }
    }
    return { ...map, side: pixels, bytes: pooled };
  }

  // Paint a causal map (side²) into a canvas; what lies above the diagonal stays clear.
  function paint(canvas, map, { curve = "sqrt", skipFirst = false, pixels = 640, top = null } = {}) {
    top = top ?? strongest(map, skipFirst);
    const shown = map.side > pixels ? pool(map, pixels) : map;
    const { side, bytes } = shown, colours = palette(map, curve, top);
    const hidden = skipFirst ? Math.max(1, Math.round(side / map.side)) : 0;
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d"), image = context.createImageData(side, side);
    const packed = new Uint32Array(image.data.buffer);
    for (let row = 0; row < side; row++) {
      for (let column = hidden; column <= row; column++) packed[row * side + column] = colours[bytes[row * side + column]];
    }
    context.putImageData(image, 0, 0);
  }

  // One number as people read it: three significant digits, the exact value kept for the title.
  function digits(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(3))) : value.toExponential(2);
  }

  // A token as text nodes: marks of whitespace are dimmed, nothing is read as markup.
  function write(element, text) {
    element.replaceChildren();
    for (const part of text.split(/([▁⏎⇥]+)/)) {
      if (!part) continue;
      if (/^[▁⏎⇥]+$/.test(part)) {
        const mark = document.createElement("i");
        mark.textContent = part;
        element.append(mark);
      } else element.append(part);
    }
  }

  const bus = new EventTarget();
  const say = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));
  const hear = (name, callback) => bus.addEventListener(name, (event) => callback(event.detail));

  const asked = new URL(location.href).searchParams;
  const number = (name) => (/^\d+$/.test(asked.get(name) ?? "") ? Number(asked.get(name)) : null);
  const selection = { token: number("token"), layer: number("layer"), head: number("head") };
  function select(change, from = null) {
    if (Object.keys(change).every((key) => selection[key] === change[key])) return;
    Object.assign(selection, change);
    say("selection", { ...selection, from });
  }

  // The page's address says what is shown, so that a link reopens it.
  function remember(names, values) {
    const address = new URL(location.href);
    names.forEach((name, index) => {
      const value = values[index];
      if (value === null || value === undefined) address.searchParams.delete(name);
      else address.searchParams.set(name, value);
    });
    history.replaceState(history.state, "", address);
  }
  hear("selection", ({ token, layer, head }) => remember(["token", "layer", "head"], [token, layer, head]));

  // Gradio's tabs do not move with the arrow keys.
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const tab = event.target.closest?.("#tabs [role=tab]");
    if (!step || !tab) return;
    const all = [...tab.parentElement.querySelectorAll("[role=tab]")];
    const next = all[(all.indexOf(tab) + step + all.length) % all.length];
    next.focus();
    next.click();
  });

  async function post(path, body) {
    const reply = await fetch(new URL(path, document.baseURI), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    if (reply.ok) return reply;
    const problem = await reply.json().catch(() => ({ detail: `the server answered ${reply.status}` }));
    throw new Error(typeof problem.detail === "string" ? problem.detail : "the request was not understood");
  }

  async function download(path, body = null) {
    const reply = body ? await post(path, body) : await fetch(new URL(path, document.baseURI));
    if (!reply.ok) throw new Error((await reply.json()).detail);
    const link = document.createElement("a");
    link.download = /filename="([^"]+)"/.exec(reply.headers.get("Content-Disposition") ?? "")?.[1] ?? "download";
    link.href = URL.createObjectURL(await reply.blob());
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // A map of bytes: { bytes, side, scale, signed }, `count` of them one after another.
  async function maps(path, body) {
    const reply = await post(path, body);
    const bytes = new Uint8Array(await reply.arrayBuffer());
    const number = (name) => Number(reply.headers.get(name));
    return { bytes, side: number("X-Side"), scale: number("X-Scale"), signed: number("X-Signed") === 1 };
  }

  return { sequential, diverging, decode, strongest, paint, digits, write, hear, say, select, selection, remember, post, download, maps, dark };
})();
