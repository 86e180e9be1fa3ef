// Functions of all views: numbers and tokens as text, data from the server, and the selection that all tabs share.
window.workbench = (() => {
  const dark = () => document.body.classList.contains("dark");

  const minus = (text) => text.replace(/^-/, "−");

  // A number with three significant digits; put the exact value into the title.
  function digits(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    return minus(size >= 1e-4 && size < 1e5 ? String(Number(value.toPrecision(3))) : value.toExponential(2));
  }

  // A score of a head with three decimals, so that those of one card can be compared; from ten on, such as a distance in
  // tokens, with one.
  function score(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    if (size > 0 && size < 5e-4) return value < 0 ? "> −0.001" : "< 0.001";
    return size < 1e5 ? minus(value.toFixed(size < 10 ? 3 : 1)) : digits(value);
  }

  // How to write the numbers of one column: all with as many decimals as give a large one, larger than nine tenths of
  // them, three significant digits, or none if all are whole. A number that would read as zero is written by `digits`.
  function column(values) {
    const sizes = values
      .map(Math.abs)
      .filter((size) => size > 0 && Number.isFinite(size))
      .sort((a, b) => a - b);
    if (!sizes.length) return digits;
    const large = sizes[Math.floor(0.9 * sizes.length)],
      decimals = Math.min(Math.max(2 - Math.floor(Math.log10(large)), 0), 6),
      places = sizes.every(Number.isInteger) ? 0 : decimals;
    return (value) => {
      const size = Math.abs(value ?? NaN);
      const isFixed = size < 1e5 && (size === 0 || size >= 0.5 * 10 ** -places);
      return isFixed ? minus(value.toFixed(places)) : digits(value);
    };
  }

  // A probability as a percentage: 53 %, 1.2 %, < 0.1 %. Put the exact value into the title.
  function percent(probability) {
    if (probability === null || probability === undefined || Number.isNaN(probability)) return "–";
    if (probability === 0 || probability === 1) return `${100 * probability} %`;
    if (probability < 0.001) return "< 0.1 %";
    if (probability > 0.995) return "> 99 %";
    return `${(100 * probability).toFixed(probability < 0.0995 ? 1 : 0)} %`;
  }

  // A token in pieces, marks of whitespace apart from what is printed: [[text, is a mark], …].
  const pieces = (text) =>
    text
      .split(/([▁⏎⇥]+)/)
      .filter(Boolean)
      .map((part) => [part, /^[▁⏎⇥]/.test(part)]);

  // A token as text nodes: marks of whitespace are dimmed, nothing is read as markup.
  function write(element, text) {
    element.replaceChildren(
      ...pieces(text).map(([part, isMark]) => {
        if (!isMark) return part;
        const mark = document.createElement("i");
        mark.textContent = part;
        return mark;
      }),
    );
  }

  const bus = new EventTarget();
  const say = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));
  const hear = (name, callback) => bus.addEventListener(name, (event) => callback(event.detail));

  const asked = new URL(location.href).searchParams;
  const number = (name) => (/^\d+$/.test(asked.get(name) ?? "") ? Number(asked.get(name)) : null);
  const selection = { token: number("token"), layer: number("layer"), head: number("head"), tuned: number("tuned") };
  // Tells the views what is selected, then Python ("selected"): when the promises that views put into `first` are kept,
  // such as a map that is painted. Of several selections meanwhile, Python hears the last.
  let selections = 0;
  function select(change, from = null) {
    if (Object.keys(change).every((key) => selection[key] === change[key])) return;
    Object.assign(selection, change);
    const now = ++selections,
      first = [];
    say("selection", { ...selection, from, first });
    Promise.all(first).then(() => now === selections && say("selected", { ...selection }));
  }
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

  // The page's address describes what is shown, so that a link reopens it. A run, or another branch of a text, makes an
  // entry in the browser's history (see history.js); a selection does not. The branch of a text ends with the next run,
  // but the page's control holds it until that run has written: `ended` is such a branch.
  let ended = "";
  function remember(names, values) {
    const address = new URL(location.href);
    names.forEach((name, index) => {
      const value = values[index];
      if (value === null || value === undefined) address.searchParams.delete(name);
      else address.searchParams.set(name, value);
    });
    const before = new URL(location.href).searchParams,
      after = address.searchParams;
    const differs = (name) => (before.get(name) ?? "") !== (after.get(name) ?? "");
    const runs = ["checkpoint", "prompt", "chat", "edits"].some(differs),
      isRun = runs && before.has("prompt");
    if (runs && !differs("branch")) ended = after.get("branch") ?? "";
    else if (names.includes("branch") && after.get("branch") !== ended) ended = "";
    if (ended) after.set("branch", "");
    if (isRun || (after.get("branch") && differs("branch"))) history.pushState({}, "", address);
    else history.replaceState(history.state, "", address);
    say("address", address);
  }
  const remembered = (name) => new URL(location.href).searchParams.get(name);
  hear("selection", ({ token, layer, head, tuned }) =>
    remember(["token", "layer", "head", "tuned"], [token, layer, head, tuned || null]),
  );

  // Opens a tab by its title.
  function turn(title) {
    [...document.querySelectorAll("#tabs [role=tab]")].find((button) => button.textContent.trim() === title)?.click();
  }
  const tab = () => document.querySelector("#tabs [role=tab][aria-selected=true]")?.textContent.trim() ?? null;

  // Plotly fits the plots in sight to a window that changes its size; those of a hidden tab are fitted when it is opened.
  const widths = new Map(),
    first = innerWidth;
  const fitted = () => widths.set(tab(), innerWidth);
  window.addEventListener("resize", fitted);
  hear("tab", () => {
    const before = widths.get(tab()) ?? first;
    fitted();
    if (before !== innerWidth) requestAnimationFrame(() => window.dispatchEvent(new Event("resize")));
  });

  // Plotly names the gradient of a colour bar and the clips of a plot by the page's whole address, where they are no longer
  // found when the address changes: the bar would be blank. A bare fragment is of this page whatever its address.
  const local = (text) => text.replace(/url\(["']?[^"')#]*(#[^"')]+)["']?\)/, "url($1)");
  hear("address", () => {
    for (const { _context } of document.querySelectorAll(".js-plotly-plot")) if (_context) _context._baseUrl = ""; // of later drawings
    for (const part of document.querySelectorAll(".js-plotly-plot [style*='url(']"))
      part.style.fill = local(part.style.fill);
    for (const part of document.querySelectorAll(".js-plotly-plot [clip-path]"))
      part.setAttribute("clip-path", local(part.getAttribute("clip-path")));
  });

  // Adds a line to the stack of interventions, such as "L2H5 off".
  const intervene = (line) => say("intervene", line);
  // Opens the box for typed interventions with a line to complete; the cursor stands between its two parts.
  const draft = (before, after) => say("draft", { before, after });

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

  async function answered(reply) {
    if (reply.ok) return reply;
    const problem = await reply.json().catch(() => ({ detail: `the server answered ${reply.status}` }));
    throw new Error(typeof problem.detail === "string" ? problem.detail : "the server did not understand the request");
  }

  async function get(path) {
    return answered(await fetch(new URL(path, document.baseURI)));
  }

  async function post(path, body) {
    const headers = { "Content-Type": "application/json" };
    return answered(
      await fetch(new URL(path, document.baseURI), { method: "POST", headers, body: JSON.stringify(body) }),
    );
  }

  function save(blob, name) {
    const link = document.createElement("a");
    link.download = name;
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  async function download(path, body = null) {
    const reply = await (body ? post(path, body) : get(path));
    const name = /filename="([^"]+)"/.exec(reply.headers.get("Content-Disposition") ?? "")?.[1] ?? "download";
    save(await reply.blob(), name);
  }

  // Maps of bytes, one after another; then their first columns without the first key, or null (see pixels.py).
  async function maps(path, body) {
    const reply = await post(path, body);
    const number = (name) => Number(reply.headers.get(name)),
      side = number("X-Side"),
      follows = number("X-Second");
    const all = new Uint8Array(await reply.arrayBuffer()),
      end = (all.length * side) / (side + follows);
    const parts = { bytes: all.subarray(0, end), second: follows ? all.subarray(end) : null };
    return { ...parts, side, scale: number("X-Scale"), rest: number("X-Rest"), signed: number("X-Signed") === 1 };
  }

  // One map of a response that holds several.
  function mapAt(maps, place) {
    const part = (bytes, size) => bytes?.subarray(place * size, (place + 1) * size) ?? null;
    return { ...maps, bytes: part(maps.bytes, maps.side ** 2), second: part(maps.second, maps.side) };
  }

  // The exact numbers of one row and one column of a map.
  async function cells({ query, key, ...body }) {
    const numbers = new Float32Array(await (await post(`data/attention/cells/${query}/${key}`, body)).arrayBuffer());
    return { row: numbers.subarray(0, numbers.length / 2), column: numbers.subarray(numbers.length / 2) };
  }

  // The value that this browser stores under a key, or `fallback`. area: "localStorage" or "sessionStorage".
  function stored(area, key, fallback) {
    try {
      return JSON.parse(window[area].getItem(key)) ?? fallback;
    } catch {
      return fallback; // some browsers, such as private windows, refuse access
    }
  }

  // Stores a value, as JSON; a browser that refuses it forgets the value.
  function store(area, key, value) {
    try {
      window[area].setItem(key, JSON.stringify(value));
    } catch (error) {
      console.info(`not stored: ${error.message}`);
    }
  }

  return {
    digits,
    score,
    column,
    percent,
    pieces,
    write,
    hear,
    say,
    select,
    painted,
    selection,
    turn,
    tab,
    intervene,
    draft,
    remember,
    remembered,
    get,
    post,
    save,
    download,
    maps,
    mapAt,
    cells,
    dark,
    stored,
    store,
  };
})();
