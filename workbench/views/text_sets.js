// The menu of sets of texts, and a card to paste a set or to open a file of one.
// value: {groups: [{group, sets: [[name, title, about], …]}, …], chosen: the name of the set at first}
// The event `choose` has the name of the chosen set. Sets of the user are sent to the server, which keeps them in memory;
// the page's address only has names of the other sets.
const wb = window.workbench;
const MOST_BYTES = 1_000_000;
const menu = element.querySelector(".chosen"),
  card = element.querySelector(".own");
const find = (selector) => card.querySelector(selector);
const area = find("textarea"),
  file = find("input[type=file]"),
  problem = find(".problem");
const KEY = "workbench sets"; // of this visit: {own: [[name, title, about], …], chosen: the name of one's own set in use}
const kept = wb.stored("sessionStorage", KEY, { own: [], chosen: null });
const own = kept.own;
let chosen = wb.remembered("set") ?? kept.chosen ?? props.value.chosen;

function keep() {
  const mine = own.some(([name]) => name === chosen) ? chosen : null;
  wb.store("sessionStorage", KEY, { own, chosen: mine });
}

function option([name, title, about]) {
  const made = new Option(title, name);
  made.title = about;
  return made;
}

function draw() {
  const groups = [...props.value.groups, ...(own.length ? [{ group: "Your own", sets: own }] : [])];
  menu.replaceChildren(
    ...groups.map(({ group, sets }) => {
      const made = document.createElement("optgroup");
      made.label = group;
      made.append(...sets.map(option));
      return made;
    }),
    new Option("Paste or open a file …", ""),
  );
  menu.value = chosen;
  if (menu.selectedIndex < 0) {
    menu.prepend(new Option(chosen, chosen)); // the name in a link, which the server may refuse
    menu.value = chosen;
  }
}

function choose(name) {
  chosen = name;
  draw();
  keep();
  wb.remember(["set"], [own.some(([each]) => each === name) ? null : name]);
  trigger("choose", { texts: name });
}

menu.addEventListener("change", () => {
  if (menu.value) return choose(menu.value);
  menu.value = chosen;
  card.showPopover();
  area.focus();
});

// The text of a file. Throws an Error, with a sentence, if it is too large or is not UTF-8.
async function textOf(source) {
  if (source.size > MOST_BYTES)
    throw new Error(
      `${source.name ?? "the text"} has ${source.size.toLocaleString("en")} bytes; the page takes at most 1,000,000`,
    );
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await source.arrayBuffer());
  } catch {
    throw new Error(`${source.name} is not UTF-8 text; save it as UTF-8`);
  }
}

async function send() {
  const picked = file.files[0];
  if (picked?.name.toLowerCase().endsWith(".parquet"))
    throw new Error(`${picked.name}: a browser cannot send parquet as text; name the file at start with --texts`);
  if (!picked && !area.value.trim()) throw new Error("paste at least one text, or choose a file");
  const content = await textOf(picked ?? new Blob([area.value]));
  const columns = { text: find(".text-column").value.trim(), label: find(".label-column").value.trim() };
  const found = await (await wb.post("data/texts/set", { content, file: picked?.name ?? "", ...columns })).json();
  if (!own.some(([name]) => name === found.name)) own.push([found.name, found.title, found.counted]);
  card.hidePopover();
  file.value = "";
  choose(found.name);
  wb.turn("Texts");
}

card.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.textContent = "";
  await send().catch((error) => {
    problem.textContent = error.message;
  });
});
watch("value", draw);
draw();
// After a reload, the set of the user is chosen again, since the address does not name it.
if (chosen === kept.chosen) {
  const ready = setInterval(() => {
    if (!document.body.dataset.ready) return;
    clearInterval(ready);
    trigger("choose", { texts: chosen });
  }, 100);
}
