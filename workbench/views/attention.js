// The attention view. value: {checkpoint, other, prompt, texts, layers, heads, orders, best}
//   one map when `other` is null; A, B and A−B when it is a checkpoint. orders: {name: [score of head 0 of layer 0, …]}.
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const root = find(".attention"), thumbs = find(".heads"), panels = find(".panels"), problem = find(".problem");
const control = { order: find(".order"), combine: find(".combine"), weigh: find(".weigh"), curve: find(".curve") };
const first = find(".first"), lines = find(".lines");
let value = {}, planes = [], head = { layer: 0, head: 0 }, at = null, locked = false, wanted = 0;

const name = (spot) => (control.combine.value === "one" ? `L${spot.layer}H${spot.head}` : `L${spot.layer} ${control.combine.value}`);
const size = () => value.texts?.length ?? 0;
const make = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  if (text) wb.write(made, text);
  return made;
};
const body = (extra) => ({ checkpoint: value.checkpoint, other: null, prompt: value.prompt, ...extra });

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
  const panel = make("div", "panel"), plane = make("div", "plane"), axis = make("div", "axis");
  const heading = make("p", "which");
  heading.textContent = title;
  const parts = { map: make("canvas", "map"), threads: make("canvas", "threads"), row: make("div", "rule row"), column: make("div", "rule column") };
  plane.tabIndex = 0;
  plane.setAttribute("role", "application");
  plane.setAttribute("aria-label", `attention map ${title}: arrows move query and key`);
  plane.append(parts.map, parts.threads, parts.row, parts.column);
  parts.top = make("span", "top");
  parts.ramp = make("span", "ramp");
  axis.append(make("span", "", "→ key (source)   ↓ query (destination)"), parts.ramp, parts.top);
  panel.append(heading, plane, axis);
  panels.append(panel);
  plane.addEventListener("mousemove", (event) => !locked && move(cellUnder(plane, event)));
  plane.addEventListener("mouseleave", () => !locked && move(null));
  plane.addEventListener("click", (event) => lock(cellUnder(plane, event)));
  plane.addEventListener("keydown", keys);
  return { plane, parts, map: null };
}

function cellUnder(plane, event) {
  const box = plane.getBoundingClientRect();
  const place = (offset, length) => Math.min(size() - 1, Math.max(0, Math.floor((offset / length) * size())));
  return { query: place(event.clientY - box.top, box.height), key: place(event.clientX - box.left, box.width) };
}

function lock(cell) {
  locked = !(locked && at && cell.query === at.query && cell.key === at.key);
  root.classList.toggle("locked", locked);
  move(cell);
  if (locked) wb.select({ token: cell.query }, "attention");
}

function keys(event) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const clamp = (index) => Math.min(size() - 1, Math.max(0, index));
  if (step) {
    const from = at ?? { query: size() - 1, key: 0 };
    move({ query: clamp(from.query + step[0]), key: clamp(from.key + step[1]) });
  } else if (event.key === "[" || event.key === "]") neighbour(event.key === "]" ? 1 : -1);
  else if ((event.key === "Enter" || event.key === " ") && at) lock(at);
  else if (event.key === "Escape") {
    locked = false;
    root.classList.remove("locked");
    move(null);
  } else return;
  event.preventDefault();
}

function neighbour(step) {
  const order = [...thumbs.querySelectorAll(".thumb")];
  const here = order.findIndex((thumb) => thumb.getAttribute("aria-selected") === "true");
  const next = order[(here + step + order.length) % order.length];
  open({ layer: Number(next.dataset.layer), head: Number(next.dataset.head) });
}

// Rows of the map under the cursor: what the query looks at, and who looks at the key.
function readRow(map, query) {
  return Array.from({ length: size() }, (_, key) => (key > query || (first.checked && key === 0) ? 0 : wb.decode(map.bytes[query * map.side + key], map)));
}
function readColumn(map, key) {
  return Array.from({ length: size() }, (_, query) => (query < key ? 0 : wb.decode(map.bytes[query * map.side + key], map)));
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

function follow() {
  const map = planes.at(-1)?.map;
  planes.forEach(({ parts }) => rules(parts));
  find(".to").replaceChildren();
  find(".by").replaceChildren();
  find(".cell").replaceChildren();
  if (!map) return;
  if (!at) {
    wb.say("weights", null);
    return ranking(find(".to"), `${size() - 1}, the last token, attends to`, readRow(map, size() - 1));
  }
  const row = readRow(map, at.query), high = Math.max(...row.map(Math.abs)) || 1;
  const title = `${name(head)}: ${map.signed ? "A − B, " : ""}what token ${at.query} attends to`;
  wb.say("weights", { values: row.map((weight, key) => (key > at.query ? null : weight)), signed: map.signed, high, unit: "", query: at.query, title });
  describe();
  ranking(find(".to"), `${at.query} attends to`, row);
  ranking(find(".by"), `${at.key} is attended by`, readColumn(map, at.key));
  if (lines.checked) planes.forEach(threads);
}

function rules({ row, column }) {
  for (const [rule, index, edge, extent] of [[row, at?.query, "top", "height"], [column, at?.key, "left", "width"]]) {
    rule.style.display = index === undefined ? "none" : "block";
    rule.style[edge] = `${(100 * index) / size()}%`;
    rule.style[extent] = `${Math.max(100 / size(), 0.2)}%`;
  }
}

function describe() {
  const line = find(".cell"), { query, key } = at;
  const token = (index) => make("b", "", value.texts[index]);
  const numbers = planes.filter(({ map }) => map).map(({ map, title }) => `${planes.length > 1 ? `${title} ` : ""}${wb.digits(key > query ? 0 : wb.decode(map.bytes[query * map.side + key], map))}`);
  line.append(`query ${query} `, token(query), ` → key ${key} `, token(key), `   ${key > query ? "masked" : numbers.join("   ")}`);
}

function ranking(list, title, weights) {
  const heading = document.createElement("h5");
  heading.textContent = title;
  list.append(heading);
  const best = weights.map((weight, index) => [weight, index]).filter(([weight]) => weight).sort((a, b) => Math.abs(b[0]) - Math.abs(a[0])).slice(0, 6);
  const high = Math.abs(best[0]?.[0] ?? 1);
  for (const [weight, index] of best) {
    const line = document.createElement("p"), bar = make("span", "bar");
    bar.style.width = `${(100 * Math.abs(weight)) / high}%`;
    line.append(make("span", "index", String(index)), make("b", "", value.texts[index]), bar, make("span", "number", wb.digits(weight)));
    list.append(line);
  }
}

// Token-to-token lines: queries on the right, keys on the left, for texts short enough to tell them apart.
function threads({ parts: { threads: canvas }, map }) {
  const context = canvas.getContext("2d"), pixels = 960;
  canvas.width = canvas.height = pixels;
  if (!lines.checked || !map || size() > 64) return;
  const step = pixels / size(), ink = getComputedStyle(root), top = Math.abs(wb.decode(wb.strongest(map, first.checked), map)) || 1;
  context.fillStyle = ink.getPropertyValue("--background-fill-primary");
  context.fillRect(0, 0, pixels, pixels);
  context.font = `${Math.min(22, step * 0.8)}px ${ink.getPropertyValue("--font-mono")}`;
  context.fillStyle = ink.color;
  context.textBaseline = "middle";
  value.texts.forEach((text, index) => {
    context.textAlign = "right";
    context.fillText(text.slice(0, 14), pixels * 0.28, (index + 0.5) * step);
    context.textAlign = "left";
    context.fillText(text.slice(0, 14), pixels * 0.72, (index + 0.5) * step);
  });
  context.lineWidth = Math.max(1.5, step * 0.12);
  for (let query = 0; query < size(); query++) {
    if (locked && at && at.query !== query) continue;
    readRow(map, query).forEach((weight, key) => {
      context.globalAlpha = Math.min(1, Math.abs(weight) / top);
      if (context.globalAlpha < 0.03) return;
      context.strokeStyle = ink.getPropertyValue(map.signed && weight < 0 ? "--wb-below" : map.signed ? "--wb-above" : "--color-accent");
      context.beginPath();
      context.moveTo(pixels * 0.71, (query + 0.5) * step);
      context.lineTo(pixels * 0.29, (key + 0.5) * step);
      context.stroke();
    });
  }
  context.globalAlpha = 1;
}

function repaint() {
  for (const plane of planes) {
    if (!plane.map) continue;
    const top = wb.strongest(plane.map, first.checked);
    wb.paint(plane.parts.map, plane.map, { curve: control.curve.value, skipFirst: first.checked, top });
    plane.plane.classList.toggle("smooth", size() > 300);
    const colour = plane.map.signed ? wb.diverging : wb.sequential;
    const stops = [0, 0.25, 0.5, 0.75, 1].map((t) => `rgb(${colour(plane.map.signed ? 2 * t - 1 : t)})`);
    plane.parts.ramp.style.background = `linear-gradient(to right, ${stops})`;
    const most = wb.digits(Math.abs(wb.decode(top, plane.map)));
    plane.parts.top.textContent = plane.map.signed ? `± ${most}` : `0 … ${most}`;
    threads(plane);
  }
  follow();
}

function open(next, tell = true) {
  head = next;
  for (const thumb of thumbs.querySelectorAll(".thumb")) {
    const here = Number(thumb.dataset.layer) === head.layer && (control.combine.value !== "one" || Number(thumb.dataset.head) === head.head);
    thumb.setAttribute("aria-selected", String(here));
    thumb.tabIndex = Number(thumb.dataset.layer) === head.layer && Number(thumb.dataset.head) === head.head ? 0 : -1;
  }
  if (tell) wb.select({ layer: head.layer, head: head.head }, "attention");
  return guarded(async (current) => {
    const wanted = { ...head, combine: control.combine.value, weigh: control.weigh.value };
    const pair = value.other ? [{}, { checkpoint: value.other }, { other: value.other }] : [{}];
    const found = await Promise.all(pair.map((extra) => wb.maps("data/attention/map", body({ ...wanted, ...extra }))));
    if (!current()) return;
    planes.forEach((plane, index) => (plane.map = found[index]));
    title();
    repaint();
    element.dataset.drawn = name(head);
  });
}

function title() {
  const scores = Object.entries(value.orders ?? {}).map(([order, all]) => `${order} ${wb.digits(all[head.layer * value.heads + head.head])}`);
  find(".name").textContent = name(head);
  find(".name").append(make("small", "", control.combine.value === "one" ? scores.join(" · ") : ""));
}

async function drawThumbs() {
  const pictures = await wb.maps("data/attention/thumbnails", body({ other: value.other ?? null }));
  const order = control.order.value, scores = value.orders?.[order];
  const places = Array.from({ length: value.layers * value.heads }, (_, place) => place);
  if (scores) places.sort((a, b) => scores[b] - scores[a]);
  thumbs.style.gridTemplateColumns = `repeat(${scores ? Math.min(8, places.length) : value.heads}, auto)`;
  const side = pictures.side, drawn = places.map((place) => {
    const spot = { layer: Math.floor(place / value.heads), head: place % value.heads };
    const thumb = make("button", "thumb"), canvas = document.createElement("canvas"), label = document.createElement("span");
    thumb.type = "button";
    thumb.setAttribute("role", "option");
    Object.assign(thumb.dataset, spot);
    const map = { ...pictures, bytes: pictures.bytes.subarray(place * side * side, (place + 1) * side * side) };
    wb.paint(canvas, map, { curve: control.curve.value, skipFirst: first.checked });
    label.append(`L${spot.layer}H${spot.head}`, make("span", "", scores ? wb.digits(scores[place]) : ""));
    thumb.append(canvas, label);
    return thumb;
  });
  thumbs.replaceChildren(...drawn);
}

function draw() {
  value = props.value ?? {};
  if (!size()) return;
  const titles = value.other ? ["A", "B", "A − B"] : [value.title ?? ""];
  panels.replaceChildren();
  root.classList.toggle("pair", Boolean(value.other));
  planes = titles.map((text) => ({ title: text, ...makePlane(text) }));
  const kept = control.order.value;
  control.order.replaceChildren(new Option("layer, head", "place"), ...Object.keys(value.orders ?? {}).map((order) => new Option(order, order)));
  if (value.orders?.[kept]) control.order.value = kept;
  lines.disabled = size() > 64;
  at = null;
  locked = false;
  const layer = Math.min(wb.selection.layer ?? value.best?.layer ?? 0, value.layers - 1);
  const index = Math.min(wb.selection.head ?? value.best?.head ?? 0, value.heads - 1);
  guarded(drawThumbs).then(() => open({ layer, head: index }, false));
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
const again = () => guarded(drawThumbs).then(() => open(head, false));
control.order.addEventListener("change", again);
control.curve.addEventListener("change", again);
first.addEventListener("change", again);
lines.addEventListener("change", repaint);
control.combine.addEventListener("change", () => open(head));
control.weigh.addEventListener("change", () => open(head));
find(".png").addEventListener("click", () => {
  const link = document.createElement("a");
  link.download = `attention-${name(head)}.png`;
  link.href = planes.at(-1).parts.map.toDataURL("image/png");
  link.click();
});
const asked = () => body({ ...head, combine: control.combine.value, weigh: control.weigh.value, other: value.other ?? null });
const offer = async () => (await wb.post("data/attention/offer", asked())).json();
const shown = find(".code");
find(".python").addEventListener("click", () =>
  guarded(async () => {
    shown.hidden = !shown.hidden;
    if (shown.hidden) return;
    shown.textContent = (await offer()).code;
    await navigator.clipboard?.writeText(shown.textContent).catch(() => {});
  }),
);
find(".csv").addEventListener("click", () => guarded(async () => wb.download(`data/export/${(await offer()).key}.csv`)));
find(".page").addEventListener("click", () => guarded(() => wb.download("data/attention/page", asked())));
if (window.standalone) element.querySelectorAll(".python, .csv, .page").forEach((button) => (button.hidden = true));
wb.hear("hover", (index) => {
  if (locked || !element.offsetParent) return;
  move(index === null ? null : { query: index, key: index });
});
wb.hear("selection", ({ layer, head: index, token, from }) => {
  if (from === "attention" || !size() || !element.offsetParent) return;
  if (layer !== null && index !== null && (layer !== head.layer || index !== head.head)) open({ layer, head: index }, false);
  if (token !== null && token < size()) {
    locked = true;
    root.classList.add("locked");
    move({ query: token, key: at?.key ?? token });
  }
});
watch("value", draw);
draw();
