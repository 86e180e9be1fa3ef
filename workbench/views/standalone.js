// What the attention view has around it on a page without a server: maps that the page itself carries, one address.
const { value, side, scale, deflated } = JSON.parse(document.getElementById("data").textContent);
const heads = value.heads, area = side * side;

const inflated = (async () => {
  const packed = Uint8Array.from(atob(deflated), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
})();

const COMBINE = {
  mean: (weights) => weights.reduce((sum, weight) => sum + weight) / weights.length,
  max: (weights) => Math.max(...weights),
};

// Bytes hold the square roots of weights (see pixels.py), which are what a mean is taken of.
function together(planes, how) {
  const weight = (place) => COMBINE[how](planes.map((bytes) => (bytes[place] / 255) ** 2));
  return Uint8Array.from({ length: area }, (_, place) => Math.round(255 * Math.sqrt(weight(place))));
}

window.workbench.maps = async (path, { layer, head, combine }) => {
  const all = await inflated;
  const plane = (index) => all.subarray((layer * heads + index) * area, (layer * heads + index + 1) * area);
  const found = { side, scale, signed: false };
  if (path.endsWith("thumbnails")) return { ...found, bytes: all };
  if (combine === "one") return { ...found, bytes: plane(head) };
  return { ...found, bytes: together(Array.from({ length: heads }, (_, index) => plane(index)), combine) };
};

document.body.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
history.replaceState = () => {}; // a frame has no address of its own to keep what is selected in
window.standalone = { element: document.getElementById("view"), props: { value }, watch: () => {} };
