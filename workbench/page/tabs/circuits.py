"""Circuits: which edges between parts of the model carry the difference between two sets of prompts, with the proof."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from workbench.analyses.circuit import Circuit, circuit
from workbench.analyses.faithfulness import Faithfulness, faithfulness
from workbench.embedded_texts import pair_sets
from workbench.errors import WorkbenchError
from workbench.page import components
from workbench.page.build.panel import menu, offer
from workbench.page.build.slot import Slot, agreement_button, asked
from workbench.page.session.arguments import ModelOf, PairsOf, TokenizerOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.menus import choice
from workbench.page.session.prices import Expensive, agree, price_of, priced
from workbench.page.session.requests import TabRequest
from workbench.progress import Progress, part

TITLE = "Circuits"
HOW = (
    "Which connections carry the answer? The embedding is below, the logits are above. Hover a node to light its "
    "paths; the sentence above the graph says what these edges do alone."
)
PAIRS = {name.rpartition("/")[2]: name for name in reversed(pair_sets())}
MEASURES = {
    "logit difference": ("logit_difference", "logits"),
    "probability": ("probability", ""),
    "whole prediction (KL)": ("kl", "nats"),
}
FIRST = 60  # edges that are proved without a click, if this is cheap
MOST_DRAWN = 1000  # edges that the browser gets


@dataclass(frozen=True)
class Proofs:
    """What was asked for beyond the circuit itself, by clicks that have seen the price.

    Attributes:
        of: the circuit that it was asked for: its checkpoint, pairs and measure.
        whole: whether the whole curve of faithfulness.
        sizes: further numbers of edges to run.
        edges: edges to patch exactly.
    """

    of: tuple[object, ...] = ()
    whole: bool = False
    sizes: tuple[int, ...] = ()
    edges: tuple[str, ...] = ()

    def about(self, of: tuple[object, ...]) -> "Proofs":
        """The same, for a circuit; nothing if it was asked for another one."""
        return self if self.of == of else Proofs(of)


def build(slot: Slot) -> None:
    """The menus of pairs and measures, and the graph with its proof."""
    with gr.Row(elem_classes="panel-head"):
        pairs = slot.link("pairs", menu(PAIRS, "Pairs of prompts"))
        pairs.render()
        measure = slot.link("circuit_measure", menu(MEASURES, "Measure"))
        measure.render()
    notice, button = components.sentence(elem_classes="problem"), agreement_button("circuit-price")
    graph = components.circuit_graph(elem_id="circuit")
    proofs = gr.State(Proofs())
    controls = [pairs, measure, proofs]
    shown = {"notice": notice, "agreement": button, "with_progress": True}
    slot.shows(circuit_view, inputs=controls, outputs=[graph, button], **shown)
    for event, more in ((graph.prove, more_edges), (graph.whole, whole_curve), (graph.patch, exact_edge)):
        slot.on(event, more, inputs=controls, outputs=[proofs])


def circuit_view(
    bench: Bench,
    request: TabRequest,
    pairs: str,
    measure: str,
    proofs: Proofs | None = None,
    progress: Progress | None = None,
) -> Iterator[list[Any]]:
    """The values of the graph and of the button that agrees to its price; the graph first, then with its proof."""
    call = circuit_call(request, pairs, measure)
    try:
        price = agree(bench, request, call)
    except Expensive as expensive:
        yield [{"empty": about_pairs(pairs)}, asked(expensive.price)]
        return
    proofs = (proofs or Proofs()).about(key_of(request, pairs, measure))
    found: Circuit = result(call, bench, priced(progress, price))
    value = circuit_value(bench, request, found, pairs, measure)
    first = proof_call(request, pairs, measure, (min(FIRST, len(found.names)),))
    calls = [proof_call(request, pairs, measure, (size,)) for size in proofs.sizes]
    whole = proof_call(request, pairs, measure)
    calls += [whole] if proofs.whole or bench.results.get(whole) is not None else []
    is_cheap = price_of(bench, first).seconds <= bench.asks_above
    calls += [first] if is_cheap and first not in calls and not proofs.whole else []
    if calls or proofs.edges:
        yield [value, asked(None)]
    curves = [
        result(one, bench, part(progress, number / len(calls), (number + 1) / len(calls)))
        for number, one in enumerate(calls)
    ]
    edges, prices = value["edges"], value["prices"]
    for edge in proofs.edges:
        edges = with_exact(edges, result(circuit_call(request, pairs, measure, (edge,)), bench), edge)
    proved = {"edges": edges, "proof": proof_rows(curves)}
    if whole in calls:
        prices = {name: price for name, price in prices.items() if name != "curve"}
        proved |= {"curve": offer(bench, whole), "prices": prices}
    yield [value | proved, asked(None)]


def circuit_value(bench: Bench, request: TabRequest, found: Circuit, pairs: str, measure: str) -> dict[str, Any]:
    """The value of the graph (see circuit_graph.js), without a proof."""
    layers, heads = bench.shape_of(request.query.checkpoint)
    call = circuit_call(request, pairs, measure)
    edges = edge_rows(found.top(MOST_DRAWN))
    prices = {
        "point": price_of(bench, proof_call(request, pairs, measure, (1,))),
        "curve": price_of(bench, proof_call(request, pairs, measure)),
        "edge": price_of(bench, circuit_call(request, pairs, measure, (edges[0][0],))),
    }
    return {
        "key": " ".join(map(str, key_of(request, pairs, measure))),
        "title": found.title,
        "note": noted(request, pairs, found),
        "layers": layers,
        "heads": heads,
        "every": len(found.names),
        "effect": found.effect,
        "unit": choice(measure, MEASURES, "measure")[1],
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


def known(numbers: Sequence[float]) -> list[float | None]:
    """The numbers, with None in place of NaN."""
    return [None if number != number else number for number in numbers]


def with_exact(rows: Sequence[list[Any]], found: Circuit, edge: str) -> list[list[Any]]:
    """The rows with the exact effect of one edge."""
    exact = float(found.exact[found.names.index(edge)])
    return [[*row[:3], exact] if row[0] == edge else row for row in rows]


def proof_rows(curves: Sequence[Faithfulness]) -> list[list[float | None]]:
    """What circuits of each size keep, from several results, in ascending order: see `proof` in circuit_graph.js."""
    rows: dict[int, list[float | None]] = {}
    for found in curves:
        errors = [None] * len(found.x) if found.errors is None else known(found.errors[0].tolist())
        connected = found.x if found.connected is None else found.connected
        for place, size in enumerate(found.x.tolist()):
            best, without, random, magnitude, nodes = found.values[:, place].tolist()
            others = [without, random, float(found.deviation[place]), magnitude, nodes]
            rows[int(size)] = [int(size), best, errors[place], *others, int(connected[place])]
    return [rows[size] for size in sorted(rows)]


def noted(request: TabRequest, pairs: str, found: Circuit) -> str:
    """How the scores were made, and how far they can be trusted."""
    edits = " The edits do not affect this: it reads the unedited model." if request.query.edits else ""
    return (
        f"{about_pairs(pairs)}. Thickness: how much the {found.value_name} falls if the edge alone carries the other "
        f"prompt, by gradients (correlation {found.correlation:.2f} with exact patching of the strongest). Orange "
        f"carries the effect, dashed blue works against it.{edits}"
    )


def about_pairs(pairs: str) -> str:
    """What a set of pairs holds."""
    about = pair_sets()[choice(pairs, PAIRS, "set of pairs")]
    return about[0].upper() + about[1:]


def key_of(request: TabRequest, pairs: str, measure: str) -> tuple[object, ...]:
    """What a circuit is of."""
    return request.query.checkpoint, pairs, measure


def circuit_call(request: TabRequest, pairs: str, measure: str, exact: tuple[str, ...] = ()) -> Call:
    """The circuit of a set of pairs; with `exact`, these edges are patched in place of the strongest ones."""
    measure = choice(measure, MEASURES, "measure")[0]
    options = {"exact": exact} if exact else {}
    return Call.of(circuit, *arguments(request, pairs), measure=measure, **tokenizer(request), **options)


def proof_call(request: TabRequest, pairs: str, measure: str, sizes: tuple[int, ...] = ()) -> Call:
    """The faithfulness of the circuit, for these numbers of edges, or for the default ones."""
    model, *prompts = arguments(request, pairs)
    options = {"sizes": sizes} if sizes else {}
    return Call.of(
        faithfulness, model, circuit_call(request, pairs, measure), *prompts, **tokenizer(request), **options
    )


def arguments(request: TabRequest, pairs: str) -> list[Any]:
    """The model, without edits, and the prompts and answers of a set of pairs."""
    checkpoint, name = request.query.checkpoint, choice(pairs, PAIRS, "set of pairs")
    parts = ("clean", "corrupted", "answers", "others")
    return [ModelOf(checkpoint), *(PairsOf(checkpoint, name, each) for each in parts)]


def tokenizer(request: TabRequest) -> dict[str, TokenizerOf]:
    """The option that reads the answers."""
    return {"tokenizer": TokenizerOf(request.query.checkpoint)}


def more_edges(
    bench: Bench, request: TabRequest, data: Mapping[str, Any], pairs: str, measure: str, proofs: Proofs
) -> Proofs:
    """The proofs after a click that asks for one more number of edges."""
    size, proofs = data.get("edges"), proofs.about(key_of(request, pairs, measure))
    if not isinstance(size, int) or size < 1:
        raise WorkbenchError(f"no circuit of {size!r} edges")
    return replace(proofs, sizes=(*proofs.sizes, size))


def whole_curve(
    bench: Bench, request: TabRequest, data: Mapping[str, Any], pairs: str, measure: str, proofs: Proofs
) -> Proofs:
    """The proofs after a click that asks for the whole curve."""
    return replace(proofs.about(key_of(request, pairs, measure)), whole=True)


def exact_edge(
    bench: Bench, request: TabRequest, data: Mapping[str, Any], pairs: str, measure: str, proofs: Proofs
) -> Proofs:
    """The proofs after a click that asks for the exact effect of an edge."""
    edge, proofs = data.get("edge"), proofs.about(key_of(request, pairs, measure))
    if not isinstance(edge, str):
        raise WorkbenchError(f"no edge {edge!r}")
    return replace(proofs, edges=(*proofs.edges, edge))
