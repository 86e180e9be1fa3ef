// The heading of a picture: the question that it answers, its title, how to read it, and what it offers (see offers.js).
// value: {panel, question, title, note, key, file, code, definition, about, wide, chooses, pick, edit, table}
//   panel is the id of what holds the picture, which is `wide` if it may not shrink to a narrow window, or a `table`:
//   true, or "of a result", which has a page of its own;
//   chooses = {token|layer|head: [axis, shift, count]} says what a click on the picture selects;
//   pick = {label, options: [[text, {layer, head, tuned}], …], chosen} is a menu that selects the same;
//   edit is a line that a button puts on the stack of edits (see interventions.js).
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const pick = find(".pick"),
  menu = find(".pick select");
const panel = document.getElementById(props.value.panel);
const figure = () => panel.querySelector(".js-plotly-plot");
const strip = () => panel.querySelector(".tokens");

const plain = (text) => text.replace(/[&<>$]/g, (mark) => `&#${mark.charCodeAt(0)};`);

const LEAST = 560; // pixels of a picture's width, so that its title has room

// The whole plot, of which a narrow window may show a part, on white paper, with its title and where it comes from.
async function savePlot(format) {
  const plot = figure(),
    { width: drawn, height } = plot._fullLayout,
    width = Math.max(drawn, LEAST),
    pen = document.createElement("canvas").getContext("2d");
  const lines = (font, text) => {
    pen.font = `${font} system-ui, sans-serif`;
    return wb.wrapped(pen, text, width - 40);
  };
  const titled = lines("600 14px", find(".title").textContent),
    about = lines("10.5px", props.value.about ?? ""),
    room = 40 + 18 * (about.length + titled.length - 1);
  const below = about.map((line) => `<br><span style="font-size: 10.5px; color: #52525b">${plain(line)}</span>`);
  const { l: left, r: right, t: top, b: bottom } = plot._fullLayout._size;
  const heading = {
    text: `<b>${titled.map(plain).join("<br>")}</b>${below.join("")}`,
    font: { size: 14, color: "#18181b" },
    showarrow: false,
    align: "left",
    ...{ xref: "paper", x: 0, xanchor: "left", xshift: 12 - left },
    ...{ yref: "paper", y: 1, yanchor: "top", yshift: top + room - 8 },
  };
  // Those of the plot on the page: in a wider picture plotly would choose others, and the heading would be beside it.
  const margin = { l: left, r: right, t: top + room, b: bottom, autoexpand: false };
  const font = { ...plot.layout.font, color: "#3f3f46" };
  const whole = { format, width, height: height + room, scale: format === "png" ? 2 : 1 };
  const annotations = [...(plot.layout.annotations ?? []), heading];
  const layout = { ...plot.layout, ...whole, margin, font, annotations, title: null, paper_bgcolor: "#fff" };
  const link = document.createElement("a");
  link.href = await window.Plotly.toImage({ data: plot.data, layout }, whole);
  link.download = `${props.value.file}.${format}`;
  link.click();
}

const save = (format) => {
  const { file, about } = props.value;
  return strip()
    ? wb.say("picture", { panel, format, file, about, title: find(".title").textContent })
    : savePlot(format);
};
const { renew } = wb.offers(element, {
  offer: async () => props.value,
  more: { png: () => save("png"), svg: () => save("svg") },
  without: props.value.table ? ["png", "svg", ...(props.value.table === "of a result" ? [] : ["page"])] : [],
});
menu.addEventListener("change", () => wb.select({ ...props.value.pick.options[menu.selectedIndex][1] }, "plot"));

find(".put-on").addEventListener("click", () => wb.intervene(props.value.edit));

// A click on the plot selects the token, layer or head that it names.
function clicked({ points: [point] }) {
  const places = {},
    head = /^L(\d+)H(\d+)$/.exec(point.data.name ?? "");
  if (head) Object.assign(places, { layer: Number(head[1]), head: Number(head[2]) });
  for (const [name, [axis, shift, count]] of Object.entries(props.value.chooses ?? {})) {
    const place = point[axis] + shift;
    if (Number.isInteger(place) && place >= 0 && place < count) places[name] = place;
  }
  wb.select(places, "plot");
  wb.say("point", { panel: props.value.panel, place: point.pointNumber, of: point.data.meta?.length });
  trigger("select", { point: point.pointNumber });
}

// Redrawing a plot drops its listeners, so they are renewed whenever the pointer comes to it.
panel.addEventListener("pointerover", () => {
  const plot = figure();
  if (!plot?.on) return;
  plot.removeAllListeners("plotly_click");
  plot.on("plotly_click", clicked);
});
panel.addEventListener("click", (event) => {
  const cell = event.target.closest?.(".token");
  if (cell && props.value.chooses?.token) wb.select({ token: Number(cell.dataset.index) }, "plot");
});

// A wide picture can be scrolled, so the keyboard must reach it.
function withKeys(region, { wide, question }) {
  if (!region) return;
  const attributes = wide ? { tabindex: 0, role: "group", "aria-label": question || "picture" } : {};
  for (const name of ["tabindex", "role", "aria-label"])
    name in attributes ? region.setAttribute(name, attributes[name]) : region.removeAttribute(name);
}

function draw() {
  const value = props.value ?? {};
  find(".question").textContent = value.question ?? "";
  find(".told").hidden = !value.note;
  find(".offers").hidden = !value.key; // a sentence stands where there is nothing to draw
  renew();
  find(".title").textContent = value.title ?? "";
  find(".title").title = value.about ?? "";
  find(".note").textContent = value.note ?? "";
  element.dataset.drawn = value.key ?? "";
  panel.classList.toggle("wide", Boolean(value.wide));
  withKeys(panel.querySelector(".figure"), value);
  find(".put-on").hidden = !value.edit;
  find(".put-on").textContent = `Edit: ${value.edit ?? ""}`;
  pick.hidden = !value.pick;
  if (!value.pick) return;
  pick.querySelector("span").textContent = value.pick.label;
  menu.replaceChildren(...value.pick.options.map(([text]) => new Option(text, text)));
  menu.selectedIndex = value.pick.chosen;
}
watch("value", draw);
draw();
