// Tells Python what is selected on the page: the event `select` with token, layer and head, null where none is selected.
window.workbench.hear("selection", ({ token, layer, head }) => trigger("select", { token, layer, head }));
