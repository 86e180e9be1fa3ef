// The attention view: the map of one head, or the maps A, B and B − A of two checkpoints.
// value: {checkpoint, other, prompt, run, edits, change, texts, layers, heads, best, title, about, weigh, note}
//   one map when `other` is null; A, B and B − A when it is a checkpoint;
//   `best` is the head that is opened if none is selected; of two checkpoints, the one that changed most;
//   `weigh` is the kind of weight of the cells, on a page without a server, where it cannot be changed.
// The head is the one that is selected on the page (see rail.js). The view sends the numbers of the chosen cell as
// "reading" (see head_card.js). Colours come from bytes; numbers that are shown come from the server (wb.cells).
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const root = find(".attention"),
  panels = find(".panels"),
  problem = find(".problem");
const control = {
  combine: find(".combine"),
  weigh: find(".weigh"),
  curve: find(".curve"),
  first: find(".first"),
  lines: find(".lines"),
};
let value = {},
  planes = [],
  head = { layer: 0, head: 0 },
  at = null,
  locked = false,
  wanted = 0;
let seen = { token: null, layer: null, head: null }; // of what is selected on the page, what was followed here

const size = () => value.texts?.length ?? 0;
const threaded = () => control.lines.checked && !control.lines.disabled;
const shades = () => ({ curve: control.curve.value, skipFirst: control.first.checked });
const name = (spot) =>
  control.combine.value === "one" ? `L${spot.layer}H${spot.head}` : `L${spot.layer} ${control.combine.value}`;
const ink = () => {
  const style = getComputedStyle(root),
    get = (variable) => style.getPropertyValue(variable);
  const colours = { plain: get("--color-accent"), above: get("--wb-above"), below: get("--wb-below") };
  return { ink: style.color, sans: get("--font"), mono: get("--font-mono"), colours };
};
const make = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  if (text) wb.write(made, text);
  return made;
};
const differs = () => (value.other ? "B − A" : "edited − unedited");
// The request to the server for the map of each plane.
const asks = () => {
  const shown = {
    checkpoint: value.checkpoint,
    other: null,
    prompt: value.prompt,
    edits: value.edits ?? "",
    change: value.change ?? false,
    ...head,
    combine: control.combine.value,
    weigh: control.weigh.value,
  };
  return value.other ? [shown, { ...shown, checkpoint: value.other }, { ...shown, other: value.other }] : [shown];
};

async function guarded(work) {
  const ticket = ++wanted;
  root.classList.add("busy");
  try {
    await work(() => ticket === wanted);
    if (ticket === wanted) problem.textContent = "";
  } catch (error) {
    if (ticket === wanted) problem.textContent = error.message;
  } finally {
    if (ticket === wanted) root.classList.remove("busy");
  }
}

function makePlane(title) {
  const panel = make("div", "panel"),
    frame = make("div", "frame"),
    plane = make("div", "plane"),
    heading = make("p", "which");
  heading.textContent = title;
  const parts = {
    axes: make("canvas", "axes"),
    map: make("canvas", "map"),
    threads: make("canvas", "threads"),
    row: make("div", "rule row"),
    column: make("div", "rule column"),
    scale: make("div", "scale"),
  };
  plane.tabIndex = 0;
  plane.setAttribute("role", "application");
  plane.setAttribute("aria-label", `attention map ${title}: arrows move query and key`);
  plane.append(parts.map, parts.threads, parts.row, parts.column, parts.scale);
  frame.append(parts.axes, plane);
  const axis = make("div", "axis");
  panel.append(heading, frame, axis);
  panels.append(panel);
  plane.addEventListener("mousemove", (event) => !locked && move(cellUnder(plane, event)));
  plane.addEventListener("mouseleave", () => !locked && move(null));
  plane.addEventListener("click", (event) => lock(cellUnder(plane, event)));
  plane.addEventListener("keydown", keys);
  return { title, frame, plane, parts, axis, map: null, layout: null };
}

// Measures the room for the axes' labels beside each map; called whenever the width changes.
function layOut() {
  for (const plane of planes) {
    const width = plane.frame.clientWidth;
    if (!width || !size() || plane.layout?.width === width) continue;
    plane.layout = { width, ...wb.fit(width, value.texts, ink().mono) };
    const { edge, side } = plane.layout;
    Object.assign(plane.plane.style, { left: `${edge}px`, width: `${side}px`, height: `${side}px` });
    Object.assign(plane.parts.axes.style, { width: `${width}px`, height: `${side + edge}px` });
    plane.frame.style.height = `${side + edge}px`;
    label(plane);
    thread(plane);
  }
}
function fit() {
  layOut();
  keepUp();
}
new ResizeObserver(() => requestAnimationFrame(fit)).observe(panels);

function label({ parts, layout }) {
  if (!layout) return;
  const context = wb.crisp(parts.axes, layout.width, layout.side + layout.edge);
  if (!threaded()) wb.axes(context, layout, value.texts, { ...ink(), at });
}

function thread({ parts, layout, map }) {
  if (!layout || !map || !threaded()) {
    parts.threads.width = 0;
    return;
  }
  const context = wb.crisp(parts.threads, layout.side, layout.side);
  wb.threads(context, map, value.texts, layout.side, { ...ink(), ...shades(), query: at?.query ?? null });
}

function cellUnder(plane, event) {
  const box = plane.getBoundingClientRect();
  const place = (offset, length) => Math.min(size() - 1, Math.max(0, Math.floor((offset / length) * size())));
  const row = place(event.clientY - box.top, box.height),
    right = event.clientX - box.left > box.width / 2;
  if (!threaded()) return { query: row, key: place(event.clientX - box.left, box.width) };
  return right
    ? { query: row, key: Math.min(row, at?.key ?? row) }
    : { query: Math.max(row, at?.query ?? size() - 1), key: row };
}

function lock(cell) {
  locked = !(locked && at && cell.query === at.query && cell.key === at.key);
  root.classList.toggle("locked", locked);
  move(cell);
  if (locked) wb.select({ token: cell.query }, "attention");
}

function unlock() {
  locked = false;
  root.classList.remove("locked");
  move(null);
}

function hold(token) {
  if (token === null || token >= size()) return;
  locked = true;
  root.classList.add("locked");
  move({ query: token, key: Math.min(at?.key ?? token, token) });
}

const MOVES = {
  ArrowUp: ({ query, key }) => ({ query: query - 1, key }),
  ArrowDown: ({ query, key }) => ({ query: query + 1, key }),
  ArrowLeft: ({ query, key }) => ({ query, key: key - 1 }),
  ArrowRight: ({ query, key }) => ({ query, key: key + 1 }),
  Home: ({ query }) => ({ query, key: 0 }),
  End: ({ query }) => ({ query, key: query }),
};

function keys(event) {
  if (event.key in MOVES) {
    const { query, key } = MOVES[event.key](at ?? { query: size() - 1, key: 0 }),
      row = Math.min(size() - 1, Math.max(0, query));
    move({ query: row, key: Math.min(row, Math.max(0, key)) });
  } else if (event.key === "[" || event.key === "]") wb.say("neighbour", event.key === "]" ? 1 : -1);
  else if ((event.key === "Enter" || event.key === " ") && at) lock(at);
  else if (event.key === "Escape") unlock();
  else return;
  event.preventDefault();
}

let scheduled = false;
function move(cell) {
  at = cell;
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    follow();
  });
}

// Moves the rules and the axes' labels with the cell at once. Its numbers are shown when the server has answered.
function follow() {
  for (const plane of planes) {
    rules(plane.parts);
    label(plane);
    if (threaded()) thread(plane);
  }
  if (!at) wb.say("weights", null);
  read();
}

function rules({ row, column }) {
  for (const [rule, index, edge, extent] of [
    [row, at?.query, "top", "height"],
    [column, at?.key, "left", "width"],
  ]) {
    rule.style.display = index === undefined ? "none" : "block";
    rule.style[edge] = `${(100 * index) / size()}%`;
    rule.style[extent] = `${Math.max(100 / size(), 0.2)}%`;
  }
}

// One request at a time. If the cell or the maps have changed when it is answered, a new request follows.
let reading = false;
async function read() {
  if (reading || !planes.at(-1)?.map) return;
  reading = true;
  try {
    for (let asked = null, shown = null; asked !== at || shown !== planes.at(-1).map; ) {
      [asked, shown] = [at, planes.at(-1).map];
      const cell = asked ?? { query: size() - 1, key: 0 };
      const found = await Promise.all(
        asks().map((ask) => wb.cells({ ...ask, query: cell.query, key: Math.min(cell.key, cell.query) })),
      );
      if (asked === at && shown === planes.at(-1).map) numbers(asked, found);
    }
  } catch (error) {
    problem.textContent = error.message;
  }
  reading = false;
}

function numbers(cell, found) {
  const { row, column } = found.at(-1),
    query = cell?.query ?? size() - 1,
    { map } = planes.at(-1);
  const from = control.first.checked ? 1 : 0,
    looks = Array.from(row, (weight, key) => (key > query || key < from ? null : weight));
  const looked =
    cell && cell.key <= query ? Array.from(column, (weight, place) => (place < cell.key ? null : weight)) : null;
  const weights = planes.map(({ title }, index) => [
    planes.length > 1 ? title : "",
    cell ? found[index].row[cell.key] : null,
  ]);
  const { texts } = value,
    { signed } = map;
  wb.say("reading", {
    from: element,
    name: name(head),
    texts,
    signed,
    difference: signed ? differs() : "",
    cell,
    query,
    weights,
    looks,
    looked,
    unit: unit(),
  });
  if (!cell) return;
  const title = `${name(head)}: ${signed ? `${differs()}, ` : ""}what token ${query} attends to`,
    high = Math.max(...looks.map(Math.abs)) || 1;
  wb.say("weights", { values: looks, signed, high, unit: "", share: unit() === "attention" && !signed, query, title });
}

// A sentence on how to read the maps.
const TOGETHER = { one: "", mean: "Mean over the layer’s heads. ", max: "Maximum over the layer’s heads. " };
const MOVED = "Size of the vector that each key moves into the query, ‖α v W_O‖.";
const LOOKS = "Each row sums to 1: what the query token attends to.";
const MOST = "Each cell is the largest weight of any head; a row may sum to more than 1.";
function note() {
  const combine = control.combine.value,
    moves = control.weigh.value === "value";
  const cells = moves ? MOVED : combine === "max" ? MOST : LOOKS;
  if (value.change && value.edits && !value.other)
    return `Edited minus unedited: orange where the edited model ${moves ? "moves" : "attends"} more, blue where less.`;
  const colours = value.other ? ` B − A is orange where B ${moves ? "moves" : "attends"} more, blue where A does.` : "";
  return TOGETHER[combine] + cells + colours;
}

const unit = () => (control.weigh.value === "value" ? "‖α v W_O‖" : "attention");
const AXES = "→ key (source)   ↓ query (destination)";
function repaint() {
  root.classList.toggle("threaded", threaded());
  for (const { axis } of planes) axis.textContent = threaded() ? wb.SIDES : AXES;
  for (const plane of planes) {
    if (!plane.map) continue;
    wb.paint(plane.parts.map, plane.map, shades());
    plane.plane.classList.toggle("smooth", size() > 300);
    const { colours, numbers } = wb.scaleOf(plane.map, shades()),
      ramp = make("span", "ramp");
    ramp.style.background = `linear-gradient(to right, ${colours})`;
    plane.parts.scale.replaceChildren(ramp, ...numbers.map((text) => make("span", "", text)));
    thread(plane);
  }
  layOut();
  follow();
}

async function load(next, current) {
  head = next;
  wb.say("opened", { ...head, combine: control.combine.value });
  const found = await Promise.all(asks().map((ask) => wb.maps("data/attention/map", ask)));
  if (!current()) return;
  for (const [index, plane] of planes.entries()) plane.map = found[index];
  title();
  repaint();
  element.dataset.drawn = name(head);
  renew();
}

const open = (next) => guarded((current) => load(next, current));

function title() {
  find(".name").replaceChildren(name(head));
  find(".note").textContent = note();
}

function draw() {
  const before = value;
  value = props.value ?? {};
  if (!size()) return;
  panels.replaceChildren();
  root.classList.toggle("pair", Boolean(value.other));
  planes = (value.other ? ["A", "B", "B − A"] : [value.title ?? ""]).map(makePlane);
  control.lines.disabled = size() > 64;
  if (value.weigh) control.weigh.value = value.weigh;
  if (!locked || JSON.stringify(value.prompt) !== JSON.stringify(before.prompt) || size() !== before.texts?.length)
    unlock();
  if (wb.selection.token !== seen.token) hold(wb.selection.token);
  seen = { ...wb.selection };
  const first = within(wb.selection.layer ?? value.best?.layer ?? 0, wb.selection.head ?? value.best?.head ?? 0);
  open(first);
  const { best } = value,
    isOffered = Boolean(value.other && best);
  find(".most").hidden = !isOffered;
  if (isOffered) find(".most").textContent = `Most changed: L${best.layer}H${best.head}`;
  if (!isOffered && (wb.selection.layer === null || wb.selection.head === null)) wb.select(first, "attention");
}

const within = (layer, index) => ({ layer: Math.min(layer, value.layers - 1), head: Math.min(index, value.heads - 1) });

// Shows and locks what was selected elsewhere: at once if the view is visible, else when it becomes visible. Returns a
// promise if another map is painted for it.
function keepUp(from = null) {
  if (!size() || !element.offsetParent) return;
  const { layer, head: index, token } = wb.selection,
    before = seen;
  seen = { ...wb.selection };
  if (from === "attention") return;
  if (token !== before.token) hold(token);
  if (layer === null || index === null || (layer === before.layer && index === before.head)) return;
  const next = within(layer, index);
  if (next.layer !== head.layer || next.head !== head.head)
    return guarded((current) => load(next, current).then(wb.painted));
}

find(".most").addEventListener("click", () => wb.select({ ...value.best }, element));

// The thumbnails get the same colours (see rail.js), also those that are drawn later.
function sayShades() {
  wb.shades = shades();
  wb.say("shades", wb.shades);
}

// The controls' settings are kept in the page's address.
const view = () => element.closest("[id]:not([id^='html-'])")?.id ?? ""; // not Gradio's own, which is another on every page
for (const [key, box] of Object.entries(control)) {
  const given = wb.remembered(`${view()}_${key}`),
    isCheck = box.type === "checkbox",
    plain = isCheck ? "false" : box.options[0].value;
  if (isCheck) box.checked = given === "true";
  else if ([...box.options].some((option) => option.value === given)) box.value = given;
  const act =
    { lines: repaint }[key] ??
    (() => {
      sayShades();
      return open(head);
    });
  box.addEventListener("change", () => {
    const now = String(isCheck ? box.checked : box.value);
    wb.remember([`${view()}_${key}`], [now === plain ? null : now]);
    act();
  });
}

sayShades();

const offer = async () => (await wb.post("data/attention/offer", asks().at(-1))).json();
const { renew } = wb.offers(element, {
  offer,
  fail: (text) => {
    problem.textContent = text;
  },
  more: {
    ...(!window.standalone && { page: () => wb.download("data/attention/page", asks().at(-1)) }),
    png: () => savePicture("png"),
    svg: () => savePicture("svg"),
  },
});

async function savePicture(format) {
  const measure = planes.at(-1).map.signed
    ? differs()
    : control.weigh.value === "value"
      ? "‖α v W_O‖"
      : "attention weight";
  const told = value.about ? { about: value.about, file: `attention_${name(head)}` } : await offer();
  const picture = await wb.picture(planes, value.texts, {
    title: `${name(head)}: ${measure}`,
    measure,
    about: told.about,
    format,
    lines: threaded(),
    ...shades(),
  });
  wb.save(picture, `${told.file.replace(" ", "_")}.${format}`);
}
if (window.standalone) find(".weighing").hidden = true;

wb.hear("hover", (index) => {
  if (locked || !element.offsetParent) return;
  move(index === null ? null : { query: index, key: index });
});
wb.hear("selection", ({ from, first }) => first.push(keepUp(from)));
watch("value", draw);
draw();
