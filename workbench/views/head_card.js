// The selected head: its scores, its actions, and the numbers of the chosen cell of its map.
// value: that of the rail (see rail.js). The visible attention view sends the cell as "reading": {from, name,
//   texts, signed, difference, cell: {query, key} or null, query, weights: [[name of a map, weight], …], looks, looked,
//   unit}; looks and looked hold a weight for each token: what the query attends to, and what attends to the key;
//   difference says what is subtracted from what, "" if the weights are no differences.
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const card = find(".head-card"),
  read = find(".read");
const MOST = 6;
let value = {},
  reader = null;

const make = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  if (text) wb.write(made, text);
  return made;
};
let ofCell = wb.digits; // how the chosen cell's numbers are written: a share of attention as a percentage
const number = (className, exact, written = ofCell) => {
  const made = make("span", className, written(exact));
  made.title = exact;
  return made;
};
const spot = () => wb.selection;
const name = () => `L${spot().layer}H${spot().head}`;

function draw() {
  const { layer, head } = spot();
  card.hidden = layer === null || head === null || !(layer < value.layers && head < value.heads);
  if (card.hidden) return;
  find(".name").textContent = name();
  find(".which").textContent = `Layer ${layer}:`;
  const lines = Object.entries(value.orders ?? {}).flatMap(([order, scores]) => {
    const label = make("dt", "", order),
      score = make("dd", ""),
      exact = scores[layer * value.heads + head];
    label.title = value.notes?.[order] ?? "";
    const error = value.errors?.[order]?.[layer * value.heads + head] ?? null;
    score.textContent = wb.score(exact) + (error === null ? "" : ` ± ${wb.score(error)}`);
    score.title = error === null ? (exact ?? "") : `${exact} ± ${error}`;
    return [label, score];
  });
  find(".scores").classList.toggle("with-errors", Object.keys(value.errors ?? {}).length > 0);
  find(".scores").replaceChildren(...lines);
}

function ranking(list, title, weights, { texts, signed }) {
  list.replaceChildren();
  if (!weights) return;
  const heading = make("h3", "");
  heading.textContent = title;
  list.append(heading);
  const best = weights
    .map((weight, index) => [weight, index])
    .filter(([weight]) => weight)
    .sort((a, b) => Math.abs(b[0]) - Math.abs(a[0]))
    .slice(0, MOST);
  const written = signed || ofCell === wb.digits ? wb.column(best.map(([weight]) => weight)) : ofCell;
  const whole = signed ? 50 : 100; // per cent of the column; bars of signed numbers begin at its middle
  for (const [weight, index] of best) {
    const line = make("p", ""),
      bar = make("span", `bar ${signed ? (weight < 0 ? "below" : "above") : ""}`),
      width = (whole * Math.abs(weight)) / Math.abs(best[0][0]);
    bar.style.width = `${width}%`;
    bar.style.marginLeft = `${signed ? 50 - (weight < 0 ? width : 0) : 0}%`;
    const weighed = number("number", weight, written);
    line.append(make("span", "index", String(index)), make("b", "", texts[index]), bar, weighed);
    list.append(line);
  }
}

function show(told) {
  reader = told.from;
  ofCell = told.unit === "attention" && !told.signed ? wb.percent : wb.digits;
  read.hidden = false;
  const { cell, query, texts } = told,
    line = find(".cell");
  line.replaceChildren();
  const who = cell ? `token ${query}` : `token ${query}, the last,`;
  const subtracted = told.difference ? ` (${told.difference})` : "";
  ranking(find(".to"), `${who} attends to${subtracted}`, told.looks, told);
  ranking(find(".by"), cell ? `token ${cell.key} is attended to by${subtracted}` : "", told.looked, told);
  if (!cell) {
    line.textContent = "Point at a cell of the map, or click one to lock it.";
    return;
  }
  const token = (index) => make("b", "", texts[index]);
  line.append(`query ${cell.query} `, token(cell.query), ` → key ${cell.key} `, token(cell.key), " ");
  if (cell.key > cell.query) return line.append("masked: the key comes later");
  for (const [title, weight] of told.weights) line.append(title ? `${title} ` : "", number("weight", weight));
}

// A reading belongs to the view that sent it, and disappears when that view is no longer visible.
function keep() {
  read.hidden = !reader?.offsetParent;
}

const act = (selector, what) => find(selector).addEventListener("click", what);
act(".off", () => wb.intervene(`${name()} off`));
act(".half", () => wb.intervene(`${name()} × 0.5`));
act(".mlp-off", () => wb.intervene(`MLP ${spot().layer} off`));
act(".attention-off", () => wb.intervene(`attention ${spot().layer} off`));
act(".along", () => wb.turn("Training"));
act(".mlp-half", () => wb.intervene(`MLP ${spot().layer} × 0.5`));
act(".patch", () => wb.draft(`${name()} from "`, '"'));
if (window.standalone) for (const part of element.querySelectorAll(".actions, .layer")) part.hidden = true;

wb.hear("selection", draw);
wb.hear("reading", show);
wb.hear("tab", keep);
watch("value", () => {
  value = props.value ?? {};
  draw();
});
value = props.value ?? {};
draw();
