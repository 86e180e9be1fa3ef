// The heading of a picture: its title, how to read it, and what it offers (see offers.js).
// value: {panel, title, note, key, file, code, definition, wide, chooses, pick}
//   panel is the id of what holds the picture, which is `wide` if it may not shrink to a narrow window;
//   chooses = {token|layer|head: [axis, shift, count]} says what a click on the picture selects;
//   pick = {label, options: [[text, {layer, head}], …], chosen} is a menu that selects the same.
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const pick = find(".pick"),
  menu = find(".pick select");
const panel = document.getElementById(props.value.panel);
const figure = () => panel.querySelector(".js-plotly-plot");
const strip = () => panel.querySelector(".tokens");

// The plot as it stands, with its title, on the page's own background.
async function picture() {
  const plot = figure(),
    { width, height } = plot.getBoundingClientRect();
  const ground = getComputedStyle(document.body).backgroundColor;
  const title = {
    text: find(".title").textContent.replace(/[&<>$]/g, (mark) => `&#${mark.charCodeAt(0)};`),
    font: { size: 14 },
    x: 0.01,
  };
  const layout = {
    ...plot.layout,
    width,
    height: height + 40,
    margin: { ...plot.layout.margin, t: 50 },
    title,
    paper_bgcolor: ground,
  };
  const link = document.createElement("a");
  link.href = await window.Plotly.toImage(
    { data: plot.data, layout },
    { format: "png", width, height: height + 40, scale: 2 },
  );
  link.download = `${props.value.file}.png`;
  link.click();
}

const { renew } = wb.offers(element, {
  offer: async () => props.value,
  more: { png: () => (strip() ? wb.say("picture", { panel, file: props.value.file }) : picture()) },
});
menu.addEventListener("change", () => wb.select({ ...props.value.pick.options[menu.selectedIndex][1] }, "plot"));

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

function draw() {
  const value = props.value ?? {};
  element.style.display = value.note ? "" : "none";
  find(".offers").hidden = !value.key; // a sentence stands where there is nothing to draw
  renew();
  find(".title").textContent = value.title ?? "";
  find(".note").textContent = value.note ?? "";
  element.dataset.drawn = value.key ?? "";
  panel.classList.toggle("wide", Boolean(value.wide));
  pick.hidden = !value.pick;
  if (!value.pick) return;
  pick.querySelector("span").textContent = value.pick.label;
  menu.replaceChildren(...value.pick.options.map(([text]) => new Option(text, text)));
  menu.selectedIndex = value.pick.chosen;
}
watch("value", draw);
draw();
