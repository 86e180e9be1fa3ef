// A menu of the runs of this visit, latest first. An entry is the page's address at that run, with its whole state.
const wb = window.workbench;
const MOST = 50;
const KEY = "workbench history";
const NAMES = ["checkpoint", "prompt", "chat", "edits", "branch"]; // runs that agree in these are one entry
const open = element.querySelector(".open"),
  menu = wb.withKeys(wb.popoverOf(open, element.querySelector(".runs")));
open.popoverTargetElement = menu;

const kept = () => wb.stored("sessionStorage", KEY, []);

const parameters = (address) => new URL(address).searchParams;
const keyOf = (address) => JSON.stringify(NAMES.map((name) => parameters(address).get(name) ?? ""));

// The entry of the current run holds the current address; a run that is in the list already keeps its place.
function keep(address) {
  if (!address.searchParams.get("prompt")) return;
  const all = kept(),
    place = all.findIndex((entry) => keyOf(entry) === keyOf(address));
  if (place < 0) all.unshift(address.href);
  else all[place] = address.href;
  wb.store("sessionStorage", KEY, all.slice(0, MOST));
}

function line(className, text) {
  const part = document.createElement("span");
  part.className = className;
  part.textContent = text;
  return part;
}

function item(address) {
  const asked = parameters(address),
    button = document.createElement("button");
  button.type = "button";
  button.setAttribute("role", "menuitem");
  button.tabIndex = -1;
  if (keyOf(address) === keyOf(location.href)) button.setAttribute("aria-current", "true");
  const edits = asked.get("edits")?.replaceAll("\n", ", ");
  const about = [asked.get("checkpoint"), asked.get("tab"), asked.get("branch") && "a branch", edits];
  button.append(line("prompt", asked.get("prompt").slice(0, 200)), line("where", about.filter(Boolean).join(" · ")));
  button.addEventListener("click", () => location.assign(address));
  return button;
}

menu.addEventListener("beforetoggle", ({ newState }) => {
  if (newState !== "open") return;
  const items = kept().map(item),
    none = line("where none", "Nothing was run in this visit yet.");
  none.setAttribute("role", "menuitem");
  none.setAttribute("aria-disabled", "true");
  menu.replaceChildren(...(items.length ? items : [none]));
});
keep(new URL(location.href)); // the run that a link asks for is the first, whatever is run while the page still loads
wb.hear("address", keep);
window.addEventListener("popstate", () => location.reload());
