"""The graph of a circuit: its picture (see circuit_graph.js), at first without a proof, then with it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from workbench.analyses.circuit import Circuit
from workbench.analyses.support.edge_graph import neurons_in
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.circuit_proofs import Proofs, known, proof_rows, with_exact
from workbench.page.session.circuit_requests import (
    MEASURES,
    MOST_DRAWN,
    CircuitChoice,
    about_pairs,
    circuit_call,
    key_of,
    key_text,
    proof_call,
)
from workbench.page.session.menus import choice
from workbench.page.session.offers import offer
from workbench.page.session.prices import Expensive, Price, agree, price_of, priced
from workbench.page.session.requests import TabRequest
from workbench.progress import Progress, part

WHAT_COMES = (
    "A click draws the edges between heads and MLPs that carry most of the difference between the two prompts of each "
    "pair, and says how much of it is left when the model runs with these edges only."
)
PROVED = 60  # edges that are proved without a click, if this is cheap


class GraphFrame(NamedTuple):
    """One state of a graph on the page.

    Attributes:
        value: the value of the picture.
        price: the price to agree to before the graph is computed; None if it is computed.
        key: the key of the circuit in the picture; "" if there is none to follow along training.
    """

    value: dict[str, Any]
    price: Price | None = None
    key: str = ""


def circuit_frames(
    bench: Bench,
    request: TabRequest,
    chosen: CircuitChoice,
    proofs: Proofs | None = None,
    progress: Progress | None = None,
) -> Iterator[GraphFrame]:
    """The graph of a circuit, first without its proof; only its price if that is not agreed to."""
    call = circuit_call(request, chosen)
    try:
        price = agree(bench, request, call)
    except Expensive as expensive:
        layers, heads = bench.shape_of(request.query.checkpoint)
        told = f"{about_pairs(chosen.pairs)}. {WHAT_COMES}"
        yield GraphFrame({"empty": told, "layers": layers, "heads": heads}, expensive.price)
        return
    proofs = (proofs or Proofs()).about(key_of(request, chosen))
    found: Circuit = result(call, bench, priced(progress, price))
    value = circuit_value(bench, request, found, chosen)
    first = proof_call(request, chosen, (min(PROVED, len(found.names)),))
    calls = [proof_call(request, chosen, (size,)) for size in proofs.sizes]
    whole = proof_call(request, chosen)
    calls += [whole] if proofs.whole or bench.results.get(whole) is not None else []
    is_cheap = price_of(bench, first).seconds <= bench.asks_above
    calls += [first] if is_cheap and first not in calls and not proofs.whole else []
    if calls or proofs.edges:
        yield GraphFrame(value, key=value["key"])
    curves = [
        result(one, bench, part(progress, number / len(calls), (number + 1) / len(calls)))
        for number, one in enumerate(calls)
    ]
    edges, prices = value["edges"], value["prices"]
    for edge in proofs.edges:
        edges = with_exact(edges, result(circuit_call(request, chosen, (edge,)), bench), edge)
    proved = {"edges": edges, "proof": proof_rows(curves)}
    if whole in calls:
        prices = {name: price for name, price in prices.items() if name != "curve"}
        proved |= {"curve": offer(bench, whole), "prices": prices}
    yield GraphFrame(value | proved, key=value["key"])


def circuit_value(bench: Bench, request: TabRequest, found: Circuit, chosen: CircuitChoice) -> dict[str, Any]:
    """The value of the graph (see circuit_graph.js), without a proof."""
    layers, heads = bench.shape_of(request.query.checkpoint)
    call = circuit_call(request, chosen)
    edges = edge_rows(found.top(MOST_DRAWN))
    prices = {
        "point": price_of(bench, proof_call(request, chosen, (1,))),
        "curve": price_of(bench, proof_call(request, chosen)),
        "edge": price_of(bench, circuit_call(request, chosen, (edges[0][0],))),
    }
    return {
        "key": key_text(request, chosen),
        "title": found.title,
        "note": noted(request, chosen.pairs, found),
        "layers": layers,
        "heads": heads,
        "neurons": neurons_in([name for name, *_ in edges]),
        "every": len(found.names),
        "effect": found.effect,
        "unit": choice(chosen.measure, MEASURES, "measure")[1],
        "edges": edges,
        "proof": [],
        "prices": {name: str(price) for name, price in prices.items()},
        "offer": offer(bench, call),
        "curve": None,
    }


def edge_rows(found: Circuit) -> list[list[Any]]:
    """[name, score, standard error, exact effect] of each edge; None where a number is not known."""
    errors = [None] * len(found.names) if found.errors is None else known(found.errors.tolist())
    return [
        list(row) for row in zip(found.names, found.values.tolist(), errors, known(found.exact.tolist()), strict=True)
    ]


def noted(request: TabRequest, pairs: str, found: Circuit) -> str:
    """How the scores were made, and how far they can be trusted."""
    edits = " The edits do not affect this: it reads the unedited model." if request.query.edits else ""
    return (
        f"{about_pairs(pairs)}. Thickness: how much the {found.value_name} falls if the edge alone carries the other "
        f"prompt, from gradients (correlation {found.correlation:.2f} with exact patching of the strongest). Orange "
        f"carries the effect, dashed blue works against it.{edits}"
    )
