// A tab's hint in one sentence. Once it is closed, this browser does not show it again.
const key = `workbench hint: ${props.value}`;
const wb = window.workbench;

function away() {
  wb.store("localStorage", key, true);
  element.replaceChildren();
  element.closest(".block").hidden = true;
}

function draw() {
  const line = document.createElement("p"),
    text = document.createElement("span"),
    button = document.createElement("button");
  text.textContent = props.value;
  button.type = "button";
  button.textContent = "Got it";
  button.addEventListener("click", away);
  line.append(text, button);
  element.replaceChildren(line);
}
if (wb.stored("localStorage", key, false)) element.closest(".block").hidden = true;
else draw();
