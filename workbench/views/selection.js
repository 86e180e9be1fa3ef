// Tells Python what is selected on the page: the event `select` with token, layer, head and tuned (1 for the tuned lens, 0
// for the logit lens), null where none is selected.
window.workbench.hear("selected", (selection) => trigger("select", selection));
