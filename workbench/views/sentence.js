// A sentence as plain text; no paragraph where there is none.
function draw() {
  const line = document.createElement("p");
  line.textContent = props.value ?? "";
  element.replaceChildren(...(props.value ? [line] : []));
}
watch("value", draw);
draw();
