// What was run in this visit, latest first: a menu that leads back to it. An entry is an address, the page's whole state.
const wb = window.workbench;
const MOST = 50;
const KEY = "workbench history";
const NAMES = ["checkpoint", "prompt", "chat", "edits", "branch"]; // runs that agree in these are one entry
const open = element.querySelector(".open"),
  menu = wb.withKeys(wb.popoverOf(open, element.querySelector(".runs")));
open.popoverTargetElement = menu;

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? [];
  } catch {
    return []; // a browser that keeps nothing has the Back button alone
  }
}

const parameters = (address) => new URL(address).searchParams;
const keyOf = (address) => JSON.stringify(NAMES.map((name) => parameters(address).get(name) ?? ""));

// The address of the present run is kept as it is by now; a run that was in the list keeps its place.
function keep(address) {
  if (!address.searchParams.get("prompt")) return;
  const all = kept(),
    place = all.findIndex((entry) => keyOf(entry) === keyOf(address));
  if (place < 0) all.unshift(address.href);
  else all[place] = address.href;
  try {
    sessionStorage.setItem(KEY, JSON.stringify(all.slice(0, MOST)));
  } catch {
    // see above
  }
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

menu.addEventListener(
  "beforetoggle",
  ({ newState }) => newState === "open" && menu.replaceChildren(...kept().map(item)),
);
keep(new URL(location.href)); // the run that a link asks for is the first, whatever is run while the page still loads
wb.hear("address", keep);
window.addEventListener("popstate", () => location.reload());
