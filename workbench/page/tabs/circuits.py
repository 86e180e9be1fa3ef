"""Circuits: which edges between parts of the model carry the difference between two sets of prompts, with the proof."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component

from workbench import metrics
from workbench.page import components
from workbench.page.build.field import TextField
from workbench.page.build.panel import Panel, View, menu, shown_if
from workbench.page.build.slot import NOT_QUEUED, Slot, agreement_button, asked
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.checkpoint_labels import label
from workbench.page.session.circuit_along_run import (
    MOST_CURVES,
    along_training,
    circuit_in_cache,
    needed,
    size_of,
    value_along_run,
)
from workbench.page.session.circuit_graphs import circuit_frames
from workbench.page.session.circuit_proofs import Proofs, exact_edge, more_edges, whole_curve
from workbench.page.session.circuit_requests import MEASURES, OF, PAIRS, chosen_by
from workbench.page.session.feature_graphs import key_of_features
from workbench.page.session.menus import choice
from workbench.page.session.prices import Expensive
from workbench.page.session.prompt_graphs import prompt_graph_frames
from workbench.page.session.requests import TabRequest
from workbench.page.session.series_runs import absent, too_few
from workbench.page.tabs.attribution import AGAINST, NEXT_TOKEN, check_token, question_of
from workbench.page.tabs.training import moment_slider
from workbench.progress import Progress

TITLE = "Circuits"
HOW = (
    "Which connections carry the answer? The embedding is below, the logits are above. Hover over or touch a node to "
    "highlight its paths. The sentence above the graph compares it with runs of the model."
)
ASSEMBLY = {"scores of the strongest edges": "scores", "what the circuit keeps": "shares"}
PLAYS = {"slider": "circuit-moment", "view": "assembling", "chart": "assembly"}
ALONG = "A click scores the edges of the circuit above at each checkpoint of the run."
FOR_CIRCUIT = "This follows the circuit above along training; compute that first."


def build(slot: Slot) -> None:
    """The menus of pairs and measures, and the graph with its proof."""
    with gr.Row(elem_classes="panel-head"):
        of = slot.link("circuit_of", menu(OF, "Nodes"))
        of.render()
        pairs = slot.link("pairs", menu(PAIRS, "Pairs of prompts"))
        pairs.render()
        measure = slot.link("circuit_measure", menu(MEASURES, "Measure"))
        measure.render()
    with gr.Row(elem_classes="tools", elem_id="explained"):
        fields = [
            TextField(slot, "graph_token", NEXT_TOKEN, "the likeliest tokens", check_token),
            TextField(slot, "graph_against", AGAINST, "none", check_token),
        ]
        for field in fields:
            field.box.visible = "hidden"
            field.render()
    explained = [field.box for field in fields]
    notice, button = components.sentence(elem_classes="problem"), agreement_button("circuit-price")
    graph = components.circuit_graph(elem_id="circuit")
    proofs = gr.State(Proofs())
    controls = [of, pairs, measure, proofs, *explained]
    drawn = gr.State("")  # the key of the circuit in the picture; a change of it draws the panel below
    shown = {"notice": notice, "agreement": button, "with_progress": True}
    slot.shows(graph_view, inputs=controls, outputs=[graph, button, drawn], **shown)
    for event, more in ((graph.prove, more_edges), (graph.whole, whole_curve), (graph.patch, exact_edge)):
        slot.on(event, more, inputs=controls, outputs=[proofs])
    of.change(shown_for, of, [pairs, measure, *explained], **NOT_QUEUED)
    with gr.Column(elem_id="along-training"):  # page.css hides it below a graph of features
        build_assembly(slot, [of, pairs, measure, drawn])


def shown_for(of: str) -> list[dict[str, Any]]:
    """Updates of the two menus that are about pairs of prompts, and of the two text boxes of a graph of features."""
    is_features = OF.get(of) == "features"
    return [gr.update(visible=shown_if(not is_features))] * 2 + [gr.update(visible=shown_if(is_features))] * 2


def build_assembly(slot: Slot, controls: Sequence[Component]) -> None:
    """The panel that follows the circuit along training: curves, and a player that shows the graph at a checkpoint."""
    of = slot.link("assembly", menu(ASSEMBLY, "Along training"))
    panel = Panel("assembly", "How did it assemble?", menus=[of], height=320)
    panel.draws(slot, assembly_view, inputs=[*controls, of], with_progress=True, waiting=ALONG)
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
    token: str = "",
    against: str = "",
    progress: Progress | None = None,
) -> Iterator[list[Any]]:
    """The values of the graph, of the button that agrees to its price, and the graph's key; first without its proof.

    token, against: texts of the next token that a graph of features explains, and of another one to compare with.
    """
    if choice(of, OF, "kind of nodes") == "features":
        known = (proofs or Proofs()).about(key_of_features(request, token, against))
        frames = prompt_graph_frames(bench, request, explained_tokens(bench, request, token, against), known, progress)
    else:
        frames = circuit_frames(bench, request, chosen_by(of, pairs, measure), proofs, progress)
    for frame in frames:
        yield [frame.value, asked(frame.price), frame.key]


def explained_tokens(bench: Bench, request: TabRequest, token: str, against: str) -> tuple[int, ...]:
    """The ids of the tokens that are typed, after the prompt's end; with the other one alone also the likeliest token.
    Empty if neither is typed. Errors: FieldError."""
    at_the_end = replace(request, selection=replace(request.selection, token=None))
    return question_of(bench, at_the_end, token, against).targets if token or against else ()


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
    names, at = [label(checkpoint) for checkpoint in run], min(max(int(moment), 1), len(run))
    value = value_along_run(bench, request, found, scores, effect)
    value["along"] |= {"slider": PLAYS["slider"], "at": at, "names": names}
    return [PLAYS | {"names": names, "at": at}, value | {"key": f"{drawn} along"}]
