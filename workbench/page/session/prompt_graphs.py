"""The attribution graph of the page's prompt: its picture (see circuit_graph.js), checked more with each click."""

from collections.abc import Iterator, Sequence
from typing import Any

from workbench.errors import WorkbenchError
from workbench.features.graph import AttributionGraph
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.circuit_graphs import GraphFrame
from workbench.page.session.circuit_proofs import Proofs
from workbench.page.session.circuit_requests import MOST_DRAWN
from workbench.page.session.feature_graphs import (
    CHECKED,
    SENTENCE,
    checks_call,
    graph_call,
    graph_value,
)
from workbench.page.session.offers import keep, offer
from workbench.page.session.prices import Expensive, agree, price_of, priced
from workbench.page.session.requests import TabRequest
from workbench.progress import Progress, part

WHAT_COMES = (
    "A click draws the attribution graph of this prompt: which features at which tokens lead to the prediction, and "
    "through which features of later layers. The strongest ones can then be taken away in the model, to check it."
)


def prompt_graph_frames(
    bench: Bench,
    request: TabRequest,
    targets: Sequence[int],
    proofs: Proofs,
    progress: Progress | None = None,
) -> Iterator[GraphFrame]:
    """The attribution graph of the prompt, first with what is known already; only its price if that is not agreed to.

    targets: what it explains (see `graph_call`). The key is empty, because the graph is not followed along training.
    """
    try:
        call = graph_call(bench, request, targets)
    except WorkbenchError as error:
        yield GraphFrame({"of": "features", "empty": f"{error}."})
        return
    try:
        price = agree(bench, request, call)
    except Expensive as expensive:
        yield GraphFrame({"of": "features", "empty": WHAT_COMES}, expensive.price)
        return
    result(call, bench, priced(progress, price))
    first, whole = checks_call(call, CHECKED), call
    if proofs.sizes:
        whole = checks_call(call, proofs.sizes[-1])
    elif price_of(bench, first).seconds <= bench.asks_above:
        whole = first
    checked = checks_call(whole, proofs.edges) if proofs.edges else whole
    earlier = [call, first, *(checks_call(call, size) for size in proofs.sizes)]
    before = [one for one in earlier if bench.results.get(one) is not None][-1]
    if bench.results.get(checked) is None:  # until then, what is known already
        yield GraphFrame(prompt_graph_value(bench, request, call, result(before, bench), before))
    result(whole, bench, part(progress, 0.0, 0.9))  # it stays in the cache for the next click
    found = result(checked, bench, part(progress, 0.9, 1.0))
    yield GraphFrame(prompt_graph_value(bench, request, call, found, checked))


def prompt_graph_value(
    bench: Bench, request: TabRequest, base: Call, found: AttributionGraph, call: Call
) -> dict[str, Any]:
    """The value of the graph of features (see circuit_graph.js): of the call `base`, checked by `call`."""
    value = graph_value(bench, found, call, MOST_DRAWN)
    checked = value["checked"]
    more = min(CHECKED * (checked["nodes"] // CHECKED + 1), checked["inner"])
    return value | {
        "of": "features",
        "key": keep(bench, base),
        "title": found.title,
        "note": f"{SENTENCE}{edits_sentence(request)}",
        "more": more,
        "effect": 1.0,
        "unit": "",
        "proof": [],
        "prices": {
            "point": str(price_of(bench, checks_call(base, more))) if more > checked["nodes"] else "",
            "edge": str(price_of(bench, checks_call(base, found.names[:1]))),
        },
        "offer": offer(bench, call),
        "curve": None,
    }


def edits_sentence(request: TabRequest) -> str:
    """A sentence on the edits that the graph of the prompt is computed with."""
    return f" With {', '.join(request.query.edits.splitlines())}." if request.query.edits else ""
