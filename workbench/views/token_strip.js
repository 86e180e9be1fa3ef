// The token strip. value: {title, texts, ids, scores, unit, signed, high, measure, probability, given, parts, spine, ask, look, empty}
//   scores[i] colours token i (null: no colour) and gives its bar; `given` tokens at the front were read, not written;
//   at the token `parts` the text begins to differ from the one beside it; `ask` is the request of the call, for the
//   buttons below it; `look` is sent with requests for details of a token (see token_details.js): {checkpoint, edits, name};
//   of a conversation, `turns` are [{role, start, stop}], and `template` the tokens that its template wrote.
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const list = find(".tokens"),
  readout = find(".readout");
// Buttons of a prompt: pin it below the next prompt, or run the pinned one again.
const ACTS = {
  spine: [["pin", "Pin", "Keep this prompt in sight, to compare it with another one"]],
  pinned: [
    ["swap", "Swap", "Make this the prompt, and pin the present one"],
    ["second", "Use as second prompt", "Patch from this prompt, on Attribution"],
    ["unpin", "Unpin", ""],
  ],
};
function acts(all) {
  for (const [name, text, title] of all) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: text, title });
    button.addEventListener("click", () => trigger(name));
    find(".acts").append(button);
  }
}
if (!window.standalone) acts(ACTS[["spine", "pinned"].find((kind) => props.value?.[kind])] ?? []);

let value = {},
  cells = [],
  weights = null,
  shade = null, // what the training text says of the tokens, if it is asked for (see training_text.js)
  shading = 0,
  chosen = null,
  told = null, // the token that the page said last to be selected
  turn = null, // the selected turn, whose last token is chosen
  pointed = null;

const count = () => cells.length;
const shown = () =>
  weights ??
  (shade?.values ? shade : null) ?? {
    values: value.scores ?? [],
    signed: value.signed,
    high: value.high,
    unit: value.unit,
  };

// Background and bar show the same number, so that colour is never the only sign.
function colour(cell, score, { signed, high }) {
  const scored = score !== null && score !== undefined;
  cell.classList.toggle("scored", scored);
  if (!scored) return;
  cell.classList.toggle("above", Boolean(signed) && score >= 0);
  cell.classList.toggle("below", Boolean(signed) && score < 0);
  cell.style.setProperty("--part", Math.min(1, Math.abs(score) / (high || 1)).toFixed(2));
}

function makeCell(index) {
  const cell = document.createElement("span");
  cell.className = "token";
  cell.setAttribute("role", "option");
  cell.dataset.index = index;
  cell.tabIndex = index === 0 ? 0 : -1;
  wb.write(cell, value.texts[index]);
  cell.setAttribute("aria-label", `${index} ${value.texts[index]}`);
  return cell;
}

// The measure and, of surprisals, their mean: the loss of the text.
function measured() {
  const known = (value.scores ?? []).filter((score) => score !== null);
  if (!value.probability || !known.length) return value.measure ?? "";
  const mean = known.reduce((sum, score) => sum + score, 0) / known.length;
  return `${value.measure}, mean ${wb.digits(mean)} ${value.unit ?? ""};`.replace(" ;", ";");
}

function legend() {
  const { signed, high, unit, values } = shown();
  find(".title").textContent = (weights ?? shade ?? value).title ?? "";
  find(".title").title = shade?.absent ?? "";
  find(".legend").style.visibility = values.length ? "visible" : "hidden";
  find(".measure").textContent = weights ? "" : (shade?.measure ?? measured());
  find(".low").textContent = signed ? `−${wb.digits(high)}` : "0";
  find(".high").textContent = `${wb.digits(high)} ${unit ?? ""}`;
  const left = signed ? "var(--wb-below)" : "transparent",
    right = signed ? "var(--wb-above)" : "var(--wb-shade)";
  const faded = (hue) => (hue === "transparent" ? hue : `color-mix(in srgb, ${hue} 60%, transparent)`);
  find(".ramp").style.background =
    `linear-gradient(to right, ${faded(left)}, ${signed ? "transparent," : ""} ${faded(right)})`;
}

// A label before each turn; every turn but the first starts a new line. Selecting a label selects the turn's tokens.
function drawTurns() {
  for (const old of list.querySelectorAll(".turn, .break")) old.remove();
  (value.turns ?? []).forEach(({ role, start, stop }, number) => {
    if (start >= Math.min(stop, count())) return; // the turn shares its only token with the one before
    const label = document.createElement("span");
    label.className = "turn";
    label.setAttribute("role", "option");
    label.setAttribute("aria-selected", "false");
    label.setAttribute("aria-label", `turn ${number + 1}: ${role}`);
    label.title = `Turn ${number + 1}: select its tokens`;
    label.dataset.turn = number;
    label.tabIndex = 0;
    label.textContent = role;
    if (number > 0) {
      const line = document.createElement("br");
      line.className = "break";
      cells[start].before(line);
    }
    cells[start].before(label);
  });
  markTurn();
}

function markTurn() {
  const span = value.turns?.[turn];
  for (const label of list.querySelectorAll(".turn"))
    label.setAttribute("aria-selected", String(Number(label.dataset.turn) === turn));
  cells.forEach((cell, index) => {
    cell.classList.toggle("in-turn", Boolean(span) && index >= span.start && index < span.stop);
  });
}

function chooseTurn(number) {
  choose(value.turns[number].stop - 1);
  turn = number;
  markTurn();
  list.querySelector(`[data-turn="${number}"]`).focus();
}

const turnOf = (index) => value.turns?.find(({ start, stop }) => index >= start && index < stop);

function recolour(from = 0) {
  const now = shown(),
    template = new Set(value.template);
  find(".strip").classList.toggle("verbatim", Boolean(now.spans));
  for (let index = from; index < count(); index++) {
    colour(cells[index], now.values[index], now);
    cells[index].classList.toggle("query", weights?.query === index);
    cells[index].classList.toggle("given", index < (value.given ?? 0));
    cells[index].classList.toggle("parts", index === value.parts);
    cells[index].classList.toggle("template", template.has(index));
  }
  legend();
}

// The number of tokens at the front that have not changed: a growing text is redrawn only after them.
function kept(before) {
  const same = (name, index) => before[name]?.[index] === value[name]?.[index];
  let index = 0;
  while (index < count() && index < value.texts.length && same("texts", index) && same("ids", index)) index++;
  const asBefore = ["given", "high", "signed", "parts"].every((name) => before[name] === value[name]);
  const alike = asBefore && String(before.template) === String(value.template) && !weights && !shade;
  let coloured = 0;
  while (alike && coloured < index && same("scores", coloured)) coloured++;
  return [index, coloured];
}

function draw() {
  const before = value;
  value = { texts: [], ...props.value };
  list.dataset.empty = value.empty ?? "";
  const [same, coloured] = kept(before);
  for (const cell of cells.splice(same)) {
    if (cell.nextSibling?.tagName === "BR") cell.nextSibling.remove();
    cell.remove();
  }
  const fresh = document.createDocumentFragment(),
    template = new Set(value.template);
  for (let index = same; index < value.texts.length; index++) {
    const cell = makeCell(index);
    cells.push(cell);
    fresh.append(cell);
    if (value.texts[index].endsWith("⏎") && !template.has(index)) fresh.append(document.createElement("br"));
  }
  list.append(fresh);
  drawTurns();
  find(".offers").hidden = !value.ask && !window.standalone;
  if (same < value.texts.length && value.look && !value.spine) list.scrollTop = list.scrollHeight;
  weights = shade = null;
  recolour(coloured);
  if (value.selected !== undefined && value.selected !== before.selected) chosen = value.selected;
  if (JSON.stringify(before.ask) !== JSON.stringify(value.ask)) renew();
  const stays = chosen !== null && chosen < count() && (chosen < same || before.ids === undefined || value.spine);
  mark(stays ? chosen : null);
  if (value.spine) inspectPrompt();
  else if (value.look) inspectAgain(stays);
  reshade();
}

// Request the shading by the training text, once the text is complete.
const isShaded = () => Boolean(wb.strips && value.look && count() > 1 && (value.spine || value.final));
const shadeBody = () => ({
  checkpoint: value.look.checkpoint,
  edits: value.look.edits ?? "",
  ids: value.ids,
  shade: wb.strips.now(),
});
async function reshade() {
  const now = ++shading,
    was = shade;
  find(".shade").hidden = !wb.strips || !value.look;
  find(".shade").value = wb.strips?.now() ?? "";
  let found = null;
  if (isShaded() && wb.strips.now()) {
    try {
      found = await wb.strips.ask(shadeBody());
    } catch (error) {
      found = { absent: error.message, title: error.message };
    }
    if (now !== shading) return;
  }
  shade = found;
  if (!shade && !was) return;
  recolour();
  describe(chosen);
  renew();
}
if (wb.strips) {
  find(".shade").append(...wb.strips.options());
  find(".shade").addEventListener("change", ({ target }) => wb.strips.choose(target.value));
}

// The inspector shows a token of the generated text if one is visible, else the prompt's selected or last token.
function inspectPrompt(ngram = null) {
  if (value.look && count() && wb.tab() !== "Generate") inspect(chosen ?? count() - 1, ngram);
}

// The inspector below stays on this text: on the selected token, or on the first generated one.
function inspectAgain(stays) {
  if (!stays) wb.say("inspect", { from: element, text: null });
  if (!value.final || (stays && !value.look.main)) return;
  if (!stays && value.look.main) mark(Math.min(wb.selection.token ?? value.given, value.given, count() - 1));
  if (chosen !== null) inspect(chosen);
}

// The line beside the strip is hidden while the inspector shows the same token; it stays for screen readers, whose live
// region it is.
const isRepeated = (index) =>
  index === chosen && Boolean(value.look) && !weights && !shade?.values && !window.standalone;

function describe(index) {
  readout.replaceChildren();
  readout.classList.toggle("repeated", isRepeated(index));
  if (index === null || index >= count()) return;
  const name = document.createElement("b");
  name.textContent = value.texts[index];
  const { values, unit } = shown(),
    score = values[index];
  if (!weights && shade?.values) {
    readout.append(name, ` token ${index}  ·  ${shade.says(index)}`);
    readout.title = score ?? "";
    return;
  }
  const parts = [` token ${index}${value.ids[index] === undefined ? "" : `, id ${value.ids[index]}`}`];
  if (score !== null && score !== undefined)
    parts.push(
      weights?.share
        ? `attention ${wb.percent(score)}`
        : `${weights ? "weight" : (value.measure ?? "score")} ${wb.digits(score)} ${unit ?? ""}`,
    );
  if (!weights && value.probability && score !== null && score !== undefined)
    parts.push(`probability ${wb.percent(Math.exp(-score))}`);
  if (value.template?.includes(index)) parts.push("written by the template");
  if (turnOf(index)) parts.push(`${turnOf(index).role}’s turn`);
  readout.append(name, parts.join("  ·  "));
  readout.title = score ?? "";
}

function mark(index) {
  const before = cells[chosen];
  for (const cell of [before, cells[0]]) if (cell) cell.tabIndex = -1;
  list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
  cells[index]?.setAttribute("aria-selected", "true");
  if (count()) cells[index ?? 0].tabIndex = 0;
  chosen = index;
  if (turn !== null && value.turns?.[turn]?.stop - 1 !== index) {
    turn = null;
    markTurn();
  }
  describe(index);
}

function inspect(index, ngram = null) {
  wb.say("inspect", { from: element, text: value, token: index, ngram });
}

// The longest piece with a token that occurs verbatim in the training text: [start, end, count].
const spanAt = (index) => (weights ? null : (shade?.spanAt?.(index) ?? null));
function markSpan(index) {
  const [start, end] = (index === null ? null : spanAt(index)) ?? [0, 0];
  for (const [place, cell] of cells.entries()) cell.classList.toggle("in-span", place >= start && place < end);
}

function choose(index) {
  mark(index);
  cells[index].focus();
  if (value.spine || index < (value.given ?? 0)) wb.select({ token: index }, value.spine ? "spine" : element);
  const ngram = spanAt(index)?.slice(0, 2);
  if (value.spine) inspectPrompt(ngram);
  else if (value.look) inspect(index, ngram);
}

const under = (event) => event.target.closest?.(".token");
const turnUnder = (event) => event.target.closest?.(".turn")?.dataset.turn;
list.addEventListener("click", (event) => {
  if (under(event)) choose(Number(under(event).dataset.index));
  if (turnUnder(event)) chooseTurn(Number(turnUnder(event)));
});
list.addEventListener("mouseover", (event) => {
  if (!under(event)) return;
  describe(Number(under(event).dataset.index));
  markSpan(Number(under(event).dataset.index));
  if (value.spine) wb.say("hover", Number(under(event).dataset.index));
});
list.addEventListener("mouseleave", () => {
  describe(chosen);
  markSpan(null);
  if (value.spine) wb.say("hover", null);
});
list.addEventListener("keydown", (event) => {
  if (turnUnder(event) && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    return chooseTurn(Number(turnUnder(event)));
  }
  const here = under(event) ? Number(under(event).dataset.index) : 0;
  if (event.key === "Enter" && value.look) {
    event.preventDefault(); // else it would press the button that is focused by then
    return wb.say("enter", element);
  }
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -count(), End: count() }[event.key];
  if (step === undefined || !count()) return;
  event.preventDefault();
  choose(Math.max(0, Math.min(count() - 1, here + step)));
});

let said = null;
function tell(text) {
  clearTimeout(said);
  readout.classList.remove("repeated");
  readout.textContent = text;
  said = setTimeout(() => describe(chosen), 2500);
}

const offer = async () =>
  window.standalone
    ? { file: "text", about: document.querySelector(".about").textContent }
    : (await (shade?.values ? wb.strips.offer(shadeBody()) : wb.post("data/text/offer", value.ask))).json();
const { renew } = wb.offers(element, { offer, tell, more: { png: () => save("png"), svg: () => save("svg") } });

async function save(format, of = null) {
  const { file, about, title } = of ?? (await offer());
  wb.save(await picture(format, about ?? "", title), `${file}.${format}`);
}

// The whole text on white paper, with its title, its scale and its provenance.
function picture(format, about, heading) {
  const dark = document.body.classList.contains("dark");
  document.body.classList.remove("dark"); // the colours of paper, until the next frame is painted
  const frame = list.getBoundingClientRect(),
    top = 48,
    sans = getComputedStyle(find(".head")).fontFamily;
  const probe = document.createElement("canvas").getContext("2d");
  probe.font = `10.5px ${sans}`;
  const foot = wb.wrapped(probe, about, frame.width - 8),
    below = top + list.scrollHeight + 18;
  const pen = wb.sheet(format, frame.width, below + 14 * foot.length);
  const [title, measure, low, high] = ["title", "measure", "low", "high"].map((name) => find(`.${name}`).textContent);
  pen.fillStyle = "#18181b";
  pen.font = `600 14px ${sans}`;
  pen.fillText(heading ?? title, 4, 18);
  pen.font = `12px ${sans}`;
  pen.fillText(`${measure}: ${low} … ${high}`, 4, 36);
  for (const cell of list.querySelectorAll(".token, .turn")) {
    const box = cell.getBoundingClientRect(),
      style = getComputedStyle(cell);
    const x = box.x - frame.x,
      y = box.y - frame.y + list.scrollTop + top;
    pen.fillStyle = style.backgroundColor;
    pen.fillRect(x, y, box.width, box.height);
    if (cell.classList.contains("scored")) {
      pen.fillStyle = style.getPropertyValue("--hue");
      const part = Number(style.getPropertyValue("--part"));
      if (shown().spans) pen.fillStyle = style.getPropertyValue("--line");
      pen.fillRect(x, y + box.height - 2, shown().spans ? box.width : box.width * part, 2);
    }
    pen.fillStyle = style.color;
    pen.font = `${style.fontSize} ${style.fontFamily}`;
    pen.fillText(cell.textContent, x + 1, y + box.height - 6, box.width);
  }
  pen.font = `10.5px ${sans}`;
  pen.fillStyle = "#52525b";
  for (const [line, text] of foot.entries()) pen.fillText(text, 4, below + 14 * line);
  document.body.classList.toggle("dark", dark);
  return pen.blob();
}

if (props.value?.spine) {
  // The columns of the page begin below the strip, whose height depends on the prompt (see page.css).
  const block = element.closest("#spine"),
    height = () => document.documentElement.style.setProperty("--strip", `${block.getBoundingClientRect().height}px`);
  new ResizeObserver(height).observe(block);
  wb.hear("weights", (shownWeights) => {
    weights = shownWeights;
    recolour();
    describe(chosen);
  });
}
wb.hear("tab", () => {
  if (value.spine) inspectPrompt();
  else if (value.look?.main && value.final && chosen !== null && element.offsetParent) inspect(chosen);
});
wb.hear("selection", ({ token, from }) => {
  const isNew = token !== told;
  told = token;
  if (value.spine) {
    if (from === "spine" || token === chosen || token >= count()) return;
    mark(token);
    inspectPrompt();
  } else if (value.look?.main && from !== element && token !== null && token < value.given) {
    if (element.offsetParent || isNew) mark(token); // out of sight, a written token stays chosen until another one is
    if (element.offsetParent) inspect(token);
  }
});
wb.hear("shade", reshade);
wb.hear("picture", ({ panel, format, ...of }) => panel.contains(element) && save(format, of));
wb.hear("point", ({ from, token }) => {
  if (from !== element) return;
  cells[pointed]?.classList.remove("pointed");
  pointed = token;
  cells[token]?.classList.add("pointed");
});
watch("value", draw);
draw();
