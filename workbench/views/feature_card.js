// The card of a feature. value: {empty}, a sentence, or {feature, dictionary, facts, raised, lowered, edges, counts, high,
//   groups, neighbours, called, silent, life, offer}
//   facts: [[label, number or null, "percent", "count", "number" or "nats"], …]; raised, lowered: [[token, effect], …]
//   edges, counts: the histogram of its activations; high: its largest activation, which has full colour
//   groups: [{title, examples: [{text, position, at, value, tokens, values}, …]}, …]; `at` is the place in `tokens`
//   neighbours: [[dictionary, feature, cosine], …]; silent: a sentence if it is never active
//   life: {steps, norms, born, died, floor, ends, fires, scaled} of a crosscoder along a run; born and died are steps or
//     null, ends the norms at the ends of the run that differ in data order only; if births were measured on texts, fires
//     is the share of tokens at which each step has it, and scaled its step of birth after latent scaling
// Events: `open` ({dictionary, feature}), a click on a neighbour; `use` ({text}), a click on the number of a text;
//   `called` ({dictionary, feature, name}), a name that was typed.
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);

const make = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
};
const button = (text, title, act) => {
  const made = make("button", "", text);
  Object.assign(made, { type: "button", title });
  made.addEventListener("click", act);
  return made;
};
const SHOWN = {
  percent: wb.percent,
  count: (value) => value.toLocaleString("en"),
  number: wb.digits,
  nats: (value) => `${value > 0 ? "+" : ""}${wb.digits(value)} nats`,
};

function fact([label, value, kind]) {
  const made = make("div", "");
  const number = make("dd", "", value === null ? "–" : SHOWN[kind](value));
  number.title = value ?? "";
  made.append(make("dt", "", label), number);
  return made;
}

function effect([token, value], _, all) {
  const made = make("p", "line"),
    name = make("b", ""),
    bar = make("span", "bar"),
    number = make("span", "number", wb.column(all.map(([, each]) => each))(value));
  wb.write(name, token);
  name.title = token;
  bar.style.width = `${(100 * Math.abs(value)) / Math.max(...all.map(([, each]) => Math.abs(each)), 1e-9)}%`;
  number.title = value;
  made.append(name, bar, number);
  return made;
}

function histogram({ edges, counts }) {
  const most = Math.max(...counts, 1);
  find(".spread").hidden = counts.length === 0;
  find(".histogram").replaceChildren(
    ...counts.map((count, index) => {
      const bar = make("span", "");
      bar.style.height = `${(100 * count) / most}%`;
      bar.title = `${wb.digits(edges[index])} to ${wb.digits(edges[index + 1])}: ${count.toLocaleString("en")} tokens`;
      return bar;
    }),
  );
  find(".histogram").setAttribute("aria-label", `${counts.length} bins, at most ${most} tokens in one`);
  find(".low").textContent = wb.digits(edges[0]);
  find(".high").textContent = wb.digits(edges.at(-1));
}

function example({ text, at, value, tokens, values }, high, written) {
  const made = make("div", "example"),
    strip = make("span", "tokens"),
    number = make("span", "value", written(value));
  number.title = value;
  tokens.forEach((token, index) => {
    const cell = make("span", index === at ? "token at" : "token");
    wb.write(cell, token);
    cell.style.setProperty("--part", Math.min(1, values[index] / (high || 1)).toFixed(2));
    cell.title = `activation ${wb.digits(values[index])}`;
    strip.append(cell);
  });
  made.append(
    number,
    strip,
    button(`text ${text}`, "Make it the prompt", () => trigger("use", { text })),
  );
  return made;
}

function group({ title, examples }, high) {
  const made = make("section", "");
  const written = wb.column(examples.map(({ value }) => value));
  made.append(make("h4", "", title), ...examples.map((each) => example(each, high, written)));
  return made;
}

const SVG = "http://www.w3.org/2000/svg",
  WIDE = 560,
  HIGH = 132,
  EDGE = { left: 36, right: 44, top: 16, bottom: 20 };
function mark(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// The norms at the checkpoints, evenly spaced; the ends of other data orders are rings beside the last one.
function life({ steps, norms, born, died, floor, ends, fires, scaled }) {
  const most = Math.max(...norms, ...ends, floor, 1e-9),
    wide = WIDE - EDGE.left - EDGE.right,
    high = HIGH - EDGE.top - EDGE.bottom;
  const x = (index) => EDGE.left + (wide * index) / Math.max(1, steps.length - 1),
    y = (norm) => EDGE.top + high * (1 - norm / most);
  const across = (name, at) => mark("line", { class: name, x1: EDGE.left, x2: WIDE - EDGE.right, y1: at, y2: at });
  const drawn = mark("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img" });
  drawn.append(
    across("axis", y(0)),
    mark("text", { x: 0, y: y(most) + 4 }, wb.digits(most)),
    mark("text", { x: 0, y: y(0) + 4 }, "0"),
  );
  if (floor > 0) drawn.append(across("floor", y(floor)));
  for (const [name, step, word] of [
    ["born", born, "born"],
    ["died", died, "gone"],
  ]) {
    if (step === null) continue;
    const at = x(steps.indexOf(step));
    drawn.append(
      mark("line", { class: name, x1: at, x2: at, y1: EDGE.top, y2: y(0) }),
      mark("text", { x: at, y: 11, "text-anchor": "middle" }, word),
    );
  }
  drawn.append(mark("polyline", { points: norms.map((norm, index) => `${x(index)},${y(norm)}`).join(" ") }));
  norms.forEach((norm, index) => {
    const dot = mark("circle", { cx: x(index), cy: y(norm), r: 3 });
    dot.append(mark("title", {}, `step ${steps[index].toLocaleString("en")}: ${norm}`));
    drawn.append(
      dot,
      mark("text", { x: x(index), y: HIGH - 5, "text-anchor": "middle" }, steps[index].toLocaleString("en")),
    );
  });
  ends.forEach((norm) => {
    const ring = mark("circle", { class: "end", cx: WIDE - EDGE.right + 18, cy: y(norm), r: 3.5 });
    ring.append(mark("title", {}, `an end of the run: ${norm}`));
    drawn.append(ring);
  });
  const when =
    born === null
      ? "Its norm is nowhere above the floor, so it has no step of birth."
      : `Born at step ${born.toLocaleString("en")}${died === null ? "" : `, gone at step ${died.toLocaleString("en")}`}: the first checkpoint that holds at least half of its largest norm, in one stretch with it.`;
  const rings = ends.length > 1 ? " Rings: the ends of the run, which differ in data order only." : "";
  const dashes =
    floor > 0 ? " Dashed: the floor, the difference between ends that 99 % of the features stay below." : "";
  drawn.setAttribute("aria-label", `norms ${norms.map(wb.digits).join(", ")}. ${when}`);
  find(".life .curve").replaceChildren(drawn);
  const told = [`${when} Norms are relative to the size of the activations of each checkpoint.${rings}${dashes}`];
  if (scaled !== undefined)
    told.push(
      scaled === null
        ? "After latent scaling it has no step of birth."
        : `Born at step ${scaled.toLocaleString("en")} after latent scaling, which also finds a feature while its norm is still small.`,
    );
  if (fires !== undefined)
    told.push(
      `Share of the tokens of these texts at which it fires: ${fires.map((share, index) => `${wb.percent(share)} (step ${steps[index].toLocaleString("en")})`).join(", ")}.`,
    );
  find(".lived").textContent = told.join(" ");
}

// Buttons that put edits of the feature on the stack; they show which edits are on it.
let lines = [];
const named = () => `feature ${props.value.dictionary}/${props.value.feature}`;
function hold() {
  if (props.value?.facts === undefined) return;
  const mine = lines.filter((line) => line.includes(`${named()} `) || line.endsWith(named()));
  find(".held").textContent = mine.length ? `In force: ${mine.join(", ")}` : "";
}
wb.hear("interventions", (now) => {
  lines = now;
  hold();
});
find(".off").addEventListener("click", () => wb.intervene(`${named()} off`));
find(".steer").addEventListener("click", () => {
  const strength = Number(find(".strength").value);
  if (find(".strength").value === "" || !Number.isFinite(strength)) return find(".strength").focus();
  wb.intervene(`${strength < 0 ? "-" : "+"}${Math.abs(strength)} ${named()}`);
});

find(".called").addEventListener("change", ({ target }) => {
  const { dictionary, feature } = props.value;
  trigger("called", { dictionary, feature, name: target.value });
});

const { renew } = wb.offers(element, {
  offer: async () => props.value.offer,
  without: ["png", "svg", "page"],
});

function draw() {
  const {
    empty,
    feature,
    dictionary,
    facts,
    raised,
    lowered,
    groups,
    neighbours,
    high,
    called,
    silent,
    life: born,
    offer,
  } = props.value ?? {};
  const isCard = facts !== undefined;
  find(".none").textContent = empty ?? "";
  find(".whole").hidden = !isCard;
  find(".offers").hidden = !offer;
  renew();
  if (!isCard) return;
  find(".name").textContent = `Feature ${feature}`;
  find(".called").value = called ?? "";
  find(".called").title = "Kept in feature-names.json in the workbench's cache folder; exports have it too";
  find(".from").textContent = dictionary;
  find(".strength").value = high ? Number((2 * high).toPrecision(2)) : 8; // twice its largest activation is seen
  hold();
  find(".facts").replaceChildren(...facts.map(fact));
  for (const [name, effects] of Object.entries({ raised, lowered })) {
    find(`.${name}`).replaceChildren(...effects.map(effect));
    find(`.${name}`).parentElement.hidden = effects.length === 0;
  }
  histogram(props.value);
  find(".silent").textContent = silent ?? "";
  find(".life").hidden = !born;
  if (born) life(born);
  find(".groups").replaceChildren(...groups.filter(({ examples }) => examples.length).map((each) => group(each, high)));
  find(".near").hidden = neighbours.length === 0;
  find(".neighbours").replaceChildren(
    ...neighbours.map(([from, number, cosine]) =>
      button(
        `${short(from, neighbours)} · ${number} · cosine ${cosine.toFixed(2)}`,
        `Open the card of feature ${number} of ${from}`,
        () => trigger("open", { dictionary: from, feature: number }),
      ),
    ),
  );
}

// The last part of a dictionary's name, if no other neighbour's dictionary has the same last part.
function short(name, neighbours) {
  const last = name.split("/").at(-1);
  return neighbours.every(([other]) => other === name || other.split("/").at(-1) !== last) ? last : name;
}

watch("value", draw);
draw();
