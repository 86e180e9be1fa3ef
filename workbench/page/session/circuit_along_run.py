"""A circuit along the run of its checkpoint: the scores of its edges, and the share of the effect that it keeps."""

from typing import Any

from workbench import metrics
from workbench.analyses.circuit import Circuit
from workbench.analyses.support.edge_graph import neurons_in
from workbench.analyses.trajectory import trajectory
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.circuit_graphs import PROVED
from workbench.page.session.circuit_requests import MOST_DRAWN, CircuitChoice, chosen_pairs, circuit_call, key_text
from workbench.page.session.offers import offer
from workbench.page.session.prices import Expensive, price_of, priced
from workbench.page.session.requests import TabRequest
from workbench.page.session.series_runs import loading_of, series_run
from workbench.progress import Progress, part
from workbench.results import Curves

DRAWS = 5  # random circuits beside the circuit, at each checkpoint
MOST_CURVES = 8
HIGHEST = "highest of random edges"


def along_training(
    bench: Bench, request: TabRequest, chosen: CircuitChoice, found: Circuit, progress: Progress | None
) -> tuple[Call, Call]:
    """The calls of the edges' scores and of the circuit's effect at each checkpoint of the run, with their results in
    the cache.

    Raises Expensive, whatever the price, if they are not in the cache and the request does not agree to it.
    """
    scores, effect = scores_call(bench, request, chosen, found), effect_call(bench, request, chosen, found)
    price = price_of(bench, scores, effect)
    if not request.agreed and any(bench.results.get(call) is None for call in (scores, effect)):
        raise Expensive(price)
    for number, call in enumerate((scores, effect)):
        result(call, bench, part(priced(progress, price), number / 2, (number + 1) / 2))
    return scores, effect


def value_along_run(bench: Bench, request: TabRequest, found: Circuit, scores: Call, effect: Call) -> dict[str, Any]:
    """The value of the graph (see circuit_graph.js) whose edges have a score at each checkpoint of the run.

    found: the circuit; scores, effect: the calls of `along_training`, whose results are in the cache.
    """
    curves, whole = result(scores, bench), result(effect, bench)
    layers, heads = bench.shape_of(request.query.checkpoint)
    last = curves.values[:, -1].tolist()
    return {
        "title": curves.title,
        "note": "Thickness: the score at this checkpoint, on one scale for all checkpoints. Nodes keep their places.",
        "layers": layers,
        "heads": heads,
        "neurons": neurons_in(curves.lines),
        "every": len(found.names),
        "effect": float(whole.values[0, -1]),
        "unit": curves.unit,
        "edges": [[line, score, None, None] for line, score in zip(curves.lines, last, strict=True)],
        "proof": [],
        "prices": {},
        "offer": offer(bench, scores),
        "curve": None,
        "along": {"scores": curves.values.T.tolist(), "edges": size_of(found)},
    }


def scores_call(bench: Bench, request: TabRequest, chosen: CircuitChoice, found: Circuit) -> Call:
    """The scores of all edges along the run; of the circuit's best ones, if some are of neurons, or if there are more
    than can be drawn."""
    few = {"edges": found.top(PROVED).names} if chosen.neurons or len(found.names) > MOST_DRAWN else {}
    return along_run(bench, request, Call.quick(metrics.edge_scores, *chosen_pairs(request, chosen.pairs), **few))


def effect_call(bench: Bench, request: TabRequest, chosen: CircuitChoice, found: Circuit) -> Call:
    """The effect of the circuit's best edges along the run, beside that of all edges and of random ones."""
    of, (prompts, reads) = circuit_call(request, chosen), chosen_pairs(request, chosen.pairs)
    metric = Call.quick(metrics.circuit_effect, of, size_of(found), prompts, reads, draws=DRAWS)
    return along_run(bench, request, metric)


def along_run(bench: Bench, request: TabRequest, metric: Call) -> Call:
    """A metric at the checkpoints of the run that are on this machine."""
    run = series_run(bench, bench.run_here(request.query.checkpoint))
    return Call.of(trajectory, run, metric, log_x=True, **loading_of(bench))


def circuit_in_cache(bench: Bench, request: TabRequest, chosen: CircuitChoice, drawn: str) -> Circuit | None:
    """The circuit that is drawn, if its key is that of the request and the cache has it."""
    is_drawn = drawn == key_text(request, chosen)
    return bench.results.get(circuit_call(request, chosen)) if is_drawn else None


def size_of(found: Circuit) -> int:
    """The number of edges of the circuit that is followed along training."""
    return min(PROVED, len(found.names))


def needed(shares: Curves, size: int) -> str:
    """From which step on the circuit keeps more of the effect than every random circuit, with both shares there."""
    step = metrics.needed_from(shares, HIGHEST)
    place = -1 if step is None else shares.x.tolist().index(step)
    own, _, random, highest = (float(share) + 0.0 for share in shares.values[:, place].round(2))  # no −0.00
    if own != own:
        return "At the last checkpoint the effect of all edges is too small to divide by it."
    kept = f"{own:.2f} of the effect; {DRAWS} random circuits keep {random:.2f}, at most {highest:.2f}"
    which = f"{size} best edges (not the number on the slider)"
    if step is None:
        return f"Not above random circuits at the last checkpoint: there the {which} alone keep {kept}."
    return f"Needed from step {step:,.0f} on: there the {which} alone keep {kept}."
