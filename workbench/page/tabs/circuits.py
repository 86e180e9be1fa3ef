"""Circuits: which edges between parts of the model carry the difference between two sets of prompts, with the proof."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gradio as gr
from gradio.components import Component

from workbench import metrics
from workbench.analyses.circuit import Circuit, circuit
from workbench.analyses.faithfulness import Faithfulness, faithfulness
from workbench.analyses.support.edge_graph import neurons_in
from workbench.analyses.trajectory import trajectory
from workbench.embedded_texts import pair_sets
from workbench.errors import WorkbenchError
from workbench.features.graph import AttributionGraph
from workbench.page import components
from workbench.page.build.panel import Panel, View, keep, menu, offer, shown_if
from workbench.page.build.slot import NOT_QUEUED, Slot, agreement_button, asked, message
from workbench.page.session.arguments import ModelOf, PairsOf, TokenizerOf
from workbench.page.session.bench import Bench, label
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.feature_graphs import CHECKED, SENTENCE, checks_call, graph_call, graph_value
from workbench.page.session.menus import choice
from workbench.page.session.prices import Expensive, agree, price_of, priced
from workbench.page.session.requests import TabRequest
from workbench.page.tabs.training import absent, loading_of, moment_slider, series_run, too_few
from workbench.progress import Progress, part
from workbench.results import Curves

TITLE = "Circuits"
HOW = (
    "Which connections carry the answer? The embedding is below, the logits are above. Hover a node to light its "
    "paths; the sentence above the graph says what runs of the model say of it."
)
PAIRS = {name.rpartition("/")[2]: name for name in reversed(pair_sets())}
OF = {
    "heads and MLPs, over pairs": "heads",
    "heads, MLPs and neurons, over pairs": "neurons",
    "features, of this prompt": "features",
}
NEURONS = 16  # of the MLPs, that are nodes of their own
MEASURES = {
    "logit difference": ("logit_difference", "logits"),
    "probability": ("probability", ""),
    "whole prediction (KL)": ("kl", "nats"),
}
FIRST = 60  # edges that are proved without a click, if this is cheap
MOST_DRAWN = 1000  # edges that the browser gets
ASSEMBLY = {"scores of the strongest edges": "scores", "what the circuit keeps": "shares"}
DRAWS = 5  # random circuits beside the circuit, at each checkpoint
MOST_CURVES = 8
HIGHEST = "highest of random edges"
PLAYS = {"slider": "circuit-moment", "view": "assembling", "chart": "assembly"}
FOR_CIRCUIT = "This follows the circuit above along training; compute that first."


class Chosen(NamedTuple):
    """The choices of the menus: a set of pairs, a measure, and how many neurons are nodes."""

    pairs: str
    measure: str
    neurons: int = 0


def chosen_by(of: str, pairs: str, measure: str) -> Chosen:
    """The choices of three menus."""
    return Chosen(pairs, measure, NEURONS if choice(of, OF, "kind of nodes") == "neurons" else 0)


@dataclass(frozen=True)
class Proofs:
    """Further results of a circuit that the user requested with a click on their price.

    Attributes:
        of: the key of the circuit: its checkpoint, pairs and measure.
        whole: whether the whole curve of faithfulness.
        sizes: further numbers of edges to run.
        edges: edges to patch exactly.
    """

    of: tuple[object, ...] = ()
    whole: bool = False
    sizes: tuple[int, ...] = ()
    edges: tuple[str, ...] = ()

    def about(self, of: tuple[object, ...]) -> "Proofs":
        """These results if they are of this circuit, else none."""
        return self if self.of == of else Proofs(of)


def build(slot: Slot) -> None:
    """The menus of pairs and measures, and the graph with its proof."""
    with gr.Row(elem_classes="panel-head"):
        of = slot.link("circuit_of", menu(OF, "Nodes"))
        of.render()
        pairs = slot.link("pairs", menu(PAIRS, "Pairs of prompts"))
        pairs.render()
        measure = slot.link("circuit_measure", menu(MEASURES, "Measure"))
        measure.render()
    notice, button = components.sentence(elem_classes="problem"), agreement_button("circuit-price")
    graph = components.circuit_graph(elem_id="circuit")
    proofs = gr.State(Proofs())
    controls = [of, pairs, measure, proofs]
    drawn = gr.State("")  # the key of the circuit in the picture; a change of it draws the panel below
    shown = {"notice": notice, "agreement": button, "with_progress": True}
    slot.shows(graph_view, inputs=controls, outputs=[graph, button, drawn], **shown)
    for event, more in ((graph.prove, more_edges), (graph.whole, whole_curve), (graph.patch, exact_edge)):
        slot.on(event, more, inputs=controls, outputs=[proofs])
    of.change(shown_for, of, [pairs, measure], **NOT_QUEUED)
    with gr.Column(elem_id="along-training"):  # page.css hides it below a graph of features
        build_assembly(slot, [of, pairs, measure, drawn])


def shown_for(of: str) -> list[dict[str, Any]]:
    """Updates of the menus that are about pairs of prompts: hidden for a graph of features."""
    return [gr.update(visible=shown_if(OF.get(of) != "features"))] * 2


def build_assembly(slot: Slot, controls: Sequence[Component]) -> None:
    """The panel that follows the circuit along training: curves, and a player that shows the graph at a checkpoint."""
    of = slot.link("assembly", menu(ASSEMBLY, "Along training"))
    panel = Panel("assembly", "How did it assemble?", menus=[of], height=320)
    panel.draws(slot, assembly_view, inputs=[*controls, of], with_progress=True)
    moment = slot.link("circuit_moment", moment_slider(slot.bench, PLAYS["slider"]))
    player = components.player({}, elem_id="assembly-player")
    graph = components.circuit_graph(elem_id=PLAYS["view"])
    inputs, outputs = [*controls, moment], [player, graph]
    how = {"redraws": controls, "notice": panel.notice, "agreement": panel.agreement, "with_progress": True}
    slot.shows(graph_along_training, inputs=inputs, outputs=outputs, **how)


def graph_view(
    bench: Bench,
    request: TabRequest,
    of: str,
    pairs: str,
    measure: str,
    proofs: Proofs | None = None,
    progress: Progress | None = None,
) -> Iterator[list[Any]]:
    """The values of the graph, of the button that agrees to its price, and the graph's key; first without its proof."""
    if choice(of, OF, "kind of nodes") == "features":
        yield from prompt_graph_view(bench, request, proofs, progress)
    else:
        yield from circuit_view(bench, request, chosen_by(of, pairs, measure), proofs, progress)


def prompt_graph_view(
    bench: Bench, request: TabRequest, proofs: Proofs | None = None, progress: Progress | None = None
) -> Iterator[list[Any]]:
    """The same for the attribution graph of the prompt; the key is empty, because it is not followed along training."""
    try:
        call = graph_call(bench, request)
    except WorkbenchError as error:
        yield [{"of": "features", "empty": f"{message(error)}."}, asked(None), ""]
        return
    try:
        price = agree(bench, request, call)
    except Expensive as expensive:
        yield [{"of": "features", "empty": "The attribution graph of the prompt"}, asked(expensive.price), ""]
        return
    proofs = (proofs or Proofs()).about(key_of_features(request))
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
        yield [prompt_graph_value(bench, request, result(before, bench), before), asked(None), ""]
    result(whole, bench, part(progress, 0.0, 0.9))  # it stays in the cache for the next click
    yield [
        prompt_graph_value(bench, request, result(checked, bench, part(progress, 0.9, 1.0)), checked),
        asked(None),
        "",
    ]


def prompt_graph_value(bench: Bench, request: TabRequest, found: AttributionGraph, call: Call) -> dict[str, Any]:
    """The value of the graph of features (see circuit_graph.js)."""
    value, base = graph_value(bench, found, call, MOST_DRAWN), graph_call(bench, request)
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


def key_of_features(request: TabRequest) -> tuple[object, ...]:
    """The key of an attribution graph: what it is computed from."""
    return "features", request.query.checkpoint, request.query.prompt, request.query.edits


def circuit_view(
    bench: Bench,
    request: TabRequest,
    chosen: Chosen,
    proofs: Proofs | None = None,
    progress: Progress | None = None,
) -> Iterator[list[Any]]:
    """The values of the graph, of the button that agrees to its price, and the graph's key; first without its proof."""
    call = circuit_call(request, chosen)
    try:
        price = agree(bench, request, call)
    except Expensive as expensive:
        yield [{"empty": about_pairs(chosen.pairs)}, asked(expensive.price), ""]
        return
    proofs = (proofs or Proofs()).about(key_of(request, chosen))
    found: Circuit = result(call, bench, priced(progress, price))
    value = circuit_value(bench, request, found, chosen)
    first = proof_call(request, chosen, (min(FIRST, len(found.names)),))
    calls = [proof_call(request, chosen, (size,)) for size in proofs.sizes]
    whole = proof_call(request, chosen)
    calls += [whole] if proofs.whole or bench.results.get(whole) is not None else []
    is_cheap = price_of(bench, first).seconds <= bench.asks_above
    calls += [first] if is_cheap and first not in calls and not proofs.whole else []
    if calls or proofs.edges:
        yield [value, asked(None), value["key"]]
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
    yield [value | proved, asked(None), value["key"]]


def circuit_value(bench: Bench, request: TabRequest, found: Circuit, chosen: Chosen) -> dict[str, Any]:
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


def assembly_view(
    bench: Bench,
    request: TabRequest,
    of: str,
    pairs: str,
    measure: str,
    drawn: str,
    numbers: str,
    *,
    progress: Progress | None = None,
) -> View | str:
    """The strongest edges' scores along the run, or the share that the circuit keeps, with the step from which it is
    needed.

    Only a sentence if the circuit is not in the cache, or fewer than two checkpoints are here.
    """
    numbers, checkpoint = choice(numbers, ASSEMBLY, "numbers along training"), request.query.checkpoint
    chosen = chosen_by(of, pairs, measure)
    if len(bench.run_here(checkpoint)) < 2:
        return too_few(bench, checkpoint)
    found = circuit_in_cache(bench, request, chosen, drawn)
    if found is None:
        return FOR_CIRCUIT
    scores, effect = along_training(bench, request, chosen, found, progress)
    shares = Call.quick(metrics.circuit_shares, effect)
    strongest = Call.quick(metrics.strongest_lines, scores, MOST_CURVES)
    here, whole = bench.run_here(checkpoint), bench.run_of(checkpoint)
    unit = "" if measure == next(iter(MEASURES)) else "All of this is in logits, whatever the measure above."
    gaps = "Not drawn where the effect of all edges is too small to divide by it." if numbers == "shares" else ""
    told = needed(result(shares, bench), size_of(found)), gaps, unit, absent(whole, here)
    note = " ".join(filter(None, told))
    return View(shares if numbers == "shares" else strongest, note)


def graph_along_training(
    bench: Bench,
    request: TabRequest,
    of: str,
    pairs: str,
    measure: str,
    drawn: str,
    moment: float,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """The values of the player and of the graph at each checkpoint; empty ones until the price is agreed to."""
    run, chosen = bench.run_here(request.query.checkpoint), chosen_by(of, pairs, measure)
    found = circuit_in_cache(bench, request, chosen, drawn)
    if found is None or len(run) < 2:
        return [{}, {}]
    try:
        scores, effect = along_training(bench, request, chosen, found, progress)
    except Expensive:
        return [{}, {}]
    curves, whole = result(scores, bench), result(effect, bench)
    layers, heads = bench.shape_of(request.query.checkpoint)
    names, at = [label(checkpoint) for checkpoint in run], min(max(int(moment), 1), len(run))
    along = {
        "slider": PLAYS["slider"],
        "at": at,
        "names": names,
        "scores": curves.values.T.tolist(),
        "edges": size_of(found),
    }
    value = {
        "key": f"{drawn} along",
        "title": curves.title,
        "note": "Thickness: the score at this checkpoint, on one scale for all checkpoints. Nodes keep their places.",
        "layers": layers,
        "heads": heads,
        "neurons": neurons_in(curves.lines),
        "every": len(found.names),
        "effect": float(whole.values[0, -1]),
        "unit": curves.unit,
        "edges": [
            [line, score, None, None] for line, score in zip(curves.lines, curves.values[:, -1].tolist(), strict=True)
        ],
        "proof": [],
        "prices": {},
        "offer": offer(bench, scores),
        "curve": None,
        "along": along,
    }
    return [PLAYS | {"names": names, "at": at}, value]


def circuit_in_cache(bench: Bench, request: TabRequest, chosen: Chosen, drawn: str) -> Circuit | None:
    """The circuit that is drawn, if its key is that of the request and the cache has it."""
    is_drawn = drawn == key_text(request, chosen)
    return bench.results.get(circuit_call(request, chosen)) if is_drawn else None


def along_training(
    bench: Bench, request: TabRequest, chosen: Chosen, found: Circuit, progress: Progress | None
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


def scores_call(bench: Bench, request: TabRequest, chosen: Chosen, found: Circuit) -> Call:
    """The scores of all edges along the run; of the circuit's best ones, if some are of neurons, or if there are more
    than can be drawn."""
    few = {"edges": found.top(FIRST).names} if chosen.neurons or len(found.names) > MOST_DRAWN else {}
    return along_run(bench, request, Call.quick(metrics.edge_scores, *chosen_pairs(request, chosen.pairs), **few))


def effect_call(bench: Bench, request: TabRequest, chosen: Chosen, found: Circuit) -> Call:
    """The effect of the circuit's best edges along the run, beside that of all edges and of random ones."""
    of, (prompts, reads) = circuit_call(request, chosen), chosen_pairs(request, chosen.pairs)
    metric = Call.quick(metrics.circuit_effect, of, size_of(found), prompts, reads, draws=DRAWS)
    return along_run(bench, request, metric)


def along_run(bench: Bench, request: TabRequest, metric: Call) -> Call:
    """A metric at the checkpoints of the run that are on this machine."""
    run = series_run(bench, bench.run_here(request.query.checkpoint))
    return Call.of(trajectory, run, metric, log_x=True, **loading_of(bench))


def chosen_pairs(request: TabRequest, pairs: str) -> tuple[PairsOf, TokenizerOf]:
    """A set of pairs, and the tokenizer that reads its answers."""
    checkpoint = request.query.checkpoint
    return PairsOf(checkpoint, choice(pairs, PAIRS, "set of pairs")), TokenizerOf(checkpoint)


def size_of(found: Circuit) -> int:
    """The number of edges of the circuit that is followed along training."""
    return min(FIRST, len(found.names))


def needed(shares: Curves, size: int) -> str:
    """From which step on the circuit keeps more of the effect than every random circuit, with both shares there."""
    step = metrics.needed_from(shares, HIGHEST)
    place = -1 if step is None else shares.x.tolist().index(step)
    own, _, random, highest = (float(share) + 0.0 for share in shares.values[:, place].round(2))  # no −0.00
    if own != own:
        return "At the last checkpoint the effect of all edges is too small to divide by it."
    kept = f"{own:.2f} of the effect; {DRAWS} random circuits keep {random:.2f}, at most {highest:.2f}"
    which = f"{size} best edges, whatever number the slider has,"
    if step is None:
        return f"Not above random circuits at the last checkpoint: there the {which} alone keep {kept}."
    return f"Needed from step {step:,.0f} on: there the {which} alone keep {kept}."


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
    """The shares that circuits of each size keep, from several results, in ascending order; see `proof` in
    circuit_graph.js."""
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
    """A description of a set of pairs."""
    about = pair_sets()[choice(pairs, PAIRS, "set of pairs")]
    return about[0].upper() + about[1:]


def key_of(request: TabRequest, chosen: Chosen) -> tuple[object, ...]:
    """The key of a circuit: what it is computed from."""
    return request.query.checkpoint, *chosen


def key_text(request: TabRequest, chosen: Chosen) -> str:
    """The key of a circuit as one string."""
    return " ".join(map(str, key_of(request, chosen)))


def circuit_call(request: TabRequest, chosen: Chosen, exact: tuple[str, ...] = ()) -> Call:
    """The circuit of a set of pairs; with `exact`, these edges are patched in place of the strongest ones."""
    measure = choice(chosen.measure, MEASURES, "measure")[0]
    options: dict[str, Any] = {"exact": exact} if exact else {}
    options |= {"neurons": chosen.neurons} if chosen.neurons else {}
    return Call.of(
        circuit, *analysis_arguments(request, chosen.pairs), measure=measure, **tokenizer(request), **options
    )


def proof_call(request: TabRequest, chosen: Chosen, sizes: tuple[int, ...] = ()) -> Call:
    """The faithfulness of the circuit, for these numbers of edges, or for the default ones."""
    model, *prompts = analysis_arguments(request, chosen.pairs)
    options = {"sizes": sizes} if sizes else {}
    return Call.of(faithfulness, model, circuit_call(request, chosen), *prompts, **tokenizer(request), **options)


def analysis_arguments(request: TabRequest, pairs: str) -> list[Any]:
    """The model, without edits, and the prompts and answers of a set of pairs."""
    checkpoint, name = request.query.checkpoint, choice(pairs, PAIRS, "set of pairs")
    parts = ("clean", "corrupted", "answers", "others")
    return [ModelOf(checkpoint), *(PairsOf(checkpoint, name, each) for each in parts)]


def tokenizer(request: TabRequest) -> dict[str, TokenizerOf]:
    """The option `tokenizer`, which reads the answers."""
    return {"tokenizer": TokenizerOf(request.query.checkpoint)}


def more_edges(
    bench: Bench, request: TabRequest, data: Mapping[str, Any], of: str, pairs: str, measure: str, proofs: Proofs
) -> Proofs:
    """The proofs after a click that asks for one more number of edges, or of nodes of a graph of features."""
    size, proofs = data.get("edges"), proofs.about(proven(request, of, pairs, measure))
    if not isinstance(size, int) or size < 1:
        raise WorkbenchError(f"no circuit of {size!r} edges")
    return replace(proofs, sizes=(*proofs.sizes, size))


def whole_curve(
    bench: Bench, request: TabRequest, data: Mapping[str, Any], of: str, pairs: str, measure: str, proofs: Proofs
) -> Proofs:
    """The proofs after a click that asks for the whole curve."""
    return replace(proofs.about(proven(request, of, pairs, measure)), whole=True)


def exact_edge(
    bench: Bench, request: TabRequest, data: Mapping[str, Any], of: str, pairs: str, measure: str, proofs: Proofs
) -> Proofs:
    """The proofs after a click that asks for the exact effect of an edge, or of a node of a graph of features."""
    edge, proofs = data.get("edge"), proofs.about(proven(request, of, pairs, measure))
    if not isinstance(edge, str):
        raise WorkbenchError(f"no edge {edge!r}")
    return replace(proofs, edges=(*proofs.edges, edge))


def proven(request: TabRequest, of: str, pairs: str, measure: str) -> tuple[object, ...]:
    """What is proved in the picture."""
    is_features = choice(of, OF, "kind of nodes") == "features"
    return key_of_features(request) if is_features else key_of(request, chosen_by(of, pairs, measure))
