// The picture of a circuit: where each node of a model stands, and the path of each edge. It draws nothing.
//   const plan = wb.layered({ layers, heads }, width, height)
//   plan.nodes: {L1H5: {name, layer, column, x, y, width, height}, …}; columns are the heads, and the MLP behind them
//   plan.path("L1H5 → L2H5 k"): numbers of cubic curves, [x, y, [x1, y1, x2, y2, x, y], …], from source to target
{
  const PORTS = { q: -0.3, k: 0, v: 0.3 }; // of a head's width
  const MARGIN = { left: 34, right: 6, top: 30, bottom: 30 };
  const HEAD = /^L(\d+)((?:H\d+)+)$/;

  // "L1H5 → L2H4H5 k" -> {source, targets: ["L2H4", "L2H5"], input: "k"}; heads may share keys and values.
  function ends(edge) {
    const [source, target] = edge.split(" → "),
      [, node, input = ""] = /^(.*?)(?: ([qkv]))?$/.exec(target),
      shared = HEAD.exec(node);
    const targets = shared ? shared[2].match(/\d+/g).map((head) => `L${shared[1]}H${head}`) : [node];
    return { source, targets, input };
  }

  function layered({ layers, heads }, width, height) {
    const column = (width - MARGIN.left - MARGIN.right) / (heads + 1),
      row = (height - MARGIN.top - MARGIN.bottom) / layers,
      size = { width: Math.max(4, 0.66 * column), height: Math.max(3, Math.min(36, 0.46 * row)) };
    const nodes = {},
      middle = (width + MARGIN.left - MARGIN.right) / 2,
      wide = width - MARGIN.left - MARGIN.right;
    const put = (name, place) => {
      nodes[name] = { name, ...place };
    };
    put("embed", { layer: -1, column: 0, x: middle, y: height - 13, width: wide, height: 20 });
    for (let layer = 0; layer < layers; layer++) {
      const y = height - MARGIN.bottom - (layer + 0.5) * row;
      for (let head = 0; head < heads; head++) {
        const x = MARGIN.left + (head + 0.5) * column;
        put(`L${layer}H${head}`, { layer, column: head, x, y: y + 0.14 * row, ...size });
      }
      const x = MARGIN.left + (heads + 0.5) * column; // it reads the heads of its layer, so it stands above them
      put(`L${layer} MLP`, { layer, column: heads, x, y: y - 0.16 * row, ...size });
    }
    put("logits", { layer: layers, column: 0, x: middle, y: 13, width: wide, height: 20 });

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
        x1 = far ? x2 + (x2 > to.x ? 0.5 : -0.5) * column : x2;
        if (targets[0] === "logits") return [middle, y1, [middle, y1, middle, y2, middle, y2]];
        if (!far) return [x1, y1, [x1, y1 - bend, x2, y2 + bend, x2, y2]];
        const turn = Math.min(y1, y2 + 0.9 * row);
        return [x1, y1, [x1, y1, x1, turn, x1, turn], [x1, turn - bend, x2, y2 + bend, x2, y2]];
      }
      if (targets[0] === "logits") {
        x2 = far ? x1 + 0.5 * column : x1;
        if (!far) return [x1, y1, [x1, y1, x2, y2, x2, y2]];
        const turn = Math.max(y2, y1 - 0.9 * row);
        return [x1, y1, [x1, y1 - bend, x2, turn + bend, x2, turn], [x2, turn, x2, y2, x2, y2]];
      }
      const near = Math.abs(x1 - x2) < 0.6 * column && far ? 0.8 * column : 0; // of one column: a bow
      const rise = Math.max(bend, (y1 - y2) / 2.2);
      return [x1, y1, [x1 + near, y1 - rise, x2 + near, y2 + rise, x2, y2]];
    }
    return { nodes, path, column, row, size, left: MARGIN.left };
  }

  Object.assign(window.workbench, { layered, edgeEnds: ends });
}
