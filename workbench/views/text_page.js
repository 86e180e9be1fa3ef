// What a token strip and its details have around them on a page without a server: what was expected, from the page itself.
const { value, expected } = JSON.parse(document.getElementById("data").textContent);
window.workbench.post = async (_path, { token }) => new Response(JSON.stringify({ expected: expected[token] ?? [] }));
document.body.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
history.replaceState = () => {}; // a frame has no address of its own to keep what is selected in
window.standalone = (name, script) => {
  const look = expected.length ? { checkpoint: "" } : null;
  script(
    document.getElementById(name),
    { value: { ...value, look, final: true } },
    () => {},
    () => {},
  );
};
