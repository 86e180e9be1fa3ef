// A circuit as a layered graph: the embedding below, the logits above, and between them the heads and the MLP of each
// layer. value: {empty, layers, heads}, a sentence and, if the graph waits for a click, the model's nodes without edges; or
//   {key, title, note, layers, heads, neurons: [[layer, neuron], …], every, effect, unit, edges: [[name, score, error, exact], …], proof, prices,
//    offer, curve, along}
//   edges: the strongest ones first; error and exact may be null. every: the number of all edges of the model
//   effect: what all edges carry; an edge with a score of its sign carries the effect, one of the other works against it
//   proof: [[edges, best, error, without, random, deviation, magnitude, nodes, connected], …], shares of the effect, and
//     how many of the edges lie on a path of them; may be empty
//   prices: {point, curve, edge}, what the buttons cost; curve: the offer of the curve, null if it is not drawn
//   along: {slider, at, names, scores: [[score of each edge], …], edges}, or absent: the graph at each checkpoint of a run;
//     at is the number of the first one shown, from 1, edges the number of edges at first; then nothing is proved
//   of: "features", nodes, tokens, checked, more: of an attribution graph of features, see feature_graph.js; its edges are described there
// Events: `prove` ({edges}), `whole` ({}) for the whole curve, `patch` ({edge}); of features, edges is a number of nodes to
//   take away, and edge the name of one.
const wb = window.workbench;
const SPACE = "http://www.w3.org/2000/svg";
const FIRST = 60; // edges, if nothing is known about how many are enough
const ENOUGH = 0.9; // of the effect
const root = element.querySelector(".circuit");
const find = (selector) => root.querySelector(selector);
const graph = find(".graph svg"),
  chart = find(".curve svg"),
  slider = find(".how-many"),
  reading = find(".reading");
let value = {},
  numbers = [], // of edges, that the slider can choose
  plan = null,
  shown = [], // the edges in the picture: {name, source, targets, input, score, place}
  locked = null, // {edge} or {node}: stays lit
  moment = null; // the checkpoint of `along`, from 0

const svg = (name, attributes, ...children) => {
  const made = document.createElementNS(SPACE, name);
  for (const [key, each] of Object.entries(attributes)) if (each !== null) made.setAttribute(key, each);
  made.append(...children);
  return made;
};
const make = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
};
const counted = (number) => number.toLocaleString("en");
const signed = (number) => `${number > 0 ? "+" : ""}${wb.digits(number)}`;
const fixed = (number) => (Math.abs(number) < 0.005 ? 0 : number).toFixed(2).replace("-", "−");
const unit = () => (value.unit ? ` ${value.unit}` : "");
const chosen = () => numbers[Number(slider.value)] ?? 0;
const helps = (score) => score * (value.effect || 1) >= 0;
const scoreOf = (place) => (moment === null ? value.edges[place][1] : value.along.scores[moment][place]);

// The numbers that the slider offers: about as many for each power of ten, and those that were proved.
function stops() {
  const most = value.edges.length,
    found = new Set([FIRST, ...value.proof.map(([edges]) => edges)]);
  for (let step = 0; step <= 60; step++) found.add(Math.round(most ** (step / 60)));
  return [...found].filter((edges) => edges >= 1 && edges <= most).sort((a, b) => a - b);
}

function choose(edges) {
  slider.max = Math.max(1, numbers.length - 1);
  const nearest = numbers.reduce((best, each, index) => {
    return Math.abs(each - edges) < Math.abs(numbers[best] - edges) ? index : best;
  }, 0);
  slider.value = nearest;
}

function atFirst() {
  const asked = Number(wb.remembered("circuit_edges")),
    enough = value.proof.find(([edges, share]) => edges > 0 && edges < value.every && share >= ENOUGH);
  if (asked >= 1) return asked;
  return value.along ? value.along.edges : (enough?.[0] ?? Math.min(FIRST, value.edges.length));
}

function endsOf(name) {
  if (!value.nodes) return wb.edgeEnds(name);
  const [source, target] = name.split(" → ");
  return { source, targets: [target], input: "" };
}

const planned = (width, height) =>
  value.nodes ? wb.features.plan(value, shown, width, height) : wb.layered(value, width, height);

// The strongest edges at the moment, as many as chosen.
function strongest() {
  const places = value.edges.map((_, place) => place);
  if (moment !== null) places.sort((a, b) => Math.abs(scoreOf(b)) - Math.abs(scoreOf(a)));
  return places.slice(0, chosen()).map((place) => {
    const [name] = value.edges[place];
    return { name, place, score: scoreOf(place), ...endsOf(name) };
  });
}

function largest() {
  const all = value.along ? value.along.scores.flat() : value.edges.map(([, score]) => score);
  return all.reduce((most, each) => Math.max(most, Math.abs(each)), 1e-12);
}

const widthOf = (score, most, { column } = plan) => {
  const full = Math.max(2.5, Math.min(10, 0.2 * column));
  return 0.7 + ((full - 0.7) * Math.abs(score)) / most;
};
const lineOf = ([x, y, ...curves]) => `M${x} ${y}${curves.map((curve) => `C${curve.join(" ")}`).join("")}`;

const SHAPES = {
  box: ({ x, y, width, height }) => {
    const place = { x: x - width / 2, y: y - height / 2, width, height };
    return svg("rect", { ...place, rx: Math.min(6, height / 3), class: "shape" });
  },
  dot: ({ x, y, width }) => svg("circle", { cx: x, cy: y, r: width / 2, class: "shape" }),
  diamond: ({ x, y, width, height }) => {
    const points = `${x - width / 2},${y} ${x},${y - height / 2} ${x + width / 2},${y} ${x},${y + height / 2}`;
    return svg("polygon", { points, class: "shape" });
  },
};

function nodeMark(node, inside) {
  const { name, x, y, width, height, layer, text, ports, shape, mark: verdict } = node,
    written = (attributes, words) => {
      const made = svg("text", { "text-anchor": "middle", ...attributes });
      made.textContent = words;
      return made;
    };
  const mark = svg("g", {
    class: `node${inside ? " in" : ""}${text ? "" : " small"}${node.button ? "" : " plain"} ${value.nodes?.[name]?.kind ?? ""}`,
  });
  mark.append(svg("title", {}, name), SHAPES[shape](node));
  if (text) mark.append(written({ class: "name", x: verdict ? x - 5 : x, y: y + (ports ? -3 : 4) }, text));
  if (verdict) mark.append(written({ class: "verdict", x: text ? x + width / 2 - 8 : x, y: y + 4 }, verdict));
  for (const [letter, side] of Object.entries(ports ?? {})) {
    mark.append(written({ x: x + side * width, y: y + height / 2 - 4 }, letter));
  }
  Object.assign(mark.dataset, { name, layer, column: node.column });
  mark.setAttribute("role", "button");
  mark.setAttribute("tabindex", "-1");
  mark.setAttribute("aria-label", inside ? saidOfNode(name).join(". ") : `${name}: no edge of this circuit`);
  return mark;
}

function labels() {
  return plan.labels.map(({ x, y, text }) => {
    const label = svg("text", { x, y, "text-anchor": "middle", class: "label" });
    label.textContent = text;
    return label;
  });
}

function drawGraph() {
  const { width, height } = graph.getBoundingClientRect();
  if (!width || !value.edges) return;
  shown = strongest();
  plan = planned(width, height);
  const most = largest(),
    inside = new Set(shown.flatMap(({ source, targets }) => [source, ...targets]));
  const lines = svg("g", { class: "lines" }),
    touches = svg("g", {});
  for (const edge of [...shown].reverse()) {
    const d = lineOf(plan.path(edge.name)),
      against = helps(edge.score) ? "" : " against";
    lines.append(
      svg("path", { d, class: `edge${against}`, "stroke-width": widthOf(edge.score, most), "data-edge": edge.name }),
    );
    touches.append(svg("path", { d, class: "touch", "data-edge": edge.name }));
  }
  const nodes = svg("g", { class: "nodes" });
  nodes.append(...Object.values(plan.nodes).map((node) => nodeMark(node, inside.has(node.name))));
  const focused = document.activeElement?.dataset?.name;
  graph.setAttribute("viewBox", `0 0 ${width} ${height}`);
  graph.replaceChildren(lines, touches, ...labels(), nodes);
  graph.setAttribute("aria-label", `${value.title}: ${counted(shown.length)} edges. The table below lists them.`);
  markNodes();
  if (focused && markOf(focused)) focusNode(focused);
  light(locked);
}

// What is said of an edge or a node, the first part as a heading.
function saidOfEdge(name) {
  const place = value.edges.findIndex(([each]) => each === name);
  if (place < 0) return [name];
  if (value.nodes) return wb.features.saidOfEdge(value.edges[place]);
  const score = scoreOf(place),
    [, , error, exact] = value.edges[place],
    share = value.effect && moment === null ? score / value.effect : null;
  const told = [
    `${name}: ${signed(score)}${moment === null && error !== null ? ` ± ${wb.digits(error)}` : ""}${unit()}`,
  ];
  if (share !== null) told.push(`${fixed(share)} of the effect, estimated from gradients.`);
  if (moment === null)
    told.push(exact === null ? "Not patched exactly yet." : `Patched alone, exactly: ${signed(exact)}${unit()}.`);
  return told;
}

function saidOfNode(name) {
  if (value.nodes) return wb.features.saidOfNode(value, name, shown);
  const into = shown.filter(({ targets }) => targets.includes(name)),
    out = shown.filter(({ source }) => source === name);
  const part = (other, input, score) => `${other}${input ? ` (${input})` : ""} ${signed(score)}`;
  const list = (parts) => parts.slice(0, 5).join(", ") + (parts.length > 5 ? `, and ${parts.length - 5} more` : "");
  const told = [name];
  if (into.length) told.push(`Reads ${list(into.map(({ source, input, score }) => part(source, input, score)))}`);
  if (out.length)
    told.push(
      `Read by ${list(out.map(({ name: edge, score }) => `${edge.split(" → ")[1]} ${signed(score)}`))}${unit()}`,
    );
  return told;
}

// The edges of all paths through a node within the circuit.
function pathsThrough(name) {
  const found = new Set();
  const follow = (step) => {
    const open = [name],
      seen = new Set(open);
    while (open.length) {
      const here = open.pop();
      for (const [edge, next] of step(here)) {
        found.add(edge);
        for (const each of next) if (!seen.has(each)) seen.add(each) && open.push(each);
      }
    }
  };
  follow((here) => shown.filter(({ source }) => source === here).map(({ name: edge, targets }) => [edge, targets]));
  follow((here) => shown.filter(({ targets }) => targets.includes(here)).map((each) => [each.name, [each.source]]));
  return found;
}

function light(what) {
  const edge = what?.edge ?? null,
    node = what?.node ?? null,
    on = edge ? new Set([edge]) : node ? pathsThrough(node) : new Set();
  const ends = new Set(node ? [node] : []);
  for (const each of shown.filter(({ name }) => on.has(name)))
    for (const end of [each.source, ...each.targets]) ends.add(end);
  graph.classList.toggle("lit", Boolean(what));
  for (const path of graph.querySelectorAll(".edge")) path.classList.toggle("on", on.has(path.dataset.edge));
  for (const mark of graph.querySelectorAll(".node")) mark.classList.toggle("on", ends.has(mark.dataset.name));
  for (const row of find("tbody").children) row.ariaCurrent = row.dataset.edge === edge ? "true" : null;
  const told = edge ? saidOfEdge(edge) : node ? saidOfNode(node) : value.nodes ? wb.features.LEGEND : [];
  reading.replaceChildren(...told.map((text, index) => make(index ? "p" : "b", "", text)));
  offerMore(edge, node);
}

// The buttons below what is said: the exact effect of an edge; the card of a feature, and a run without the node.
function offerMore(edge, node) {
  const patch = find(".patch"),
    known = value.edges?.find(([name]) => name === edge),
    about = locked?.node === node ? value.nodes?.[node] : null;
  const isOpen = value.nodes
    ? about?.verdict === "" && about.effect !== 0
    : locked?.edge === edge && known?.[3] === null;
  patch.hidden = !(isOpen && value.prices?.edge) || ["token", "logit"].includes(about?.kind);
  patch.textContent = patch.hidden ? "" : `${value.nodes ? "Take it away" : "Patch it exactly"} (${value.prices.edge})`;
  find(".card-of").hidden = about?.kind !== "feature";
}

function lock(what) {
  const same = what && locked && what.edge === locked.edge && what.node === locked.node;
  locked = same ? null : what;
  light(locked);
}

// The sentence of proof, for the number of edges that the slider has.
function saidOfProof() {
  if (value.along) return saidOfMoment();
  if (value.nodes) return wb.features.saidOfGraph(value, shown);
  const edges = chosen(),
    of = `${counted(edges)} of ${counted(value.every)} edges`;
  const at = value.proof.find(([each]) => each === edges);
  if (at) {
    const [, best, error, without, random, deviation, magnitude, nodes, connected] = at,
      dead = edges - connected;
    return (
      `${fixed(best)}${error === null ? "" : ` ± ${fixed(error)}`} of the effect with ${of}, ${fixed(without)} without ` +
      `these; random circuits of this size ${fixed(random)} ± ${fixed(deviation)}, edges by magnitude ` +
      `${fixed(magnitude)}, whole nodes ${fixed(nodes)}.${dead ? ` ${counted(dead)} of these edges lead nowhere.` : ""}`
    );
  }
  const below = value.proof.filter(([each]) => each > 0 && each < edges).at(-1),
    above = value.proof.find(([each]) => each > edges && each < value.every);
  const near = [below, above].filter(Boolean).map(([each, share]) => `${fixed(share)} with ${counted(each)}`);
  return `Not run with ${of} yet${near.length ? `; ${near.join(", ")}` : ""}.`;
}

function saidOfMoment() {
  return `${value.along.names[moment]}: the ${counted(chosen())} strongest edges of ${counted(value.every)}.`;
}

function tell() {
  find(".proof").textContent = saidOfProof();
  find(".count").textContent = `${counted(chosen())} of ${counted(value.every)}`;
  slider.setAttribute("aria-valuetext", `${counted(chosen())} of ${counted(value.every)} edges`);
  const prove = find(".prove"),
    isKnown = value.proof.some(([edges]) => edges === chosen()),
    what = value.nodes ? `Prove it with ${counted(value.more)} nodes` : `Prove it at ${counted(chosen())} edges`;
  prove.hidden = isKnown || !value.prices?.point;
  prove.textContent = prove.hidden ? "" : `${what} (${value.prices.point})`;
}

function drawTable() {
  const along = moment !== null,
    ofCircuit = along ? ["edge", `score${unit()}`] : ["edge", `score${unit()}`, "±", "share", "patched alone"],
    heads = value.nodes ? wb.features.COLUMNS : ofCircuit;
  find("thead tr").replaceChildren(...heads.map((text) => make("th", "", text)));
  if (!find(".listed").open) return find("tbody").replaceChildren();
  const rows = shown.map(({ name, place, score }) => {
    const row = make("tr", ""),
      edge = make("td", ""),
      button = make("button", "", name),
      [, , error, exact] = value.edges[place];
    button.type = "button";
    edge.append(button);
    row.dataset.edge = name;
    const ofCircuit = along ? [score] : [score, error, value.effect ? score / value.effect : null, exact],
      cells = value.nodes ? [Math.abs(score), error, exact] : ofCircuit;
    const said = (number, index) => {
      if (number === null) return "–";
      if (value.nodes) return index === 1 ? signed(number) : wb.percent(number);
      return index === 1 ? wb.digits(number) : signed(number);
    };
    row.append(
      edge,
      ...cells.map((number, index) => {
        const cell = make("td", "", said(number, index));
        cell.title = number ?? "";
        return cell;
      }),
    );
    return row;
  });
  find("tbody").replaceChildren(...rows);
}

// The curve of faithfulness: the number of edges on a logarithmic axis, the share of the effect upwards.
function drawCurve() {
  const { width, height } = chart.getBoundingClientRect();
  if (!width || value.along || value.nodes) return;
  const room = { left: 26, right: 8, top: 8, bottom: 30 };
  const shares = value.proof.flatMap(([, best, , without, random]) => [best, without, random]),
    high = Math.max(1, ...shares),
    low = Math.min(0, ...shares);
  const x = (edges) => room.left + ((width - room.left - room.right) * Math.log(edges + 1)) / Math.log(value.every + 1),
    y = (share) => room.top + ((height - room.top - room.bottom) * (high - share)) / (high - low);
  const made = [];
  const word = (text, attributes) => {
    const label = svg("text", attributes);
    label.textContent = text;
    made.push(label);
  };
  for (const share of [0, 0.5, 1]) {
    made.push(svg("line", { class: "axis", x1: room.left, x2: width - room.right, y1: y(share), y2: y(share) }));
    word(String(share), { x: room.left - 4, y: y(share) + 4, "text-anchor": "end" });
  }
  const tens = [0, ...[1, 10, 100, 1000, 1e4, 1e5].filter((edges) => edges < value.every / 3), value.every];
  for (const edges of tens.filter((_, index) => tens.length < 6 || index % 2 === 0 || index === tens.length - 1)) {
    const last = edges === value.every;
    word(edges >= 1e4 ? `${Math.round(edges / 1000)}k` : counted(edges), {
      x: last ? width - room.right : x(edges),
      y: height - 16,
      "text-anchor": last ? "end" : "middle",
    });
  }
  word("edges kept", { x: (width + room.left) / 2, y: height - 2, "text-anchor": "middle" });
  const points = value.proof,
    through = (pick) => points.map((row) => `${x(row[0])} ${y(pick(row))}`).join(" ");
  if (points.length) {
    const band = `${through((row) => row[4] + row[5])} ${[...points]
      .reverse()
      .map((row) => `${x(row[0])} ${y(row[4] - row[5])}`)
      .join(" ")}`;
    made.push(svg("polygon", { class: "spread", points: band }));
    const lines = { without: (row) => row[3], random: (row) => row[4], best: (row) => row[1] };
    for (const [name, pick] of Object.entries(lines)) {
      made.push(svg("polyline", { class: `line ${name}`, points: through(pick) }));
    }
    for (const row of points) made.push(svg("circle", { class: "best", cx: x(row[0]), cy: y(row[1]), r: 2.5 }));
  }
  const at = x(chosen());
  made.push(svg("line", { class: "here", x1: at, x2: at, y1: room.top, y2: height - room.bottom }));
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.replaceChildren(...made);
  chart.setAttribute(
    "aria-label",
    `Share of the effect that is kept. ${points.map((row) => `${row[0]} edges: ${fixed(row[1])}, random ${fixed(row[4])}`).join("; ")}`,
  );
  chart.placeOf = (event) => {
    const share = (event.clientX - chart.getBoundingClientRect().left - room.left) / (width - room.left - room.right);
    return Math.exp(Math.min(1, Math.max(0, share)) * Math.log(value.every + 1)) - 1;
  };
}

// The nodes of the model without an edge, in place of a graph that waits for a click.
function drawSketch() {
  const sketch = find(".sketch"),
    { width, height } = sketch.getBoundingClientRect();
  if (!value.empty || !value.layers || !width) return;
  const { nodes, labels: words } = wb.layered(value, width, height),
    said = ({ x, y, text }) => {
      const made = svg("text", { x, y, "text-anchor": "middle" });
      made.textContent = text;
      return made;
    };
  const boxes = Object.values(nodes).flatMap((node) => [SHAPES.box(node), said({ ...node, y: node.y + 4 })]);
  sketch.setAttribute("viewBox", `0 0 ${width} ${height}`);
  sketch.replaceChildren(...boxes, ...words.map(said));
}

function amount() {
  drawGraph();
  tell();
  drawTable();
  drawCurve();
}

function markNodes() {
  const { layer, head } = wb.selection,
    name = `L${layer}H${head}`;
  for (const mark of graph.querySelectorAll(".node"))
    mark.classList.toggle("chosen", layer !== null && mark.dataset.name === name);
  const stop =
    graph.querySelector(".node.chosen") ?? graph.querySelector(".node.in:not(.plain)") ?? graph.querySelector(".node");
  stop?.setAttribute("tabindex", "0");
}

const markOf = (name) => graph.querySelector(`.node[data-name="${CSS.escape(name)}"]`);

function focusNode(name) {
  for (const mark of graph.querySelectorAll(".node[tabindex='0']")) mark.setAttribute("tabindex", "-1");
  const mark = markOf(name);
  mark?.setAttribute("tabindex", "0");
  mark?.focus();
}

function select(name) {
  if (value.nodes) return wb.select({ token: value.nodes[name].position }, "circuit");
  const head = /^L(\d+)H(\d+)$/.exec(name);
  if (head) wb.select({ layer: Number(head[1]), head: Number(head[2]) }, "circuit");
}

const under = (event) => {
  const node = event.target.closest?.(".node")?.dataset.name,
    edge = event.target.closest?.("[data-edge]")?.dataset.edge;
  return node ? { node } : edge ? { edge } : null;
};
graph.addEventListener("pointerover", (event) => light(under(event) ?? locked));
graph.addEventListener("pointerleave", () => light(locked));
graph.addEventListener("focusin", (event) => light(under(event)));
graph.addEventListener("focusout", () => light(locked));
graph.addEventListener("click", (event) => press(under(event)));
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };
graph.addEventListener("keydown", (event) => {
  const here = event.target.closest?.(".node");
  if (!here) return;
  if (event.key === "Escape") return lock(null);
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    return press({ node: here.dataset.name });
  }
  if (!STEPS[event.key]) return;
  event.preventDefault();
  const next = beside(plan.nodes[here.dataset.name], STEPS[event.key]);
  if (next) focusNode(next.name);
});

// The next node of a layer, or the nearest one of the next layer that has nodes.
function beside(here, [up, right]) {
  const all = Object.values(plan.nodes);
  if (right) {
    const row = all.filter(({ layer }) => layer === here.layer).sort((a, b) => a.x - b.x || a.y - b.y);
    return row[row.indexOf(here) + right];
  }
  const further = all.filter(({ layer }) => (layer - here.layer) * up > 0),
    nearest = Math.min(...further.map(({ layer }) => Math.abs(layer - here.layer)));
  const row = further.filter(({ layer }) => Math.abs(layer - here.layer) === nearest);
  return row.sort((a, b) => Math.abs(a.x - here.x) - Math.abs(b.x - here.x))[0];
}
find("tbody").addEventListener("click", ({ target }) => {
  const row = target.closest("tr");
  if (row) lock({ edge: row.dataset.edge });
});
find("tbody").addEventListener("focusin", ({ target }) => light({ edge: target.closest("tr").dataset.edge }));
find("tbody").addEventListener("focusout", () => light(locked));
find(".listed").addEventListener("toggle", drawTable);
slider.addEventListener("input", () => {
  wb.remember(["circuit_edges"], [chosen()]);
  amount();
});
chart.addEventListener("click", (event) => {
  choose(chart.placeOf(event));
  slider.dispatchEvent(new Event("input"));
});
find(".prove").addEventListener("click", () => trigger("prove", { edges: value.nodes ? value.more : chosen() }));
find(".whole").addEventListener("click", () => trigger("whole", {}));
find(".patch").addEventListener("click", () => trigger("patch", { edge: locked.edge ?? locked.node }));
find(".card-of").addEventListener("click", () => openCard(locked.node));

// A press locks a node or an edge; on a feature that is locked already, it opens its card.
function press(what) {
  const isFeature = value.nodes?.[what?.node]?.kind === "feature";
  if (isFeature && what.node === locked?.node) return openCard(what.node);
  lock(what);
  if (what?.node) select(what.node);
}

function openCard(name) {
  const { kind, dictionary, feature } = value.nodes?.[name] ?? {};
  if (kind === "feature") wb.say("feature", { dictionary, feature });
}

// The picture for a file is wider than most windows, so that the nodes have room for their names.
async function savePicture(format) {
  const wide = planned(1000, Math.max(560, 30 * value.layers)),
    most = largest();
  const edges = [...shown].reverse().map(({ name, score }) => {
    return { name, width: widthOf(score, most, wide), against: !helps(score) };
  });
  const told = { title: value.title, said: find(".proof").textContent, about: value.offer.about };
  const inside = new Set(shown.flatMap(({ source, targets }) => [source, ...targets]));
  wb.save(await wb.layeredPicture(format, wide, edges, inside, told), `${value.offer.file}.${format}`);
}

const { renew } = wb.offers(find(".heading"), {
  offer: async () => value.offer,
  more: {
    png: () => savePicture("png"),
    svg: () => savePicture("svg"),
    edges: () => wb.download(`data/export/${value.offer.key}.edges`),
    json: () => wb.download(`data/export/${value.offer.key}.json`),
  },
});
const ofCurve = wb.offers(find(".curve-offers"), {
  offer: async () => value.curve,
  without: ["png", "svg", "link"],
});

function draw() {
  const before = value.key;
  value = props.value ?? {};
  const isThere = Boolean(value.edges);
  root.classList.toggle("of-features", value.of === "features");
  find(".none").textContent = value.empty ?? "";
  find(".sketch").replaceChildren(...(value.empty && value.layers ? [svg("g", {})] : []));
  drawSketch();
  find(".title").textContent = value.title ?? "";
  find(".note").textContent = value.note ?? "";
  for (const part of [".amount", ".plates", ".listed"]) find(part).hidden = !isThere;
  find(".heading .offers").hidden = !value.offer;
  find(".curve").hidden = !isThere || Boolean(value.along) || Boolean(value.nodes);
  for (const name of ["edges", "json"]) find(`.offers .${name}`).hidden = !value.nodes;
  find(".curve-offers .offers").hidden = !value.curve;
  renew();
  ofCurve.renew();
  if (!isThere) return find(".proof").replaceChildren();
  const kept = before === value.key ? chosen() : atFirst();
  if (before !== value.key) locked = null;
  moment = value.along ? value.along.at - 1 : null;
  numbers = stops();
  choose(kept);
  find(".whole").hidden = !value.prices?.curve;
  find(".whole").textContent = value.prices?.curve ? `Draw the whole curve (${value.prices.curve})` : "";
  amount();
  element.dataset.drawn = value.key;
}

// The player moves a slider of Gradio's, and waits until this view has drawn.
document.addEventListener("input", ({ target }) => {
  if (!value.along || !target.closest?.(`#${value.along.slider}`)) return;
  moment = Math.min(Math.max(Number(target.value), 1), value.along.scores.length) - 1;
  amount();
  element.dataset.drawn = `${value.key} ${moment}`;
});
new ResizeObserver(() => value.edges && amount()).observe(graph.parentElement);
new ResizeObserver(drawSketch).observe(find(".sketch"));
wb.hear("selection", markNodes);
watch("value", draw);
draw();
