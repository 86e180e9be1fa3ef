// The small buttons of a view: its definition and its Python unfold below them (Python is copied too), its data, its
// picture and a page of its own are downloaded, and its link is copied.
//   offer()     asks the server for {key, file, code, definition} of what is shown now
//   tell(text)  shows a short message; by default in the element of class `said`, for a moment
//   fail(text)  shows an error, and with "" removes it; by default it is a message
//   more        further buttons, or other actions: {class: function}
// Definition and Python unfold in the elements of class `definition` and `code`, or both in one of class `shown`.
// Returns {renew}, to be called when something else is shown.
window.workbench.offers = (root, { offer, tell, fail, more = {} }) => {
  const { download } = window.workbench;
  const shared = root.querySelector(".shown");
  const panes = { define: shared ?? root.querySelector(".definition"), python: shared ?? root.querySelector(".code") };
  const texts = { define: "definition", python: "code" };
  const button = (name) => root.querySelector(`button.${name}`);
  const isOpen = (name) => button(name).getAttribute("aria-expanded") === "true";
  const opened = () => Object.keys(panes).filter(isOpen);
  let shows = 0; // how often something else was shown

  tell ??= (text) => {
    const said = root.querySelector(".said");
    said.textContent = text;
    setTimeout(() => said.replaceChildren(), 2500);
  };
  fail ??= (text) => text && tell(text);

  async function copy(text, what) {
    await navigator.clipboard.writeText(text).then(
      () => tell(`${what} copied`),
      () => tell("select the text to copy it"),
    );
  }

  function fold(names) {
    for (const name of names) {
      panes[name].hidden = true;
      button(name).setAttribute("aria-expanded", "false");
    }
  }

  function unfold(name, told) {
    if (shared) fold(opened());
    panes[name].textContent = told[texts[name]];
    panes[name].hidden = false;
    button(name).setAttribute("aria-expanded", "true");
  }

  async function latest() {
    let told, at;
    do {
      at = shows;
      told = await offer();
    } while (at !== shows); // something else was shown in the meantime
    return told;
  }

  async function toggle(name) {
    if (isOpen(name)) return fold([name]);
    const told = await latest();
    unfold(name, told);
    if (name === "python") await copy(told.code, "Python");
  }

  // What is unfolded is about what is shown now: a shared pane is folded, other panes get their new text.
  async function renew() {
    const at = ++shows;
    if (shared) return fold(opened());
    if (!opened().length) return;
    const told = await offer();
    if (at === shows) for (const name of opened()) panes[name].textContent = told[texts[name]];
  }

  const actions = {
    define: () => toggle("define"),
    python: () => toggle("python"),
    csv: async () => download(`data/export/${(await offer()).key}.csv`),
    page: async () => download(`data/export/${(await offer()).key}.html`),
    link: () => copy(location.href, "link"),
    ...more,
  };
  for (const [name, act] of Object.entries(actions)) {
    button(name)?.addEventListener("click", async () => {
      fail("");
      await Promise.resolve(act()).catch((error) => fail(error.message));
    });
  }
  return { renew };
};
