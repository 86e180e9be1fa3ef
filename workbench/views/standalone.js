// Takes the place of the server for the attention views of a stand-alone page, which holds the weights itself.
// They are those of A, then of B if there is one: head by head the lower triangle, row by row.
const { value, deflated } = JSON.parse(document.getElementById("data").textContent);
const heads = value.heads,
  side = value.texts.length,
  area = (side * (side + 1)) / 2;

const inflated = (async () => {
  const packed = Uint8Array.from(atob(deflated), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Float32Array(await new Response(stream).arrayBuffer());
})();

const COMBINE = {
  mean: (weights) => weights.reduce((sum, weight) => sum + weight) / weights.length,
  max: (weights) => Math.max(...weights),
};

// The requested triangle: of a head, or of all heads of its layer together; of A, of B, or of B minus A.
async function triangle({ checkpoint, other, layer, head, combine }) {
  const all = await inflated,
    sets = other ? [0, 1] : [value.other && checkpoint === value.other ? 1 : 0];
  const plane = (set, index) => {
    const place = (set * value.layers + layer) * heads + index;
    return all.subarray(place * area, (place + 1) * area);
  };
  const [a, b] = sets.map((set) => {
    if (combine === "one") return plane(set, head);
    const each = Array.from({ length: heads }, (_, index) => plane(set, index));
    return Float32Array.from({ length: area }, (_, place) => COMBINE[combine](each.map((weights) => weights[place])));
  });
  return b ? b.map((weight, place) => weight - a[place]) : a;
}

// Squares of bytes as the server makes them (see pixels.py), each with its triangle given.
function pictures(triangles, signed) {
  const most = (skipped) => triangles.reduce((best, each) => largest(each, skipped, best), 0);
  const scale = most(false) || 1,
    bytes = new Uint8Array(triangles.length * side * side).fill(signed ? 128 : 0);
  triangles.forEach((each, index) => {
    for (let row = 0, at = 0; row < side; row++) {
      for (let column = 0; column <= row; column++, at++) {
        const root = Math.sign(each[at]) * Math.sqrt(Math.abs(each[at]) / scale);
        bytes[(index * side + row) * side + column] = Math.round(signed ? 128 + 127 * root : 255 * root);
      }
    }
  });
  return { bytes, second: null, side, scale, rest: most(true), signed };
}

function largest(triangle, skipFirst, best) {
  for (let row = 0, at = 0; row < side; row++) {
    for (let column = 0; column <= row; column++, at++) {
      if (!(skipFirst && column === 0)) best = Math.max(best, Math.abs(triangle[at]));
    }
  }
  return best;
}

window.workbench.maps = async (path, ask) => {
  if (!path.endsWith("thumbnails")) return pictures([await triangle(ask)], Boolean(ask.other));
  const places = Array.from({ length: value.layers * heads }, (_, place) => ({
    layer: Math.floor(place / heads),
    head: place % heads,
  }));
  return pictures(
    await Promise.all(places.map((place) => triangle({ ...ask, ...place, combine: "one" }))),
    Boolean(ask.other),
  );
};

window.workbench.cells = async ({ query, key, ...ask }) => {
  const weights = await triangle(ask),
    start = (row) => (row * (row + 1)) / 2;
  const row = Float32Array.from({ length: side }, (_, place) => (place <= query ? weights[start(query) + place] : 0));
  const column = Float32Array.from({ length: side }, (_, place) => (place >= key ? weights[start(place) + key] : 0));
  return { row, column };
};

document.body.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
history.replaceState = () => {}; // a frame has no address of its own to keep what is selected in
window.standalone = (name, script) => script(document.getElementById(name), { value }, () => {});
