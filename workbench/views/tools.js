// What belongs to a plot: its Python (shown and copied), its data, its picture, a page of its own, a link to the view.
// value: {panel, key, code, chooses}; panel is the id of what holds both; chooses says what a click on the plot selects: {x: "head", y: "layer"}.
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const said = find(".said"), shown = find(".code");

function say(text) {
  said.textContent = text;
  setTimeout(() => (said.textContent = ""), 2500);
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    say(`select it to copy`);
  }
}

const download = (ending) => wb.download(`data/export/${props.value.key}.${ending}`);
const panel = document.getElementById(props.value.panel);
const figure = () => panel.querySelector(".js-plotly-plot");

find(".python").addEventListener("click", () => {
  shown.hidden = !shown.hidden;
  if (!shown.hidden) copy(props.value.code, "Python");
});
find(".csv").addEventListener("click", () => download("csv"));
find(".page").addEventListener("click", () => download("html"));
find(".png").addEventListener("click", () => figure()?.querySelector("[data-title^='Download plot']")?.click());
find(".link").addEventListener("click", () => copy(location.href, "link"));

// A click on the plot selects the token, layer or head that it names.
function clicked({ points: [point] }) {
  const places = {};
  for (const [axis, name] of Object.entries(props.value.chooses)) {
    if (Number.isInteger(point[axis]) && point[axis] >= 0) places[name] = point[axis];
  }
  wb.select(places, "plot");
  trigger("select", { x: point.x, y: point.y, curve: point.curveNumber });
}

// Redrawing a plot drops its listeners, so they are renewed whenever the pointer comes to it.
panel.addEventListener("pointerover", () => {
  const plot = figure();
  if (!plot?.on) return;
  plot.removeAllListeners("plotly_click");
  plot.on("plotly_click", clicked);
});

function draw() {
  element.style.display = props.value?.key ? "" : "none";
  shown.textContent = props.value?.code ?? "";
}
watch("value", draw);
draw();
