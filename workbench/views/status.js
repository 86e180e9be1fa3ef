// The line beside the title: the models in memory, the load in progress, and the length of the queue.
(() => {
  const wb = window.workbench;
  const size = (bytes) => (bytes >= 1e9 ? `${wb.digits(bytes / 1e9)} GB` : `${wb.digits(bytes / 1e6)} MB`);

  // Gradio shows "queue: 2/3" over a waiting view; the first of the queue waits for the event that is running. That event
  // may be of this page, whose views wait for each other. So only events of others are counted, and only after a while.
  let since = null;
  function ahead() {
    const trackers = [...document.querySelectorAll("[data-testid=status-tracker]:not(.hide)")];
    const places = trackers.map((part) => Number(/queue: (\d+)\//.exec(part.textContent)?.[1] ?? 0));
    const waiting = places.filter(Boolean),
      served = places.includes(0) ? 1 : 0;
    const others = waiting.length ? Math.min(...waiting) - served : 0;
    since = others ? (since ?? Date.now()) : null;
    return since && Date.now() - since > 1000 ? others : 0;
  }

  // A browser opens six connections to a server, and a page that computes holds one until it has its results.
  const CONNECTIONS = 6;
  const pages = new BroadcastChannel("workbench pages"),
    computing = new Set(),
    own = Math.random();
  const computes = () => document.querySelector("[data-testid=status-tracker]:not(.hide)") !== null;
  pages.addEventListener("message", ({ data }) => {
    if (data.answers === own) computing.add(data.from);
    else if (data.asks && computes()) pages.postMessage({ answers: data.asks, from: own });
  });
  function crowded() {
    const all = computing.size + computes();
    computing.clear();
    pages.postMessage({ asks: own });
    if (all < CONNECTIONS - 1) return "";
    return `${all} pages of this browser compute at once; it opens ${CONNECTIONS} connections, so others wait`;
  }

  let crowd = "";
  function words({ models, bytes, budget, device, loading }) {
    const before = ahead(),
      busy = before ? `busy: ${before} before you` : "";
    const reading = loading ? `loading ${loading.checkpoint}: ${Math.round(100 * loading.part)} %` : "";
    const where = device === "cpu" ? "" : ` on ${device}`;
    const memory = `${models.length} model${models.length === 1 ? "" : "s"}, ${size(bytes)} of ${size(budget)}${where}`;
    return [crowd, busy, reading, memory].filter(Boolean).join("  ·  ");
  }

  let known = null;
  async function look() {
    const line = document.getElementById("status");
    if (!line || document.hidden) return;
    crowd = crowded();
    known = await wb.get("data/status").then(
      (reply) => reply.json(),
      () => null,
    );
    line.title = known ? known.models.join("\n") : "";
    show(line);
  }
  function show(line) {
    const text = known ? words(known) : "the server does not answer";
    if (line.textContent !== text) line.textContent = text;
  }
  setInterval(look, 2000);
  setInterval(() => known && !document.hidden && show(document.getElementById("status")), 400);
  document.addEventListener("DOMContentLoaded", () => setTimeout(look, 1000));
})();
