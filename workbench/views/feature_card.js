// The card of a feature. value: {empty}, a sentence, or {feature, dictionary, facts, raised, lowered, edges, counts, high,
//   groups, neighbours, called, offer}
//   facts: [[label, number or null, "percent", "count", "number" or "nats"], …]; raised, lowered: [[token, effect], …]
//   edges, counts: the histogram of its activations; high: its largest activation, which has full colour
//   groups: [{title, examples: [{text, position, at, value, tokens, values}, …]}, …]; `at` is the place in `tokens`
//   neighbours: [[dictionary, feature, cosine], …]
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
    number = make("span", "number", wb.digits(value));
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

function example({ text, at, value, tokens, values }, high) {
  const made = make("div", "example"),
    strip = make("span", "tokens"),
    number = make("span", "value", wb.digits(value));
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
  made.append(make("h4", "", title), ...examples.map((each) => example(each, high)));
  return made;
}

// What can be done to it: lines of the stack of edits. They say here which of them hold.
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
  const { empty, feature, dictionary, facts, raised, lowered, groups, neighbours, high, called, offer } =
    props.value ?? {};
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
  find(".groups").replaceChildren(...groups.filter(({ examples }) => examples.length).map((each) => group(each, high)));
  find(".near").hidden = neighbours.length === 0;
  find(".neighbours").replaceChildren(
    ...neighbours.map(([from, number, cosine]) =>
      button(`${from} · ${number} · ${wb.digits(cosine)}`, "Open its card; the last number is the cosine", () =>
        trigger("open", { dictionary: from, feature: number }),
      ),
    ),
  );
}

watch("value", draw);
draw();
