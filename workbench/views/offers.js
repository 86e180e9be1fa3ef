// The small buttons of a text or a token: its definition and its Python unfold below them (Python is copied too), its
// data and its page are downloaded. `offer` asks the server for {key, code, definition}; `tell` says what came of it.
window.workbench.offers = (root, { offer, tell, more = {} }) => {
  const { download } = window.workbench;
  const button = (name) => root.querySelector(`.offers .${name}`);
  const shown = root.querySelector(".shown");

  async function copy(text, what) {
    await navigator.clipboard.writeText(text).then(
      () => tell(`${what} copied`),
      () => tell("select it to copy"),
    );
  }

  let asked = 0; // how often there was something else to tell of

  function fold() {
    shown.hidden = true;
    for (const name of ["define", "python"]) button(name).setAttribute("aria-expanded", "false");
  }

  function unfold(name, text) {
    shown.textContent = text;
    shown.hidden = false;
    button(name).setAttribute("aria-expanded", "true");
  }

  const open = (name) => button(name).getAttribute("aria-expanded") === "true";
  async function turn(name, act) {
    const wasOpen = open(name);
    fold();
    if (wasOpen) return;
    let told, at;
    do {
      at = asked;
      told = await offer();
    } while (at !== asked); // it is of what is shown by now
    await act(told);
  }

  // Nothing unfolded tells of what was shown before.
  function renew() {
    asked++;
    fold();
  }

  const actions = {
    define: () => turn("define", ({ definition }) => unfold("define", definition)),
    python: () =>
      turn("python", async ({ code }) => {
        unfold("python", code);
        await copy(code, "Python");
      }),
    csv: async () => download(`data/export/${(await offer()).key}.csv`),
    page: async () => download(`data/export/${(await offer()).key}.html`),
    link: () => copy(location.href, "link"),
    ...more,
  };
  for (const [name, act] of Object.entries(actions)) {
    button(name)?.addEventListener("click", () => Promise.resolve(act()).catch((error) => tell(error.message)));
  }
  return { renew };
};
