// A tab's hint in one sentence. Once it is put away, this browser does not show it again.
const key = `workbench hint: ${props.value}`;
const seen = () => {
  try {
    return localStorage.getItem(key) !== null;
  } catch {
    return false; // a browser that keeps nothing shows the hint on each visit
  }
};

function away() {
  try {
    localStorage.setItem(key, "seen");
  } catch {
    // see above
  }
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
if (seen()) element.closest(".block").hidden = true;
else draw();
