// All heads of all layers as thumbnails of their attention maps, the last layer on top; a click selects a head.
// value: {checkpoint, other, prompt, run, edits, change, layers, heads, orders, notes, best, errors}
//   orders: {name: [score of head 0 of layer 0, …]} by which the heads can be sorted; notes: {name: what it means};
//   best: the head that is selected first. With many heads the thumbnails have no names and are as small as needed.
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const root = find(".rail"),
  thumbs = find(".heads"),
  order = find(".order"),
  reading = find(".reading"),
  problem = find(".problem");
const NAMED = 8; // heads of a layer that have room for their names
let value = {},
  pictures = null,
  together = "one",
  wanted = 0;

const all = () => [...thumbs.querySelectorAll(".thumb")];
const spotOf = (thumb) => ({ layer: Number(thumb.dataset.layer), head: Number(thumb.dataset.head) });
const nameOf = ({ layer, head }) => `L${layer}H${head}`;
const scores = () => value.orders?.[order.value] ?? null;
const make = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
};

// Places of heads, layer · heads + head, in the order of the thumbnails: the last layer first, or the highest score.
function places() {
  const given = scores(),
    found = Array.from({ length: value.layers * value.heads }, (_, place) => place);
  if (given) return found.sort((a, b) => (given[b] ?? -Infinity) - (given[a] ?? -Infinity));
  const layer = (place) => Math.floor(place / value.heads);
  return found.sort((a, b) => layer(b) - layer(a) || a - b);
}

function makeThumb(place, side) {
  const spot = { layer: Math.floor(place / value.heads), head: place % value.heads },
    given = scores();
  const thumb = make("button", "thumb"),
    canvas = make("canvas", "");
  thumb.type = "button";
  thumb.setAttribute("role", "option");
  thumb.setAttribute("aria-label", nameOf(spot));
  Object.assign(thumb.dataset, spot);
  wb.paint(canvas, wb.mapAt(pictures, place), { curve: "sqrt", skipFirst: false, ...wb.shades, pixels: side });
  thumb.append(canvas, make("span", "", nameOf(spot)));
  if (given) thumb.append(make("span", "score", wb.score(given[place])));
  return thumb;
}

// The numbers of the heads below the columns of a dense rail, as many as have room.
function headNumbers() {
  const every = Math.ceil(value.heads / 8),
    numbers = Array.from({ length: value.heads }, (_, head) => (head % every ? "" : String(head)));
  return [make("div", "row", "head"), ...numbers.map((text) => make("div", "under", text))];
}

function lay() {
  if (!pictures) return;
  const dense = value.heads > NAMED,
    sorted = scores(),
    side = dense ? Math.max(8, Math.floor(240 / value.heads)) : 64;
  root.classList.toggle("dense", dense);
  thumbs.style.setProperty("--columns", value.heads);
  const made = [];
  places().forEach((place, index) => {
    if (dense && index % value.heads === 0)
      made.push(make("div", "row", sorted ? "" : String(Math.floor(place / value.heads))));
    made.push(makeThumb(place, side));
  });
  if (dense && !sorted) made.push(...headNumbers());
  thumbs.replaceChildren(...made);
  mark();
}

function mark() {
  const { layer, head } = wb.selection;
  for (const thumb of all()) {
    const spot = spotOf(thumb),
      here = spot.layer === layer && spot.head === head;
    thumb.setAttribute("aria-selected", String(here || (together !== "one" && spot.layer === layer)));
    thumb.tabIndex = here ? 0 : -1;
  }
  if (!thumbs.querySelector("[tabindex='0']") && all().length) all()[0].tabIndex = 0;
  tell(layer === null ? null : { layer, head }, "selected: ");
}

function tell(spot, how = "") {
  if (!spot) return reading.replaceChildren();
  const place = spot.layer * value.heads + spot.head,
    name = scores() ? order.value : "";
  reading.textContent = how + nameOf(spot) + (name ? ` · ${name} ${wb.score(scores()[place])}` : "");
}

async function draw() {
  const ticket = ++wanted;
  value = props.value ?? {};
  if (!value.layers) return;
  const orders = Object.keys(value.orders ?? {}),
    kept = order.value === "place" ? wb.remembered("rail_order") : order.value;
  order.replaceChildren(new Option("layer, head", "place"), ...orders.map((each) => new Option(each, each)));
  if (orders.includes(kept)) order.value = kept;
  find(".ordering").hidden = !orders.length;
  const { layer, head } = wb.selection;
  if (value.best && (layer === null || head === null)) wb.select(value.best, "rail");
  try {
    const { checkpoint, prompt, edits = "", change = false, other = null } = value;
    const found = await wb.maps("data/attention/thumbnails", { checkpoint, prompt, edits, change, other });
    if (ticket !== wanted) return;
    pictures = found;
    problem.textContent = "";
    lay();
    element.dataset.drawn = `${value.run ?? ""}`;
  } catch (error) {
    if (ticket === wanted) problem.textContent = error.message;
  }
}

function choose(thumb) {
  wb.select(spotOf(thumb), "rail");
}

function neighbour(step) {
  const heads = all(),
    here = heads.findIndex((thumb) => thumb.tabIndex === 0);
  if (heads.length) choose(heads[(here + step + heads.length) % heads.length]);
}

const under = (event) => event.target.closest?.(".thumb");
thumbs.addEventListener("click", (event) => under(event) && choose(under(event)));
thumbs.addEventListener("mouseover", (event) => under(event) && tell(spotOf(under(event))));
thumbs.addEventListener("mouseleave", () => mark());
thumbs.addEventListener("keydown", (event) => {
  const across = value.heads,
    step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, "]": 1, "[": -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  neighbour(step);
  thumbs.querySelector("[tabindex='0']")?.focus();
});
order.addEventListener("change", () => {
  wb.remember(["rail_order"], [order.value === "place" ? null : order.value]);
  lay();
});
wb.hear("neighbour", neighbour);
wb.hear("selection", mark);
wb.hear("shades", lay);
wb.hear("opened", ({ combine }) => {
  together = combine;
  mark();
});
watch("value", draw);
draw();
