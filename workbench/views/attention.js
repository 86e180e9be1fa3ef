// The attention view. value: {checkpoint, other, prompt, texts, layers, heads, orders, notes, best, title, about, weigh}
//   one map when `other` is null; A, B and A−B when it is a checkpoint. orders: {name: [score of head 0 of layer 0, …]};
//   notes: {name: what the score means};
//   `weigh` is what the cells are on a page that cannot ask for others.
// Colours come from bytes; every number that is written comes from the server exactly (wb.cells).
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const root = find(".attention"),
  thumbs = find(".heads"),
  panels = find(".panels"),
  problem = find(".problem");
const control = {
  order: find(".order"),
  combine: find(".combine"),
  weigh: find(".weigh"),
  curve: find(".curve"),
  first: find(".first"),
  lines: find(".lines"),
};
let value = {},
  planes = [],
  pictures = null,
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
const number = (className, exact) => {
  const made = make("span", className, wb.digits(exact));
  made.title = exact;
  return made;
};

// Which map each plane shows, as a question to the server.
const asks = () => {
  const shown = {
    checkpoint: value.checkpoint,
    other: null,
    prompt: value.prompt,
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

// Room for the axes' labels beside each map; again whenever the width changes.
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
  } else if (event.key === "[" || event.key === "]") neighbour(event.key === "]" ? 1 : -1);
  else if ((event.key === "Enter" || event.key === " ") && at) lock(at);
  else if (event.key === "Escape") unlock();
  else return;
  event.preventDefault();
}

function neighbour(step) {
  const order = [...thumbs.querySelectorAll(".thumb")];
  const here = order.findIndex((thumb) => thumb.tabIndex === 0);
  const next = order[(here + step + order.length) % order.length];
  open({ layer: Number(next.dataset.layer), head: Number(next.dataset.head) });
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

// What follows the cell at once: the rules and the axes' labels. Its numbers come when the server has answered.
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

// One question at a time; when its answer is there, the cell and the maps may be others, and it is asked again.
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
    seen = Array.from(row, (weight, key) => (key > query || key < from ? null : weight));
  for (const part of element.querySelectorAll(".to, .by, .cell")) part.replaceChildren();
  const who = cell ? `token ${query}` : `token ${query}, the last,`;
  ranking(find(".to"), map.signed ? `A − B where ${who} looks` : `${who} attends to`, seen);
  if (!cell) return;
  const title = `${name(head)}: ${map.signed ? "A − B, " : ""}what token ${query} attends to`,
    high = Math.max(...seen.map(Math.abs)) || 1;
  wb.say("weights", { values: seen, signed: map.signed, high, unit: "", query, title });
  describe(cell, found);
  if (cell.key <= query)
    ranking(
      find(".by"),
      `token ${cell.key} is attended to by`,
      Array.from(column, (weight, place) => (place < cell.key ? null : weight)),
    );
}

function describe({ query, key }, found) {
  const line = find(".cell"),
    token = (index) => make("b", "", value.texts[index]);
  line.append(`query ${query} `, token(query), ` → key ${key} `, token(key), " ");
  if (key > query) return line.append("masked: the key comes later");
  for (const [index, { title }] of planes.entries()) {
    line.append(planes.length > 1 ? `${title} ` : "", number("weight", found[index].row[key]));
  }
}

function ranking(list, title, weights) {
  const heading = make("h2", "");
  heading.textContent = title;
  list.append(heading);
  const best = weights
    .map((weight, index) => [weight, index])
    .filter(([weight]) => weight)
    .sort((a, b) => Math.abs(b[0]) - Math.abs(a[0]))
    .slice(0, 6);
  const signed = planes.at(-1).map.signed,
    whole = signed ? 50 : 100; // per cent of the column; bars of signed numbers begin at its middle
  for (const [weight, index] of best) {
    const line = make("p", ""),
      bar = make("span", `bar ${signed ? (weight < 0 ? "below" : "above") : ""}`),
      width = (whole * Math.abs(weight)) / Math.abs(best[0][0]);
    bar.style.width = `${width}%`;
    bar.style.marginLeft = `${signed ? 50 - (weight < 0 ? width : 0) : 0}%`;
    line.append(make("span", "index", String(index)), make("b", "", value.texts[index]), bar, number("number", weight));
    list.append(line);
  }
}

// How to read what is drawn.
const TOGETHER = { one: "", mean: "Mean over the layer’s heads. ", max: "Maximum over the layer’s heads. " };
const MOVED = "Size of the vector that each key moves into the query, ‖α v W_O‖.";
const LOOKS = "Each row sums to 1: where the query token looks.";
const MOST = "Each cell is the largest weight of any head; a row may sum to more than 1.";
function note() {
  const combine = control.combine.value,
    moves = control.weigh.value === "value";
  const cells = moves ? MOVED : combine === "max" ? MOST : LOOKS;
  const colours = value.other ? ` A − B is orange where A ${moves ? "moves" : "looks"} more, blue where B does.` : "";
  return TOGETHER[combine] + cells + colours;
}

const AXES = "→ key (source)   ↓ query (destination)";
const SIDES = "left: key (source)   right: query (destination)";
function repaint() {
  root.classList.toggle("threaded", threaded());
  for (const { axis } of planes) axis.textContent = threaded() ? SIDES : AXES;
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
  if (!pictures) {
    const found = await wb.maps("data/attention/thumbnails", asks().at(-1));
    if (!current()) return;
    pictures = found;
    layThumbs();
  }
  for (const thumb of thumbs.querySelectorAll(".thumb")) {
    const layer = Number(thumb.dataset.layer) === head.layer,
      here = layer && Number(thumb.dataset.head) === head.head;
    thumb.setAttribute("aria-selected", String(here || (layer && control.combine.value !== "one")));
    thumb.tabIndex = here ? 0 : -1;
  }
  const found = await Promise.all(asks().map((ask) => wb.maps("data/attention/map", ask)));
  if (!current()) return;
  for (const [index, plane] of planes.entries()) plane.map = found[index];
  title();
  repaint();
  element.dataset.drawn = name(head);
  renew();
}

// The rest of the page hears of it when it is drawn: that costs the server time.
async function open(next, tell = true) {
  await guarded((current) => load(next, current));
  if (tell && next === head) wb.select({ layer: next.layer, head: next.head }, "attention");
}

function title() {
  const scores = make("small", ""),
    place = head.layer * value.heads + head.head;
  for (const [order, all] of Object.entries(control.combine.value === "one" ? (value.orders ?? {}) : {})) {
    const label = make("span", "", `${order} `);
    label.title = value.notes?.[order] ?? "";
    scores.append(scores.childNodes.length ? " · " : "", label, number("", all[place]));
  }
  find(".name").replaceChildren(name(head), scores);
  find(".note").textContent = note();
}

function layThumbs() {
  if (!pictures) return;
  const scores = value.orders?.[control.order.value],
    places = Array.from({ length: value.layers * value.heads }, (_, place) => place);
  if (scores) places.sort((a, b) => (scores[b] ?? -Infinity) - (scores[a] ?? -Infinity));
  thumbs.style.setProperty("--columns", scores && value.heads < 8 ? 6 : value.heads);
  const made = places.map((place) => {
    const spot = { layer: Math.floor(place / value.heads), head: place % value.heads };
    const thumb = make("button", "thumb"),
      canvas = make("canvas", ""),
      label = make("span", "");
    thumb.type = "button";
    thumb.setAttribute("role", "option");
    Object.assign(thumb.dataset, spot);
    wb.paint(canvas, wb.mapAt(pictures, place), { ...shades(), pixels: 64 });
    label.append(`L${spot.layer}H${spot.head} `, scores ? number("score", scores[place]) : "");
    thumb.append(canvas, label);
    return thumb;
  });
  thumbs.replaceChildren(...made);
}

function draw() {
  const before = value;
  value = props.value ?? {};
  if (!size()) return;
  pictures = null;
  panels.replaceChildren();
  root.classList.toggle("pair", Boolean(value.other));
  root.classList.toggle("stacked", Boolean(value.other) || value.heads > 12);
  planes = (value.other ? ["A", "B", "A − B"] : [value.title ?? ""]).map(makePlane);
  const orders = Object.keys(value.orders ?? {}),
    order = control.order.value === "place" ? wb.remembered(`${view()}_order`) : control.order.value;
  control.order.replaceChildren(new Option("layer, head", "place"), ...orders.map((each) => new Option(each, each)));
  if (orders.includes(order)) control.order.value = order;
  control.lines.disabled = size() > 64;
  if (value.weigh) control.weigh.value = value.weigh;
  if (!locked || value.prompt !== before.prompt || size() !== before.texts?.length) unlock();
  if (wb.selection.token !== seen.token) hold(wb.selection.token);
  seen = { ...wb.selection };
  open(within(wb.selection.layer ?? value.best?.layer ?? 0, wb.selection.head ?? value.best?.head ?? 0), false);
}

const within = (layer, index) => ({ layer: Math.min(layer, value.layers - 1), head: Math.min(index, value.heads - 1) });

// Opens and locks what was chosen elsewhere: at once if the view is in sight, else when it comes into sight again.
function keepUp(from = null) {
  if (!size() || !element.offsetParent) return;
  const { layer, head: index, token } = wb.selection,
    before = seen;
  seen = { ...wb.selection };
  if (from === "attention") return;
  if (token !== before.token) hold(token);
  if (layer === null || index === null || (layer === before.layer && index === before.head)) return;
  const next = within(layer, index);
  if (next.layer !== head.layer || next.head !== head.head) open(next, false);
}

// The controls' settings stand in the page's address.
const view = () => element.closest("[id]:not([id^='html-'])")?.id ?? ""; // not Gradio's own, which is another on every page
for (const [key, box] of Object.entries(control)) {
  const given = wb.remembered(`${view()}_${key}`),
    isCheck = box.type === "checkbox",
    plain = isCheck ? "false" : box.options[0].value;
  if (isCheck) box.checked = given === "true";
  else if ([...box.options].some((option) => option.value === given)) box.value = given;
  const act =
    { combine: () => open(head), weigh: () => open(head), lines: repaint }[key] ??
    (() => {
      layThumbs();
      return open(head, false);
    });
  box.addEventListener("change", () => {
    const now = String(isCheck ? box.checked : box.value);
    wb.remember([`${view()}_${key}`], [now === plain ? null : now]);
    act();
  });
}

thumbs.addEventListener("click", (event) => {
  const thumb = event.target.closest(".thumb");
  if (thumb) open({ layer: Number(thumb.dataset.layer), head: Number(thumb.dataset.head) });
});
thumbs.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, "]": 1, "[": -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  neighbour(step);
  thumbs.querySelector("[tabindex='0']").focus();
});

const offer = async () => (await wb.post("data/attention/offer", asks().at(-1))).json();
const { renew } = wb.offers(element, {
  offer,
  fail: (text) => {
    problem.textContent = text;
  },
  more: {
    ...(!window.standalone && { page: () => wb.download("data/attention/page", asks().at(-1)) }),
    png: async () => {
      const measure = planes.at(-1).map.signed
        ? "A − B"
        : control.weigh.value === "value"
          ? "‖α v W_O‖"
          : "attention weight";
      const told = value.about ? { about: value.about, file: `attention_${name(head)}` } : await offer();
      const picture = await wb.picture(planes, value.texts, {
        title: `${name(head)}, attention by ${measure}`,
        measure,
        about: told.about,
        ...shades(),
      });
      wb.save(picture, `${told.file.replace(" ", "_")}.png`);
    },
  },
});
if (window.standalone) find(".weighing").hidden = true;

wb.hear("hover", (index) => {
  if (locked || !element.offsetParent) return;
  move(index === null ? null : { query: index, key: index });
});
wb.hear("selection", ({ from }) => keepUp(from));
watch("value", draw);
draw();
