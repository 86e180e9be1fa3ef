// An attribution graph of features as a layered graph: where its nodes stand, and what is said of nodes and edges.
// value (see circuit_graph.js) has `nodes` by name: {kind, layer, position, value, influence, weight, effect, measured,
//   held, verdict, meaning}, a feature also {feature, dictionary}, a logit {text, probability}; and
//   edges: [[name, influence with the sign of the value, value, share of what enters the target], …]
//   tokens: of the prompt; checked: {nodes, confirmed, "in part", contradicted, correlation, inner}
//   more: how many nodes the next proof takes away; `prices`: {point: its price, edge: that of one node}
{
  const MARGIN = { left: 34, right: 6, top: 30, bottom: 30 };
  const GAP = 5; // pixels between the nodes of a cell
  const DOT = { least: 5, most: 14 },
    BOX = { width: 46, height: 20 }; // of a feature, without and with its number
  const UNUSED = 0.3; // the width of a position without an edge, in nodes
  const VERDICTS = { confirmed: "✓", "in part": "≈", contradicted: "✗" };

  const clipped = (text, width) => {
    const most = Math.max(1, Math.floor(width / 7));
    return text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text;
  };

  // The nodes of each cell, one layer at one position, the most influential first: {"2 5": [name, …]}.
  function cellsOf(nodes, names) {
    const cells = {};
    const inner = names.filter((name) => ["feature", "error"].includes(nodes[name].kind));
    inner.sort((a, b) => nodes[b].influence - nodes[a].influence);
    for (const name of inner) {
      const key = `${nodes[name].layer} ${nodes[name].position}`;
      cells[key] = [...(cells[key] ?? []), name];
    }
    return cells;
  }

  // The width of each position, in nodes, if a cell has room for so many lines.
  function widths(tokens, cells, used, lines, least) {
    const found = tokens.map((_, position) => (used.has(position) ? least : UNUSED));
    for (const [key, names] of Object.entries(cells)) {
      const position = Number(key.split(" ")[1]);
      found[position] = Math.max(found[position], Math.ceil(names.length / lines) + 0.4);
    }
    return found;
  }

  // As `wb.layered`, of the edges that are shown.
  function featurePlan(value, edges, width, height) {
    const { tokens, layers } = value,
      row = (height - MARGIN.top - MARGIN.bottom - 8) / layers,
      wide = width - MARGIN.left - MARGIN.right;
    const inside = [...new Set(edges.flatMap(({ source, targets }) => [source, ...targets]))],
      of = (name) => value.nodes[name],
      cells = cellsOf(value.nodes, inside),
      used = new Set(inside.map((name) => of(name).position));
    const linesOf = (tall) => Math.max(1, Math.floor((row - 6) / (tall + GAP)));
    const unitOf = (all) => wide / all.reduce((sum, each) => sum + each, 0);
    let lines = linesOf(BOX.height),
      parts = widths(tokens, cells, used, lines, 1),
      unit = unitOf(parts);
    const named = unit >= BOX.width + GAP && row >= BOX.height + 6;
    let size = BOX;
    if (!named) {
      lines = linesOf(DOT.most);
      parts = widths(tokens, cells, used, lines, 2);
      unit = unitOf(parts);
      const side = Math.max(DOT.least, Math.min(DOT.most, unit - 2, row - 4));
      size = { width: side, height: side };
    }
    unit = Math.min(unit, 3 * (size.width + GAP)); // few nodes do not stand far apart
    const starts = [];
    let x = MARGIN.left;
    const stretch = wide / parts.reduce((sum, each) => sum + each, 0);
    for (const part of parts) {
      starts.push(x);
      x += part * stretch;
    }
    const centre = (position) => starts[position] + (parts[position] * stretch) / 2;
    const nodes = {};
    const put = (name, place) => {
      nodes[name] = { name, column: place.x, shape: "box", button: true, printed: place.text, ...place };
    };
    for (const [position, token] of tokens.entries()) {
      const name = Object.keys(value.nodes).find((each) => {
        return of(each).kind === "token" && of(each).position === position;
      });
      if (name === undefined || !inside.includes(name)) continue;
      const box = Math.max(8, parts[position] * stretch - 4);
      put(name, { layer: -1, x: centre(position), y: height - 13, width: box, height: 20, text: clipped(token, box) });
    }
    for (const [key, names] of Object.entries(cells)) {
      const [layer, position] = key.split(" ").map(Number),
        high = Math.min(lines, names.length),
        across = Math.ceil(names.length / high),
        step = Math.min(unit, (parts[position] * stretch) / across);
      const middle = height - MARGIN.bottom - 4 - (layer + 0.5) * row;
      for (const [index, name] of names.entries()) {
        const line = Math.floor(index / across),
          ofLine = Math.min(across, names.length - line * across);
        put(name, {
          layer,
          x: centre(position) + ((index % across) - (ofLine - 1) / 2) * step,
          y: middle - (line - (high - 1) / 2) * (size.height + GAP),
          ...(of(name).kind === "error" ? { ...size, width: size.height } : size),
          shape: of(name).kind === "error" ? "diamond" : named ? "box" : "dot",
          text: named && of(name).kind === "feature" ? `${of(name).feature}` : "",
          mark: VERDICTS[of(name).verdict] ?? "",
        });
      }
    }
    const logits = Object.keys(value.nodes).filter((name) => of(name).kind === "logit");
    const box = Math.min(110, wide / logits.length);
    for (const [index, name] of logits.entries()) {
      const from = width - MARGIN.right - box * logits.length; // above the last position
      const text = clipped(of(name).text, box - 4);
      put(name, { layer: layers, x: from + (index + 0.5) * box, y: 13, width: box - 4, height: 20, text });
    }

    function path(edge) {
      const [source, target] = edge.split(" → ").map((name) => nodes[name]);
      const y1 = source.y - source.height / 2,
        y2 = target.y + target.height / 2,
        rise = Math.max(8, (y1 - y2) / 2.2);
      return [source.x, y1, [source.x, y1 - rise, target.x, y2 + rise, target.x, y2]];
    }

    const step = row < 13 ? 4 : row < 15 ? 2 : 1,
      labels = [];
    for (let layer = 0; layer < layers; layer += step) {
      const y = height - MARGIN.bottom - 4 - (layer + 0.5) * row + 4;
      labels.push({ x: MARGIN.left - 18, y, text: `L${layer}` });
    }
    return { nodes, path, column: Math.max(24, unit), row, size, small: !named, labels, width, height };
  }

  // Of the influence on the logits, the part along paths that lie within these edges, from tokens and errors.
  function carried(value, edges) {
    const reach = {},
      out = {};
    for (const edge of edges) out[edge.source] = [...(out[edge.source] ?? []), edge];
    const found = (name) => {
      reach[name] ??=
        value.nodes[name].weight +
        (out[name] ?? []).reduce((sum, { targets, place }) => sum + value.edges[place][3] * found(targets[0]), 0);
      return reach[name];
    };
    const sources = Object.keys(out).filter((name) => ["token", "error"].includes(value.nodes[name].kind));
    return sources.reduce((sum, name) => sum + found(name), 0);
  }

  const wb = window.workbench;
  const signed = (number) => `${number > 0 ? "+" : ""}${wb.digits(number)}`;
  const counted = (number) => number.toLocaleString("en");
  const list = (parts) => parts.slice(0, 5).join(", ") + (parts.length > 5 ? `, and ${parts.length - 5} more` : "");

  // What is said of an edge: the first part is a heading.
  function saidOfEdge([name, influence, direct, share]) {
    const target = name.split(" → ")[1];
    return [
      `${name}: ${signed(direct)}`,
      `${wb.percent(share)} of what enters ${target}, in absolute values.`,
      `${wb.percent(Math.abs(influence))} of all paths into the logits take this edge.`,
    ];
  }

  const first = (value) => Object.values(value.nodes).find(({ kind }) => kind === "logit").text;

  function saidOfCheck(value, { effect, measured, held, verdict }) {
    if (!verdict) return `Without it, the graph says, ${first(value)} loses ${wb.digits(effect)}. Not taken away yet.`;
    return (
      `Taken away in the model: ${verdict}. ${first(value)} should lose ${wb.digits(effect)} and loses ` +
      `${wb.digits(measured)}, or ${wb.digits(held)} with attention and norms held.`
    );
  }

  function saidOfNode(value, name, edges) {
    const node = value.nodes[name],
      isInner = ["feature", "error"].includes(node.kind);
    const parts = (some, end) => some.map((edge) => `${end(edge)} ${signed(value.edges[edge.place][2])}`);
    const into = edges.filter(({ targets }) => targets.includes(name)),
      out = edges.filter(({ source }) => source === name);
    const told = [name];
    if (isInner) told.push(`At “${value.tokens[node.position]}”${node.meaning ? `: ${node.meaning}` : ""}.`);
    if (node.kind === "logit" && node.probability < 1) told.push(`Probability ${wb.percent(node.probability)}.`);
    if (node.kind !== "logit") {
      const active = node.kind === "feature" ? `Active at ${wb.digits(node.value)}. ` : "";
      told.push(`${active}${wb.percent(node.influence)} of all paths into the logits pass here.`);
    }
    if (isInner) told.push(saidOfCheck(value, node));
    if (into.length) told.push(`Reads ${list(parts(into, ({ source }) => source))}.`);
    if (out.length) told.push(`Read by ${list(parts(out, ({ targets }) => targets[0]))}.`);
    return told;
  }

  // The agreement with the model, and how much of the graph is in the picture.
  function saidOfGraph(value, edges) {
    const { checked } = value,
      part = wb.percent(carried(value, edges));
    const proof = checked.nodes
      ? `${checked.confirmed} of ${checked.nodes} nodes confirmed by taking them away in the model` +
        `${checked.correlation === null ? "" : `, correlation ${checked.correlation.toFixed(2).replace("-", "−")}`} ` +
        `(${checked["in part"]} in part, ${checked.contradicted} contradicted). `
      : "No node was taken away in the model yet. ";
    return `${proof}${counted(edges.length)} of ${counted(value.every)} edges: paths along them carry ${part} of the influence on the logits.`;
  }

  const LEGEND = [
    "Nodes that were taken away in the model",
    "✓ confirmed: the logit loses what the graph says, within a factor of 2.",
    "≈ in part: it changes in the same direction.",
    "✗ contradicted: it does not.",
  ];
  const COLUMNS = ["edge", "part of all paths", "direct effect", "share of its target"];

  window.workbench.features = { plan: featurePlan, saidOfEdge, saidOfNode, saidOfGraph, COLUMNS, LEGEND };
}
