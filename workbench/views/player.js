// Chooses a checkpoint of a run, or plays the run: each step follows when the view has painted the one before.
// value: {names, at, slider, view, chart}: the name of each checkpoint, the number of the present one from 1, and the ids
//   of the slider whose value it sets, of the view that paints, and of the panel whose plot gets a line at the present
//   checkpoint; a click on a curve of the plot goes there.
//   Without names it is hidden.
const PAUSE = 500; // milliseconds a step stands at least
const play = element.querySelector(".play"),
  at = element.querySelector(".at"),
  where = element.querySelector(".where");
const slider = () => document.querySelector(`#${props.value.slider} input[type=range]`);
const names = () => props.value.names ?? [];
let playing = false,
  waiting = null;

function tell() {
  at.max = Math.max(2, names().length);
  where.textContent = names()[Number(at.value) - 1] ?? "";
  at.setAttribute("aria-valuetext", where.textContent);
  line();
}

// The line in the chart, at the present checkpoint's place on the axis.
function line() {
  const plot = document.querySelector(`#${props.value.chart} .js-plotly-plot`),
    place = plot?.data?.find(({ meta }) => meta)?.meta[Number(at.value) - 1];
  if (place === undefined || plot.layout.shapes?.[0]?.x0 === place) return;
  const mark = { type: "line", x0: place, x1: place, yref: "paper", y0: 0, y1: 1 };
  const colour = getComputedStyle(element).getPropertyValue("--color-accent");
  window.Plotly.relayout(plot, { shapes: [{ ...mark, line: { width: 2, dash: "dot", color: colour } }] });
}

// Gradio gets the new value through its own slider, which is hidden.
function move(place) {
  at.value = place;
  const range = slider();
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(range, place);
  range.dispatchEvent(new Event("input", { bubbles: true }));
  range.dispatchEvent(new Event("change", { bubbles: true }));
  tell();
}

function step() {
  clearTimeout(waiting);
  if (playing)
    waiting = setTimeout(() => (Number(at.value) < Number(at.max) ? move(Number(at.value) + 1) : turn(false)), PAUSE);
}

function turn(on) {
  playing = on;
  clearTimeout(waiting);
  play.textContent = on ? "Pause" : "Play";
  play.setAttribute("aria-pressed", String(on));
  if (!on) return;
  if (at.value === at.max) move(1);
  else step();
}

function draw() {
  element.querySelector(".player").hidden = !names().length;
  at.max = Math.max(2, names().length);
  if (props.value.at) at.value = props.value.at;
  tell();
}

play.addEventListener("click", () => turn(!playing));
at.addEventListener("input", () => move(Number(at.value)));
const changed = (found) => {
  if (found.some(({ target }) => target.closest?.(`#${props.value.view}`))) step();
  if (found.some(({ target }) => target.closest?.(`#${props.value.chart}`))) requestAnimationFrame(line);
};
new MutationObserver(changed).observe(document.body, {
  subtree: true,
  childList: true,
  attributeFilter: ["data-drawn"],
});
// A click on a curve of the chart goes to its checkpoint; its curves have a point for each, and their places in `meta`.
window.workbench.hear("point", ({ panel, place, of }) => {
  if (panel === props.value.chart && of === names().length) move(place + 1);
});
watch("value", () => requestAnimationFrame(draw));
draw();
