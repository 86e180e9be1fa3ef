// A table of texts, or of features. A click on a heading sorts it, a click on a row tells which text it is of: the event `open` ({text}).
// value: {summary, columns: [[title, kind], …], rows: [[number of the text, cell, …], …], offer, search, act, label}
//   offer: {key, file, code, definition} of the whole table, see offers.js
//   search: what the box says that finds rows; without it there is no box. act: what a click does; label: of the table
//   of: a dictionary; a click on a row then shows the feature of that number on the tab Features
//   still: whether a click on a row does nothing
//   kind is "number", "signed", "size" (of any columns that are compared, about 1), "count", "percent", "change" (of a share), "token", "name", "mark", "words", "prose" (the
//   labels of tokens, joined, shown in full) or "curve" (a list of numbers); cells may be null.
const wb = window.workbench;
const PAGE = 100, // rows
  WIDE = 64,
  HIGH = 14; // of a small curve
const find = (selector) => element.querySelector(selector);
let order = null, // {column, down}
  page = 0,
  current = null, // the number of the row that was opened last
  narrow = false; // whether the columns are drawn for a narrow window

const SHOWN = {
  count: (value) => value.toLocaleString("en"),
  percent: wb.percent,
  size: wb.score,
  change: (value) => (value === 0 ? "0" : `${value > 0 ? "+" : "−"}${wb.percent(Math.abs(value))}`),
};

// How the cells of a column are written, by its kind. The numbers of one column have equally many decimals.
function writing(rows, kind, at) {
  if (kind !== "number" && kind !== "signed") return SHOWN[kind];
  const written = wb.column(rows.map((row) => row[at]).filter((value) => value !== null));
  return kind === "signed" ? (value) => `${value > 0 ? "+" : ""}${written(value)}` : written;
}

function cell(value, kind, written) {
  const made = document.createElement("td");
  made.className = kind;
  if (value === null) made.textContent = "–";
  else if (kind === "curve") made.append(curve(value));
  else if (written) {
    made.textContent = written(value);
    made.title = String(value);
  } else if (kind === "words") {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = value.replace(/\s+/g, " ");
    button.title = props.value.act ?? "Make it the prompt";
    made.append(button);
  } else if (kind === "prose") made.textContent = value.replaceAll("▁", " ");
  else if (kind === "token") wb.write(made, value);
  else made.textContent = value;
  return made;
}

// A small curve: numbers of any scale, drawn from 0 to their largest; undefined ones leave a gap.
function curve(numbers) {
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "svg"),
    line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  const most = Math.max(...numbers, 0) || 1,
    step = WIDE / Math.max(1, numbers.length - 1);
  const points = numbers.map(
    (value, index) => `${(index * step).toFixed(1)},${(HIGH - (HIGH * value) / most).toFixed(1)}`,
  );
  line.setAttribute("points", points.join(" "));
  for (const [name, value] of Object.entries({ viewBox: `-1 -1 ${WIDE + 2} ${HIGH + 2}`, role: "img" }))
    drawn.setAttribute(name, value);
  drawn.setAttribute("aria-label", numbers.map(wb.digits).join(", "));
  drawn.append(line);
  return drawn;
}

function found({ rows, search }) {
  const sought = search ? find(".search").value.trim().toLowerCase() : "";
  if (!sought) return rows;
  return rows.filter(([, ...cells]) =>
    cells.some((value) =>
      typeof value === "string" ? value.toLowerCase().includes(sought) : String(value) === sought,
    ),
  );
}

function sorted({ rows }) {
  if (!order) return rows;
  const at = order.column + 1,
    sign = order.down ? -1 : 1;
  return [...rows].sort(({ [at]: a }, { [at]: b }) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (Array.isArray(a)) return 0;
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
  });
}

function heading([title, kind], column) {
  const made = document.createElement("th"),
    button = document.createElement("button");
  made.className = kind;
  const mine = order?.column === column;
  made.ariaSort = mine ? (order.down ? "descending" : "ascending") : "none";
  button.type = "button";
  button.textContent = mine ? `${title} ${order.down ? "↓" : "↑"}` : title;
  button.addEventListener("click", () => {
    order = { column, down: mine ? !order.down : kind === "number" || kind === "size" };
    page = 0;
    draw();
  });
  made.append(button);
  return made;
}

const { renew } = wb.offers(element, {
  offer: async () => props.value.offer,
  without: ["png", "svg", "page", "link"],
});

// The columns from left to right: in a narrow window, texts come first after the number, where they are in sight.
const isNarrow = () => element.clientWidth > 0 && element.clientWidth < 520;
function ranked(columns) {
  const places = columns.map((_, place) => place),
    isLate = (place) => Number(place > 0 && !["words", "prose"].includes(columns[place][1]));
  return isNarrow() ? places.sort((a, b) => isLate(a) - isLate(b) || a - b) : places;
}

function draw() {
  const { summary = "", columns = [], rows: all = [], offer, search, label } = props.value ?? {};
  const rows = found({ rows: all, search });
  find(".search").hidden = !search;
  find(".search").placeholder = search ?? "";
  find(".search").ariaLabel = search ?? "";
  find(".scroll").ariaLabel = label ?? "table of texts";
  find(".offers").hidden = !offer;
  renew();
  const last = Math.max(0, Math.ceil(rows.length / PAGE) - 1);
  page = Math.min(page, last);
  find(".summary").textContent = summary;
  const places = ranked(columns);
  narrow = isNarrow();
  find(".texts-table").classList.toggle("narrow", narrow);
  find(".texts-table").classList.toggle("still", Boolean(props.value?.still));
  find("thead tr").replaceChildren(...places.map((place) => heading(columns[place], place)));
  const written = columns.map(([, kind], column) => writing(all, kind, column + 1));
  const shown = sorted({ rows }).slice(page * PAGE, (page + 1) * PAGE);
  find("tbody").replaceChildren(
    ...shown.map(([text, ...cells]) => {
      const row = document.createElement("tr");
      row.dataset.text = text;
      if (text === current) row.ariaCurrent = "true";
      row.append(...places.map((place) => cell(cells[place], columns[place][1], written[place])));
      return row;
    }),
  );
  find(".pages").hidden = last === 0;
  find(".where").textContent =
    `${(page * PAGE + 1).toLocaleString("en")}–${(page * PAGE + shown.length).toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  find(".before").disabled = page === 0;
  find(".after").disabled = page === last;
}

for (const [name, step] of [
  ["before", -1],
  ["after", 1],
])
  find(`.${name}`).addEventListener("click", () => {
    page += step;
    draw();
    find(".scroll").scrollTop = 0;
  });
find("tbody").addEventListener("click", ({ target }) => {
  const row = target.closest("tr");
  if (!row || props.value.still) return;
  current = Number(row.dataset.text);
  for (const each of find("tbody").children) each.ariaCurrent = each === row ? "true" : null;
  if (props.value.of) wb.say("feature", { dictionary: props.value.of, feature: current });
  else trigger("open", { text: current });
});
const shapeOf = (value) => JSON.stringify([value?.summary, value?.columns, value?.rows?.length]);
let before = shapeOf(props.value);
find(".search").addEventListener("input", () => {
  page = 0;
  draw();
});
new ResizeObserver(() => isNarrow() !== narrow && draw()).observe(element);
watch("value", () => {
  const shape = shapeOf(props.value);
  if (shape !== before) {
    order = null; // another table; one whose cells have changed keeps its order and page
    page = 0;
    before = shape;
  }
  draw();
});
draw();
