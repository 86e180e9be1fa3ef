// The picture of a circuit: where each node of a model stands, and the path of each edge; and the picture for a file.
//   const plan = wb.layered({ layers, heads, neurons }, width, height)
//   plan.small: whether the nodes have no room for names; plan.labels, [{x, y, text}, …], then name rows and columns
//   plan.nodes: {L1H5: {name, layer, column, x, y, width, height, shape, text, printed, mark, ports, button}, …}; columns
//     are the heads, behind them the MLP, and then its neurons that are nodes; text stands in the node, `printed` in the
//     picture for a file, and mark behind both; ports are {q, k, v}, each a part of the width; button: whether a click
//     selects something
//   plan.path("L1H5 → L2H5 k"): numbers of cubic curves, [x, y, [x1, y1, x2, y2, x, y], …], from source to target
{
  const PORTS = { q: -0.3, k: 0, v: 0.3 }; // of a head's width
  const MARGIN = { left: 34, right: 6, top: 30, bottom: 30 };
  const NAMED = { column: 46, row: 26 }; // a node of this room shows its name
  const HEAD = /^L(\d+)((?:H\d+)+)$/;

  // "L1H5 → L2H4H5 k" -> {source, targets: ["L2H4", "L2H5"], input: "k"}; heads may share keys and values.
  function ends(edge) {
    const [source, target] = edge.split(" → "),
      [, node, input = ""] = /^(.*?)(?: ([qkv]))?$/.exec(target),
      shared = HEAD.exec(node);
    const targets = shared ? shared[2].match(/\d+/g).map((head) => `L${shared[1]}H${head}`) : [node];
    return { source, targets, input };
  }

  function layered({ layers, heads, neurons = [] }, width, height) {
    const own = Array.from({ length: layers }, (_, layer) => neurons.filter(([place]) => place === layer)),
      columnCount = heads + 1 + Math.max(0, ...own.map((some) => some.length)),
      column = (width - MARGIN.left - MARGIN.right) / columnCount,
      small = column < NAMED.column || height - MARGIN.top - MARGIN.bottom < NAMED.row * layers,
      bottom = MARGIN.bottom + (small ? 16 : 0), // the numbers of the heads stand there
      row = (height - MARGIN.top - bottom) / layers,
      size = { width: Math.max(4, 0.66 * column), height: Math.max(3, Math.min(36, 0.46 * row)) },
      ports = !small && size.height >= 30 && size.width >= 40 ? PORTS : null;
    const nodes = {},
      middle = (width + MARGIN.left - MARGIN.right) / 2,
      wide = width - MARGIN.left - MARGIN.right;
    const put = (name, place) => {
      nodes[name] = { name, shape: "box", text: "", printed: small && place.height < 20 ? "" : name, ...place };
    };
    const whole = { column: 0, x: middle, width: wide, height: 20 };
    put("embed", { layer: -1, y: height - 13, ...whole, text: "embedding of the tokens" });
    for (let layer = 0; layer < layers; layer++) {
      const y = height - bottom - (layer + 0.5) * row;
      for (let head = 0; head < heads; head++) {
        const x = MARGIN.left + (head + 0.5) * column;
        const text = small ? "" : `L${layer}H${head}`;
        put(`L${layer}H${head}`, { layer, column: head, x, y: y + 0.14 * row, ...size, text, ports, button: true });
      }
      const x = MARGIN.left + (heads + 0.5) * column; // it reads the heads of its layer, so it stands above them
      put(`L${layer} MLP`, { layer, column: heads, x, y: y - 0.16 * row, ...size, text: small ? "" : "MLP" });
      for (const [index, [, neuron]] of own[layer].entries()) {
        const place = { layer, column: heads + 1 + index, x: x + (index + 1) * column, y: y - 0.16 * row };
        put(`L${layer} N${neuron}`, { ...place, ...size, text: small ? "" : `N${neuron}` });
      }
    }
    put("logits", { layer: layers, y: 13, ...whole, text: "logits" });

    // Long paths rise between two columns, so that they do not pass behind the nodes of the layers on their way.
    function path(edge) {
      const { source, targets, input } = ends(edge),
        from = nodes[source],
        to = nodes[targets[0]],
        last = nodes[targets.at(-1)];
      const side = (PORTS[input] ?? 0) * size.width;
      let x2 = (to.x + last.x) / 2 + side,
        x1 = from.x;
      const y1 = from.y - from.height / 2,
        y2 = to.y + to.height / 2;
      const bend = Math.min(0.5 * row, (y1 - y2) / 2),
        far = to.layer - from.layer > 1;
      if (source === "embed") {
        x1 = far ? x2 + (x2 > to.x && to.column < columnCount - 1 ? 0.5 : -0.5) * column : x2;
        if (targets[0] === "logits") return [middle, y1, [middle, y1, middle, y2, middle, y2]];
        if (!far) return [x1, y1, [x1, y1 - bend, x2, y2 + bend, x2, y2]];
        const turn = Math.min(y1, y2 + 0.9 * row);
        return [x1, y1, [x1, y1, x1, turn, x1, turn], [x1, turn - bend, x2, y2 + bend, x2, y2]];
      }
      if (targets[0] === "logits") {
        x2 = far ? x1 + (from.column === columnCount - 1 ? -0.5 : 0.5) * column : x1;
        if (!far) return [x1, y1, [x1, y1, x2, y2, x2, y2]];
        const turn = Math.max(y2, y1 - 0.9 * row);
        return [x1, y1, [x1, y1 - bend, x2, turn + bend, x2, turn], [x2, turn, x2, y2, x2, y2]];
      }
      const aside = from.column === columnCount - 1 ? -0.8 : 0.8, // of one column: a bow, to the left at the right edge
        near = Math.abs(x1 - x2) < 0.6 * column && far ? aside * column : 0;
      const rise = Math.max(bend, (y1 - y2) / 2.2);
      return [x1, y1, [x1 + near, y1 - rise, x2 + near, y2 + rise, x2, y2]];
    }

    const labels = [];
    if (small) {
      const rows = row < 13 ? 4 : row < 15 ? 2 : 1,
        columns = column < 17 ? 4 : column < 30 ? 2 : 1;
      for (let layer = 0; layer < layers; layer += rows)
        labels.push({ x: MARGIN.left - 18, y: nodes[`L${layer}H0`].y + 4, text: `L${layer}` });
      const y = nodes.embed.y - 14;
      for (let head = 0; head < heads; head += columns)
        labels.push({ x: nodes[`L0H${head}`].x, y, text: String(head) });
      labels.push({ x: nodes["L0 MLP"].x, y, text: column < 30 ? "M" : "MLP" });
      if (columnCount > heads + 1)
        labels.push({ x: nodes["L0 MLP"].x + column, y, text: column < 60 ? "N" : "neurons" });
    }
    return { nodes, path, column, row, size, small, labels, width, height };
  }

  const INK = "#18181b",
    DIM = "#52525b",
    FAINT = "#d4d4d8",
    EFFECT = "#b5530f",
    AGAINST = "#2a66cf",
    FONT = "12px system-ui, sans-serif";

  // The picture on white paper as a blob: "png" or "svg". edges: [{name, width, against}, …], the last ones on top; inside
  // are the names of their nodes.
  async function layeredPicture(format, plan, edges, inside, { title, said, about }) {
    const { wrapped, sheet } = window.workbench,
      probe = sheet("png", 1, 1);
    probe.font = FONT;
    const above = wrapped(probe, said, plan.width - 20),
      below = wrapped(probe, about, plan.width - 20),
      top = 34 + 16 * above.length;
    const pen = sheet(format, plan.width, top + plan.height + 16 * below.length + 12);
    function write(text, x, y, colour, { font = FONT, align = "left" } = {}) {
      Object.assign(pen, { font, fillStyle: colour, textAlign: align });
      pen.fillText(text, x, y);
    }
    write(title, 10, 22, INK, { font: "600 14px system-ui, sans-serif" });
    for (const [index, line] of above.entries()) write(line, 10, 40 + 16 * index, INK);
    for (const [index, line] of below.entries()) write(line, 10, top + plan.height + 16 * (index + 1), DIM);
    pen.translate(0, top);
    for (const { name, width, against } of edges) {
      const [x, y, ...curves] = plan.path(name);
      Object.assign(pen, { strokeStyle: against ? AGAINST : EFFECT, lineWidth: width, globalAlpha: 0.75 });
      pen.setLineDash(against ? [7, 4] : []);
      pen.beginPath();
      pen.moveTo(x, y);
      for (const curve of curves) pen.bezierCurveTo(...curve);
      pen.stroke();
    }
    pen.globalAlpha = 1;
    for (const { name, x, y, width, height, shape, printed, mark = "" } of Object.values(plan.nodes)) {
      const isIn = inside.has(name);
      pen.fillStyle = isIn ? DIM : FAINT;
      if (shape === "diamond") write("◆", x, y + 4, isIn ? DIM : FAINT, { align: "center" });
      else pen.fillRect(x - width / 2, y - height / 2, width, height);
      if (mark && !printed) write(mark, x + width / 2 + 6, y + 4, DIM, { align: "center" });
      if (!printed) continue;
      pen.fillStyle = "#fff";
      pen.fillRect(x - width / 2 + 1, y - height / 2 + 1, width - 2, height - 2);
      write(`${printed} ${mark}`.trim(), x, y + 4, isIn ? INK : FAINT, { align: "center" });
    }
    for (const { x, y, text } of plan.labels) write(text, x, y, DIM, { align: "center" });
    return pen.blob();
  }

  Object.assign(window.workbench, { layered, layeredPicture, edgeEnds: ends });
}
