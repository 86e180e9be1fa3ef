// One token of a strip: the tokens that were expected, the prediction of each layer, and the attention of heads.
// It listens to `inspect` ({from, text: the strip's value, token}); the server computes the numbers for the ids.
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const root = find(".details"),
  problem = find(".problem");
let now = null,
  asked = 0,
  asTuned = Boolean(wb.selection.tuned);

function part(kind, content) {
  const span = document.createElement("span");
  span.className = kind;
  if (kind === "word") wb.write(span, content);
  else if (kind === "bar") span.style.width = `${100 * content}%`;
  else if (kind.startsWith("percent")) span.textContent = wb.percent(content);
  else span.textContent = typeof content === "number" ? wb.digits(content) : content;
  if (typeof content === "number") span.title = content;
  return span;
}

function row(parts, press = null) {
  const line = document.createElement(press ? "button" : "div");
  line.className = "row";
  line.append(...parts.map(([kind, content]) => part(kind, content)));
  if (press) {
    line.type = "button";
    line.addEventListener("click", press);
  }
  return line;
}

function names(...labels) {
  const line = row(labels.map((label, index) => [index === labels.length - 1 ? "number" : "", label]));
  line.classList.add("names");
  return line;
}

function fill(section, rows, empty) {
  const place = find(`.${section}`),
    list = place.querySelector(".rows");
  const focused = [...list.children].indexOf(document.activeElement);
  place.hidden = rows.length === 0 && !empty;
  list.replaceChildren(...rows, ...(rows.length ? [] : [row([["faint", empty]])]));
  if (focused >= 0) (rows[focused]?.matches("button") ? rows[focused] : list.querySelector("button"))?.focus();
}

const branchable = () => !window.standalone && !now.text.spine;

function drawExpected(expected) {
  const rows = expected.map(([text, id, probability, rank], index) => {
    const press =
      branchable() && id !== now.text.ids[now.token]
        ? () => trigger("branch", { token: now.token, id, ids: now.text.ids })
        : null;
    const line = row(
      [
        ["faint", `${rank ?? index + 1}`],
        ["word", text],
        ["bar", probability],
        ["percent number", probability],
      ],
      press,
    );
    line.title = `id ${id}, probability ${probability}`;
    line.classList.toggle("chosen", id === now.text.ids[now.token]);
    return line;
  });
  fill("expected", rows, "the first token is not predicted");
}

function drawLens(lens, tunable) {
  const lenses = ["logit lens", "tuned lens"],
    isTuned = Boolean(tunable && wb.selection.tuned);
  find(".through").textContent = lenses[Number(isTuned)];
  find(".swap").hidden = !tunable;
  find(".swap").textContent = lenses[1 - Number(isTuned)];
  find(".swap").title = `Read the layers through the ${lenses[1 - Number(isTuned)]}, on all tabs`;
  const rows = lens.toReversed().map(([layer, text, id, best, probability, rank]) => {
    const line = row([
      ["faint", layer],
      ["word", text],
      ["percent number faint", best],
      ["percent number", probability],
      ["number faint", `#${rank}`],
    ]);
    line.title = `${layer}: likeliest ${text} (id ${id}) ${best}; this token ${probability}, rank ${rank}`;
    line.classList.toggle("chosen", id === now.text.ids[now.token]);
    return line;
  });
  fill("lens", rows.length ? [names("layer", "likeliest", "", "this token", "rank"), ...rows] : [], "");
}

function drawHeads(section, weights, empty) {
  const rows = weights.map(([head, token, weight]) => {
    const [, layer, index] = /L(\d+)H(\d+)/.exec(head).map(Number);
    const press = () => wb.select({ layer, head: index }, element);
    const line = row(
      [
        ["faint", head],
        ["number faint", `${token}`],
        ["word", now.text.texts[token]],
        ["bar", weight],
        ["percent number", weight],
      ],
      press,
    );
    line.title = `${head} puts ${weight} on this token; click to choose this head on all tabs`;
    for (const [event, pointed] of [
      ["mouseenter", token],
      ["mouseleave", null],
      ["focus", token],
      ["blur", null],
    ]) {
      line.addEventListener(event, () => wb.say("point", { from: now.from, token: pointed }));
    }
    line.dataset.head = head;
    return line;
  });
  fill(section, rows, empty);
  choose();
}

function choose() {
  const { layer, head } = wb.selection;
  for (const line of root.querySelectorAll("[data-head]"))
    line.classList.toggle("chosen", line.dataset.head === `L${layer}H${head}`);
}

// Shows what is known before the server responds.
function heading() {
  const { text, token } = now,
    score = text.scores[token];
  wb.write(find(".what b"), text.texts[token]);
  const numbers = [`token ${token}`, `id ${text.ids[token]}`];
  if (score !== null && text.signed) numbers.push(`${text.measure} ${wb.digits(score)} nats`);
  else if (score !== null)
    numbers.push(`surprisal ${wb.digits(score)} nats`, `probability ${wb.percent(Math.exp(-score))}`);
  if (text.look.name) numbers.push(text.look.name);
  find(".numbers").textContent = numbers.map((each) => each.replaceAll(" ", "\u00a0")).join(" · ");
  const note = find(".note");
  note.replaceChildren();
  if (window.standalone || text.spine || token < text.given) return;
  const use = document.createElement("button");
  use.type = "button";
  use.textContent = now.text.turns ? "add this reply to the turns" : "use this text as the prompt";
  use.addEventListener("click", () => {
    wb.select({ token }, element);
    trigger("use", { token, ids: text.ids });
  });
  note.append("The model wrote this token. The other tabs show only the prompt, so they do not show it: ", use, ".");
}

const body = () => ({
  checkpoint: now.text.look.checkpoint,
  edits: now.text.look.edits ?? "",
  ids: now.text.ids,
  token: now.token,
});
const inspection = () => ({ ...body(), tuned: Boolean(wb.selection.tuned) });

async function inspect(told) {
  const turn = ++asked;
  now = told.text ? told : null;
  root.hidden = !now;
  if (!now) return;
  renew();
  heading();
  find(".why").textContent = "Why the next prediction?";
  offerActions();
  if (told.ngram) seen?.open(told.ngram);
  else seen?.renew();
  root.classList.add("busy");
  try {
    const found = await (await wb.post("data/text/token", inspection())).json();
    if (turn !== asked) return;
    problem.textContent = "";
    drawExpected(found.expected);
    drawLens(found.lens ?? [], found.tunable);
    if (found.next) find(".why").textContent = `Why “${found.next[0]}” next? ${wb.percent(found.next[2])}`;
    drawHeads("looks", found.looks ?? [], "");
    drawHeads("looked_at", found.looked_at ?? [], found.looked_at ? "no token follows the last one" : "");
    if (found.first !== undefined)
      find(".looks small").textContent = now.token
        ? `token 0, not listed, gets ${wb.percent(found.first)} on average`
        : "the first token attends only to itself";
    root.dataset.token = now.token;
  } catch (error) {
    if (turn === asked) problem.textContent = error.message;
  }
  if (turn === asked) root.classList.remove("busy");
}

const { renew } = wb.offers(element, {
  offer: async () => (await wb.post("data/text/token/offer", inspection())).json(),
  without: ["page", "link"],
});

// A page without a server has no training text.
const seen = wb.seen?.(find(".seen"), () => now && { ...body(), texts: now.text.texts });
find(".seen").hidden = !seen;

// Buttons that add interventions on a token of the prompt, after the selected layer.
const isOfPrompt = () => Boolean(now?.text.spine) || now?.token < now?.text.given;
const state = () => `token ${now.token} at layer ${wb.selection.layer ?? 0}`;
function offerActions() {
  for (const name of ["off", "patch", "features"]) find(`.actions .${name}`).hidden = !isOfPrompt();
  find(".actions .off").textContent = `Off after layer ${wb.selection.layer ?? 0}`;
}
find(".actions .off").addEventListener("click", () => wb.intervene(`${state()} off`));
find(".actions .patch").addEventListener("click", () => wb.draft(`${state()} from "`, '"'));
find(".why").addEventListener("click", () => {
  if (isOfPrompt()) wb.select({ token: now.token }, element);
  wb.turn("Attribution");
});
// On the tab Features: those that are active at this token of the prompt, or one that was clicked on another tab.
find(".actions .features").addEventListener("click", () => {
  wb.select({ token: now.token }, element);
  trigger("explain", {});
  wb.turn("Features");
});
wb.hear("feature", ({ dictionary, feature }) => {
  trigger("feature", { dictionary, feature });
  wb.turn("Features");
});
find(".actions").hidden = Boolean(window.standalone);

wb.hear("inspect", (told) => {
  if (told.text || now?.from === told.from) inspect(told);
});
wb.hear("enter", (from) => now?.from === from && root.querySelector("button.row")?.focus());
find(".swap").addEventListener("click", () => wb.select({ tuned: 1 - (wb.selection.tuned ?? 0) }, element));
wb.hear("selection", () => {
  const turned = asTuned !== Boolean(wb.selection.tuned);
  asTuned = Boolean(wb.selection.tuned);
  if (turned && now && !window.standalone) inspect(now);
});
wb.hear("selection", choose);
wb.hear("selection", () => now && offerActions());
root.addEventListener("keydown", (event) => {
  if (event.key === "Escape") now.from.querySelector("[aria-selected=true]")?.focus();
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const rows = [...(event.target.closest(".rows")?.querySelectorAll("button.row") ?? [])];
  if (!step || !rows.length) return;
  event.preventDefault();
  rows[Math.max(0, Math.min(rows.length - 1, rows.indexOf(event.target) + step))].focus();
});
