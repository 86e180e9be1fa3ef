// The stack of edits of the model, which apply on every tab. value: {lines, shown, problem, checkpoint, prompt}
//   lines are in words, one for each edit; "# L2H5 off" is kept and switched off (see workbench/interventions.py);
//   shown is "edited", "change" (edited minus unedited) or "unedited"; problem is a sentence, or "".
// A view adds a line with wb.intervene("L2H5 off"), and gets the active lines by wb.hear("interventions", (lines) => …).
// Event `edit` ({edits, shown}): the stack as text, after each change by the user.
const wb = window.workbench;
const find = (selector) => element.querySelector(selector);
const line = find(".line");
let lines = [],
  shown = "edited",
  refused = ""; // why the last line was not added; the response to an earlier change leaves it in sight

const isOff = (text) => text.startsWith("#");
const words = (text) => text.replace(/^#\s*/, "");

function chip(text, index) {
  const item = document.createElement("li");
  item.className = `chip${isOff(text) || shown === "unedited" ? " inactive" : ""}`;
  const toggle = document.createElement("button"),
    remove = document.createElement("button");
  toggle.type = remove.type = "button";
  toggle.className = "toggle";
  remove.className = "remove";
  toggle.textContent = words(text);
  toggle.setAttribute("aria-pressed", String(!isOff(text)));
  toggle.title = isOff(text) ? "switched off; click to switch it on" : "in force on every tab; click to switch it off";
  remove.textContent = "×";
  remove.setAttribute("aria-label", `remove ${words(text)}`);
  toggle.addEventListener("click", () => change(lines.with(index, isOff(text) ? words(text) : `# ${text}`)));
  remove.addEventListener("click", () => change(lines.toSpliced(index, 1)));
  item.append(toggle, remove);
  return item;
}

// While there are no edits, only a button is shown; it opens the box for one.
function open(isOpen) {
  find(".stack").classList.toggle("empty", !isOpen && !lines.length && find(".problem").hidden);
  find(".begin").hidden = isOpen || lines.length > 0;
  find(".begin").setAttribute("aria-expanded", String(isOpen));
  find(".entry").hidden = !isOpen && !lines.length;
}

function draw(problem = refused) {
  find(".chips").replaceChildren(...lines.map(chip));
  find(".shows").hidden = find(".clear").hidden = !lines.length;
  for (const button of find(".shows").children) {
    button.setAttribute("aria-checked", String(button.dataset.shown === shown));
    button.tabIndex = button.dataset.shown === shown ? 0 : -1;
  }
  find(".problem").hidden = !problem;
  find(".problem").textContent = problem;
  open(line.value !== "" || element.getRootNode().activeElement === line);
}

function tell() {
  wb.say("interventions", shown === "unedited" ? [] : lines.filter((text) => !isOff(text)));
}

// The server responds with a value, or with a sentence on what is wrong.
function change(next, view = shown) {
  lines = next;
  shown = next.length ? view : "edited";
  refused = "";
  draw();
  trigger("edit", { edits: lines.join("\n"), shown });
}

// Adds a line to the stack in its canonical spelling, if it fits the model and the prompt; a line that is on the stack
// already is switched on. Returns whether it fits; if not, a sentence says why.
async function add(text) {
  const { checkpoint, prompt } = props.value ?? {};
  let found = [text];
  if (checkpoint !== undefined) {
    const asked = wb.post("data/edits", { checkpoint, prompt, edits: text }).then((reply) => reply.json());
    const answer = await asked.catch((error) => ({ problem: error.message }));
    if (answer.problem) {
      refused = answer.problem;
      draw();
      return false;
    }
    found = answer.lines;
  }
  const fresh = found.filter((one) => !lines.includes(one));
  const kept = lines.map((one) => (found.includes(words(one)) ? words(one) : one));
  change([...kept, ...fresh.filter((one) => !kept.includes(one))], shown === "unedited" ? "edited" : shown);
  return true;
}

wb.hear("intervene", (text) => add(text.trim()));
wb.hear("draft", ({ before, after }) => {
  open(true);
  line.value = before + after;
  line.focus();
  line.setSelectionRange(before.length, before.length);
});
find(".begin").addEventListener("click", () => {
  open(true);
  line.focus();
});
find(".entry").addEventListener("submit", async (event) => {
  event.preventDefault();
  const typed = line.value.trim();
  if (typed && (await add(typed)) && line.value.trim() === typed) line.value = "";
});
line.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  line.value = "";
  line.blur();
  open(false);
});
line.addEventListener("blur", () => line.value || setTimeout(() => open(false), 200));
find(".clear").addEventListener("click", () => change([]));
find(".shows").addEventListener("click", (event) => {
  const view = event.target.dataset.shown;
  if (view && view !== shown) change(lines, view);
});
find(".shows").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const all = [...find(".shows").children];
  const next = all[(all.findIndex((one) => one.dataset.shown === shown) + step + all.length) % all.length];
  change(lines, next.dataset.shown);
  next.focus();
});

function renew() {
  const value = props.value ?? {};
  if (value.lines) lines = [...value.lines];
  if (value.shown) shown = value.shown;
  draw(value.problem || refused);
  if (!value.problem) tell();
}
new ResizeObserver(() => {
  const height = find(".stack").classList.contains("empty") ? 0 : find(".stack").offsetHeight + 6;
  document.documentElement.style.setProperty("--stack", `${height}px`);
}).observe(find(".stack"));
watch("value", renew);
renew();
