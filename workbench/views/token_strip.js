// The token strip. value: {title, texts, ids, scores, unit, signed, high, given, alternatives, spine, empty}
//   scores[i] colours token i (null: no colour) and gives its bar; `given` tokens at the front were not generated;
//   alternatives[i] = [[text, id, probability], …] of the model's next-token distribution at i.
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const list = find(".tokens"), readout = find(".readout"), panel = find(".alternatives");
let value = {}, cells = [], weights = null, chosen = null;

const count = () => cells.length;
const shown = () => weights ?? { values: value.scores ?? [], signed: value.signed, high: value.high, unit: value.unit };

// Background and bar say the same thing twice: never colour alone.
function colour(cell, score, { signed, high }) {
  if (score === null || score === undefined) return cell.removeAttribute("style");
  const part = Math.max(-1, Math.min(1, score / (high || 1)));
  const hue = signed && part < 0 ? "var(--wb-below)" : signed ? "var(--wb-above)" : "var(--wb-shade)";
  const size = Math.round(Math.abs(part) * 100);
  cell.style.cssText = `background: color-mix(in srgb, ${hue} ${Math.round(size * 0.5)}%, transparent);
    border-image: linear-gradient(to right, ${hue} ${size}%, transparent ${size}%) 1`;
}

function makeCell(index) {
  const cell = document.createElement("span");
  cell.className = "token";
  cell.setAttribute("role", "option");
  cell.dataset.index = index;
  cell.tabIndex = index === 0 ? 0 : -1;
  return cell;
}

function legend() {
  const { signed, high, unit, values } = shown();
  find(".title").textContent = weights ? weights.title : value.title ?? "";
  find(".legend").style.visibility = values.length ? "visible" : "hidden";
  find(".low").textContent = signed ? `−${wb.digits(high)}` : "0";
  find(".high").textContent = `${wb.digits(high)} ${unit ?? ""}`;
  const left = signed ? "var(--wb-below)" : "transparent", right = signed ? "var(--wb-above)" : "var(--wb-shade)";
  const faded = (hue) => (hue === "transparent" ? hue : `color-mix(in srgb, ${hue} 60%, transparent)`);
  find(".ramp").style.background = `linear-gradient(to right, ${faded(left)}, ${signed ? "transparent," : ""} ${faded(right)})`;
}

function recolour() {
  const now = shown();
  cells.forEach((cell, index) => {
    colour(cell, now.values[index], now);
    cell.classList.toggle("query", weights?.query === index);
  });
  legend();
}

function draw() {
  const before = value, texts = props.value?.texts ?? [];
  value = props.value ?? {};
  list.dataset.empty = value.empty ?? "";
  let same = 0;
  while (same < count() && same < texts.length && before.texts[same] === texts[same]) same++;
  cells.splice(same).forEach((cell) => cell.remove());
  while (list.childNodes.length && list.lastChild.tagName === "BR" && same === 0) list.lastChild.remove();
  const fresh = document.createDocumentFragment();
  for (let index = same; index < texts.length; index++) {
    const cell = makeCell(index);
    wb.write(cell, texts[index]);
    cell.setAttribute("aria-label", `${index} ${texts[index]}`);
    cells.push(cell);
    fresh.append(cell);
    if (texts[index].endsWith("⏎")) fresh.append(document.createElement("br"));
  }
  list.append(fresh);
  cells.forEach((cell, index) => cell.classList.toggle("given", index < (value.given ?? 0)));
  if (same < texts.length && value.follow) list.scrollTop = list.scrollHeight;
  if (!value.follow || chosen >= count()) weights = null;
  if (value.selected !== undefined && value.selected !== before.selected) chosen = value.selected;
  recolour();
  mark(chosen !== null && chosen < count() ? chosen : null);
}

function describe(index) {
  readout.replaceChildren();
  if (index === null || index >= count()) return;
  const name = document.createElement("b");
  name.textContent = value.texts[index];
  const { values, unit } = shown(), score = values[index];
  const parts = [` token ${index}, id ${value.ids[index]}`];
  if (score !== null && score !== undefined) parts.push(`${weights ? "weight" : value.measure ?? "score"} ${wb.digits(score)} ${unit ?? ""}`);
  if (!weights && value.probability && score !== null && score !== undefined) parts.push(`probability ${wb.digits(Math.exp(-score))}`);
  readout.append(name, parts.join("  ·  "));
  readout.title = score ?? "";
}

function mark(index) {
  cells.forEach((cell, at) => {
    if (at === index || cell.hasAttribute("aria-selected")) cell.setAttribute("aria-selected", String(at === index));
    cell.tabIndex = at === (index ?? 0) ? 0 : -1;
  });
  chosen = index;
  describe(index);
  alternatives(index);
}

function choose(index, focus) {
  mark(index);
  if (focus) cells[index].focus();
  if (value.spine) wb.select({ token: index }, "spine");
  trigger("select", { token: index });
}

function alternatives(index) {
  const options = index === null ? null : value.alternatives?.[index];
  panel.hidden = !options;
  panel.replaceChildren();
  if (!options) return;
  const heading = document.createElement("p");
  heading.textContent = `What the model expected at token ${index} (click to continue from it)`;
  panel.append(heading);
  for (const [text, id, probability] of options) {
    const row = document.createElement("button");
    row.type = "button";
    row.title = `id ${id}, probability ${probability}`;
    row.classList.toggle("chosen", id === value.ids[index]);
    const [word, bar, number] = ["word", "bar", "number"].map((name) => {
      const part = document.createElement("span");
      part.className = name;
      return part;
    });
    wb.write(word, text);
    bar.style.width = `${100 * probability}%`;
    number.textContent = wb.digits(probability);
    row.append(word, bar, number);
    row.addEventListener("click", () => trigger("branch", { token: index, id }));
    panel.append(row);
  }
}

const under = (event) => event.target.closest?.(".token");
list.addEventListener("click", (event) => under(event) && choose(Number(under(event).dataset.index), true));
list.addEventListener("mouseover", (event) => {
  if (!under(event)) return;
  describe(Number(under(event).dataset.index));
  if (value.spine) wb.say("hover", Number(under(event).dataset.index));
});
list.addEventListener("mouseleave", () => {
  describe(chosen);
  if (value.spine) wb.say("hover", null);
});
list.addEventListener("keydown", (event) => {
  const here = under(event) ? Number(under(event).dataset.index) : 0;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -count(), End: count() }[event.key];
  if (step === undefined || !count()) return;
  event.preventDefault();
  choose(Math.max(0, Math.min(count() - 1, here + step)), true);
});

if (props.value?.spine) {
  wb.hear("weights", (shownWeights) => {
    weights = shownWeights;
    recolour();
    describe(chosen);
  });
  wb.hear("selection", ({ token, from }) => {
    if (from !== "spine" && token !== chosen && token < count()) mark(token);
    if (from !== "spine") trigger("select", { ...wb.selection });
  });
}
watch("value", draw);
draw();
