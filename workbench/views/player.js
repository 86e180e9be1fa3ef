// Moves a slider along by itself, a step whenever the view has painted the one before; and names where the slider stands.
// value: {names, at, slider, view}: the name of each place, where the slider is, the ids of the slider and of what paints.
const PAUSE = 500; // milliseconds a step stands at least
const play = element.querySelector(".play"),
  where = element.querySelector(".where");
const slider = () => document.querySelector(`#${props.value.slider} input[type=range]`);
let playing = false,
  waiting = null;

function tell() {
  where.textContent = props.value.names?.[Number(slider()?.value) - 1] ?? "";
}

function move(place) {
  const range = slider();
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(range, place);
  range.dispatchEvent(new Event("input", { bubbles: true }));
  range.dispatchEvent(new Event("change", { bubbles: true }));
  tell();
}

function step() {
  clearTimeout(waiting);
  if (playing)
    waiting = setTimeout(
      () => (Number(slider().value) < Number(slider().max) ? move(Number(slider().value) + 1) : turn(false)),
      PAUSE,
    );
}

function turn(on) {
  playing = on;
  clearTimeout(waiting);
  play.textContent = on ? "Pause" : "Play";
  play.setAttribute("aria-pressed", String(on));
  if (!on) return;
  if (slider().value === slider().max) move(1);
  else step();
}

play.addEventListener("click", () => turn(!playing));
document.addEventListener("input", (event) => event.target === slider() && tell());
const painted = ([{ target }]) => target.closest(`#${props.value.view}`) && step();
new MutationObserver(painted).observe(document.body, { subtree: true, attributeFilter: ["data-drawn"] });
watch("value", () => requestAnimationFrame(tell));
tell();
