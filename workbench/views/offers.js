// What a view offers to take away, built into its `<span class="offers">`: a button with the definition of what is shown,
// and one menu: its Python (shown and copied), its data, its picture, a page of its own, and its link.
//   offer()     asks the server for {key, file, code, definition} of what is shown now
//   tell(text)  shows a short message; by default beside the buttons, for a moment
//   fail(text)  shows an error, and with "" removes it; by default it is a message
//   more        actions of the view itself, {name: function}: `edges`, `png`, `svg` and `json` are offered only
//               if they are here
//   without     names of what is not offered
// Menu and cards are popovers, so no column clips them. On a page without a server only `more` is offered.
// Returns {renew}, to be called when something else is shown.
{
  const ITEMS = {
    python: "Copy as Python",
    csv: "Data (CSV)",
    edges: "Edges of the graph (CSV)",
    json: "Graph for circuit-tracer (JSON)",
    png: "Picture (PNG)",
    svg: "Picture (SVG)",
    page: "Page (HTML)",
    link: "Copy link",
  };
  const GAP = 4; // pixels between a button and what it opens, and around that at the window's edge

  const made = (tag, className, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const button = (className, text, attributes) => made("button", className, text, { type: "button", ...attributes });

  // Beside its button, inside the window: below it, or above where there is more room.
  function place(popover, anchor) {
    const at = anchor.getBoundingClientRect(),
      { offsetWidth: width, offsetHeight: height } = popover,
      wide = document.documentElement.clientWidth;
    const below = at.bottom + GAP + height <= innerHeight || at.top < height;
    const left = Math.max(GAP, Math.min(at.right - width, wide - width - GAP));
    const top = below ? at.bottom + GAP : at.top - GAP - height;
    Object.assign(popover.style, { left: `${left + scrollX}px`, top: `${top + scrollY}px` });
  }

  // A popover of a button: it is placed when it opens, and closes when a column that holds the button is scrolled.
  function popoverOf(anchor, popover) {
    popover.popover = "auto";
    const leave = ({ target }) => target !== document && target.contains?.(anchor) && popover.hidePopover();
    popover.addEventListener("beforetoggle", ({ newState }) => {
      const opens = newState === "open";
      anchor.setAttribute("aria-expanded", String(opens));
      if (opens) requestAnimationFrame(() => place(popover, anchor));
      (opens ? document.addEventListener : document.removeEventListener).call(document, "scroll", leave, true);
    });
    return popover;
  }

  // The arrow keys, Home and End move through a menu; Tab leaves it.
  function withKeys(menu) {
    menu.addEventListener("toggle", ({ newState }) => newState === "open" && menu.firstChild?.focus());
    menu.addEventListener("keydown", (event) => {
      const items = [...menu.children].filter(({ hidden }) => !hidden),
        here = items.indexOf(document.activeElement);
      const next = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: -1 }[event.key];
      if (event.key === "Tab") menu.hidePopover();
      if (next === undefined) return;
      event.preventDefault();
      items.at(next % items.length).focus();
    });
    return menu;
  }

  Object.assign(window.workbench, { popoverOf, withKeys });
  window.workbench.offers = (root, { offer, tell, fail, more = {}, without = [] }) => {
    const { download, typeset } = window.workbench;
    const holder = root.querySelector(".offers");
    const names = Object.keys(ITEMS).filter(
      (name) =>
        !without.includes(name) &&
        (name in more || !(window.standalone || ["edges", "png", "svg", "json"].includes(name))),
    );
    let shows = 0; // how often something else was shown

    const said = made("span", "said", "", { role: "status", "aria-live": "polite" });
    const define = button("define", "", { "aria-label": "Definition", title: "Definition", "aria-expanded": false });
    const open = button("export", "Export", { "aria-haspopup": "menu", "aria-expanded": false });
    const definition = popoverOf(
      define,
      made("div", "card definition", "", { role: "dialog", "aria-label": "Definition" }),
    );
    const code = popoverOf(open, made("pre", "card code", "", { tabindex: 0, "aria-label": "Python" }));
    const menu = withKeys(popoverOf(open, made("div", "export-menu", "", { role: "menu", "aria-label": "Export" })));
    for (const name of names) menu.append(button(name, ITEMS[name], { role: "menuitem", tabindex: -1 }));
    open.popoverTargetElement = menu;
    define.popoverTargetElement = definition;

    tell ??= (text) => {
      said.textContent = text;
      setTimeout(() => said.replaceChildren(), 2500);
    };
    fail ??= (text) => text && tell(text);

    async function guarded(act) {
      fail("");
      await Promise.resolve(act()).catch((error) => fail(error.message));
    }

    async function copy(text, what) {
      try {
        await navigator.clipboard.writeText(text);
        tell(`${what} copied`);
      } catch {
        tell("select the text to copy it");
      }
    }

    async function latest() {
      let told, at;
      do {
        at = shows;
        told = await offer();
      } while (at !== shows); // something else was shown in the meantime
      return told;
    }

    async function showCode() {
      const told = await latest();
      code.textContent = told.code;
      code.showPopover();
      await copy(told.code, "Python");
    }

    async function showDefinition() {
      typeset(definition, "…");
      typeset(definition, (await latest()).definition);
      place(definition, define);
    }
    definition.addEventListener("beforetoggle", ({ newState }) => {
      if (newState === "open") guarded(showDefinition);
    });

    // The open card is about what was shown before; the menu acts on what is shown when an item is chosen.
    function renew() {
      shows++;
      for (const card of [definition, code]) if (card.matches(":popover-open")) card.hidePopover();
    }

    const actions = {
      python: showCode,
      csv: async () => download(`data/export/${(await offer()).key}.csv`),
      page: async () => download(`data/export/${(await offer()).key}.html`),
      link: () => copy(location.href, "link"),
      ...more,
    };
    menu.addEventListener("click", ({ target }) => {
      const name = names.find((each) => target.classList.contains(each));
      if (!name) return;
      menu.hidePopover();
      guarded(actions[name]);
    });

    if (!window.standalone) holder.append(said, define);
    if (names.length) holder.append(open, menu, code);
    if (!window.standalone) holder.append(definition);
    return { renew };
  };
}
