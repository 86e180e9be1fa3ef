"""Texts: the loss of each text of a set, the layers from which the labels can be read, the effect of the direction
between two labels, and the texts written with it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
from gradio.components import Component

from workbench.analyses.linear_probe import Probe, linear_probe, misread, probe_layer
from workbench.analyses.text_overview import mean_losses, text_overview, without_loss
from workbench.errors import WorkbenchError
from workbench.interventions import LabelContrast, read, typed_token
from workbench.page import components
from workbench.page.build.panel import Panel, View, menu
from workbench.page.build.slot import Slot, agreement_button, asked
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import cached_value, origin, result
from workbench.page.session.calls import Call, texts_arguments, tokenizer_argument
from workbench.page.session.edit_lines import sets_of
from workbench.page.session.menus import choice
from workbench.page.session.offers import offer
from workbench.page.session.prices import Expensive, agree, price_of_edits, priced
from workbench.page.session.requests import Selection, TabRequest
from workbench.page.session.steered import (
    ChosenDirection,
    place_of,
    side_by_side,
    steering_call,
    telling_answers,
    written_call,
)
from workbench.page.session.text_sets import NO_LABELS, TextSet
from workbench.progress import Progress
from workbench.results import Scores
from workbench.tokens import token_labels

TITLE = "Texts"
HOW = (
    "A set of texts instead of one prompt: choose it in the bar, or paste your own. Click a row to make its text the "
    "prompt."
)
COLUMNS = {
    "text": ("#", "count"),
    "tokens": ("tokens", "count"),
    "label": ("label", "name"),
    "loss": ("loss", "number"),
    "answer": ("answer", "token"),
    "probability": ("its probability", "percent"),
    "content": ("text", "words"),
}
WRONG = {
    "text": ("#", "count"),
    "label": ("label", "name"),
    "predicted": ("read as", "name"),
    "probability": ("probability of its label", "percent"),
    "content": ("text", "words"),
}
EFFECTS = {
    "probability of the answer": ("probability", "p(answer) / (p(answer) + p(other answer)) after the texts"),
    "log odds of the answers": ("log_odds", "log p(answer) − log p(other answer) after the texts, in nats"),
    "probability of either answer": ("answers", "p(answer) + p(other answer); near 0 the model says something else"),
    "loss on unrelated text": ("loss", "mean −log p of a built-in text, in nats: how much steering harms it"),
}
LAYERS = {"where it is read best": True, "the selected layer": False}
FOLDS = 5  # of the probe
SHOWN = 160  # characters of a text in a table
BOXES = (
    ("toward", "Toward the label", "the first label"),
    ("from", "From the label", "the second label"),
    ("answer", "Answer", "most telling"),
    ("instead", "Other answer", "most telling"),
)
MOST_LABELS = 8  # that a sentence lists
STEERING = (
    "A click adds the direction from one label to another in several strengths, and draws the effect beside that of "
    "random directions of its norm."
)


def build(slot: Slot) -> None:
    """The table of the set with its mean losses, and the probe of its labels."""
    table, button = components.text_table(elem_id="set-table"), agreement_button("set-price")
    outputs = [table, button]
    slot.shows(set_table_view, outputs=outputs, follows=["texts"], agreement=button, with_progress=True)
    Panel("means", "Which texts are harder?", height=200).draws(slot, means_view, follows=["texts"])
    panel = Panel("probe", "From which layer on can the label be read?")
    panel.draws(slot, probe_view, follows=["texts", "layer"], with_progress=True)
    wrong, button = components.text_table(elem_id="wrong-table"), agreement_button("wrong-price")
    outputs = [wrong, button]
    slot.shows(wrong_view, outputs=outputs, follows=["texts", "layer"], agreement=button, with_progress=True)
    for each in (table, wrong):
        slot.runs(each.open, clicked_text, outputs=[slot.prompt])

    effect = slot.link("steer_effect", menu(EFFECTS, "Effect of steering"))
    layer = slot.link("steer_layer", menu(LAYERS, "Layer of the direction"))
    boxes = [
        slot.link(f"steer_{name}", gr.Textbox("", label=label, placeholder=told, min_width=130, render=False))
        for name, label, told in BOXES
    ]
    panel = Panel("steering", "What does the direction do?", menus=[effect, layer], below=boxes)
    inputs = [effect, layer, *boxes]
    panel.draws(slot, steering_view, inputs=inputs, follows=["texts", "layer"], with_progress=True, waiting=STEERING)
    build_written(slot, [layer, *boxes[:2]])


def build_written(slot: Slot, direction: list[Component]) -> None:
    """The table of texts that are written with the direction that controls of the panel above choose."""
    with gr.Column(elem_id="steered-texts", min_width=260, elem_classes="view-panel"):
        with gr.Row(elem_classes="panel-head"):
            tools = components.tools(written_about(), elem_id="steered-texts-tools")
        notice, button = components.sentence(elem_classes="problem"), agreement_button("steered-texts-price")
        shown = components.text_table(elem_id="steered-texts-table")
    slot.shows(
        written_view,
        inputs=direction,
        outputs=[shown, tools, button],
        follows=["texts", "layer"],
        notice=notice,
        agreement=button,
        with_progress=True,
    )


def set_table_view(bench: Bench, request: TabRequest, progress: Progress | None = None) -> list[Any]:
    """The values of the table of the set, and of the button that agrees to its price."""
    found = chosen_set(bench, request)
    try:
        overview = overview_of(bench, request, progress)
    except Expensive as expensive:
        return [{"summary": found.counted}, asked(expensive.price)]
    means = mean_losses(overview) if np.isfinite(overview["loss"]).any() else None
    about = set_summary(found, means, without_loss(overview))
    return [table_of(bench, overview_call(request), found, COLUMNS, about), asked(None)]


def means_view(bench: Bench, request: TabRequest) -> View | str:
    """The mean loss of all texts, and of those of each label."""
    if chosen_set(bench, request).labels is None:
        return "This set has no labels; its mean loss stands above the table."
    call = Call.quick(mean_losses, overview_call(request))
    if bench.results.get(call) is None:  # the table above has just made what it is the mean of
        means = mean_losses(overview_of(bench, request))
        bench.results.put(call, means.with_provenance(origin(call, bench)))
    note = "Mean −log p per token, without the first of each text; bars are standard errors over texts."
    return View(call, note)


def probe_view(bench: Bench, request: TabRequest, progress: Progress | None = None) -> View | str:
    """The accuracy of a linear probe of the labels at each layer, with its control; the edit is the direction in which
    the probe of the selected or best layer reads the first label."""
    found = chosen_set(bench, request)
    if found.labels is None:
        return NO_LABELS
    layers = bench.shape_of(request.query.checkpoint)[0]
    note = (
        f"The share of {found.counted} whose label a linear probe of the last token's state reads, trained on the "
        f"others ({FOLDS} folds). Only what lies above “shuffled labels” was learned from the states. Click a layer to "
        "see which texts it gets wrong."
    )
    edit = ""
    if can_be_probed(found):
        checkpoint, place = request.query.checkpoint, place_of(probed_layer(bench, request, progress))
        contrast = LabelContrast(found.name, found.labels[0], None, bench.texts(checkpoint, found.name))
        edit = label_edit(bench, checkpoint, "probe", contrast, place)
        note += told_edit(bench, checkpoint, edit).replace("the direction", "this probe's direction", 1)
    return View(probe_call(request), note, chooses={"layer": ("x", -1, layers)}, edit=edit)


def wrong_view(bench: Bench, request: TabRequest, progress: Progress | None = None) -> list[Any]:
    """The values of the table of texts whose label the probe of a layer gets wrong, and of the agreement button.

    The layer is the selected one, or the first of those with the highest accuracy.
    """
    found = chosen_set(bench, request)
    if not can_be_probed(found):
        return [{}, asked(None)]  # the panel above says why
    try:
        layer = probed_layer(bench, request, progress)
        call = Call.of(probe_layer, *texts_arguments(request), layer=layer, folds=FOLDS)
        price = agree(bench, request, call)
    except Expensive:
        return [{}, asked(None)]  # the panel above asks
    probe, wrong = cached_value(call, bench, priced(progress, price)), Call.quick(misread, call)
    bench.results.put(wrong, misread(probe))
    return [table_of(bench, wrong, found, WRONG, confused(probe, layer)), asked(None)]


def steering_view(
    bench: Bench,
    request: TabRequest,
    effect: str,
    layer: str,
    toward: str,
    against: str,
    answer: str,
    instead: str,
    *,
    progress: Progress | None = None,
) -> View | str:
    """The dose–response of the direction from one label to another, beside random directions of its norm."""
    measure, said = choice(effect, EFFECTS, "effect")

    def call_of(chosen: ChosenDirection) -> Call:  # to be priced; the answers (0, 1) do not change the price
        return steering_call(request, chosen, (0, 1), measure)

    chosen = chosen_direction(bench, request, layer, toward, against, call_of, progress)
    if isinstance(chosen, str):
        return chosen
    agree(bench, request, call_of(chosen))
    tokenizer = bench.tokenizer(request.query.checkpoint)
    answers = telling_answers(bench, request, chosen) if not (answer and instead) else (0, 0)
    pair = (
        typed_token(answer, tokenizer) if answer else answers[0],
        typed_token(instead, tokenizer) if instead else answers[1],
    )
    shown = [f"“{text}”" for text in token_labels(list(pair), tokenizer)]
    found = chosen_set(bench, request)
    note = (
        f"The direction is the mean state of {chosen.toward!r} minus that of {chosen.against!r} at the last token "
        f"after {chosen.place}, from one half of {found.counted}; it is added, times the strength, to all tokens of "
        f"the other half. Answer {shown[0]}, other answer {shown[1]}: {said}. An effect of this direction lies outside "
        "the range of random directions of the same norm."
    )
    checkpoint = request.query.checkpoint
    other = None if len(set(found.labels or ())) == 2 else chosen.against
    contrast = LabelContrast(found.name, chosen.toward, other, bench.texts(checkpoint, found.name))
    edit = label_edit(bench, checkpoint, "label", contrast, chosen.place)
    note += told_edit(bench, checkpoint, edit)
    return View(steering_call(request, chosen, pair, measure), note, edit=edit)


def written_view(
    bench: Bench, request: TabRequest, layer: str, toward: str, against: str, progress: Progress | None = None
) -> list[Any]:
    """The values of the table of texts that are written with the direction, of its heading, and of the agreement
    button."""
    try:
        chosen = chosen_direction(bench, request, layer, toward, against, partial(written_call, request), progress)
        if isinstance(chosen, str):
            return [{}, written_about(chosen), asked(None)]
        call = written_call(request, chosen)
        price = agree(bench, request, call)
    except Expensive as expensive:
        return [{}, written_about(), asked(expensive.price)]
    grid = result(call, bench, priced(progress, price))
    note = (
        f"The text that follows the prompt, the likeliest token each time, with {chosen.toward!r} minus "
        f"{chosen.against!r} after {chosen.place} added to all tokens, old and new; beside it the same with a random "
        "direction of the same norm. Strength 0 is the unsteered text. Surprisal is the mean −log p of the new tokens "
        "by the unsteered model: large where steering makes the text less fluent."
    )
    note += f" With {', '.join(call.edits.splitlines())}." if call.edits else ""
    return [side_by_side(grid), written_about(note) | offer(bench, call), asked(None)]


def written_about(note: str = "") -> dict[str, Any]:
    """The heading of the table of written texts."""
    return {"panel": "steered-texts", "question": "What does it then write?", "table": "of a result", "note": note}


def chosen_direction(
    bench: Bench,
    request: TabRequest,
    layer: str,
    toward: str,
    against: str,
    call_of: Callable[[ChosenDirection], Call],
    progress: Progress | None,
) -> ChosenDirection | str:
    """The direction that the controls choose: the labels that are named, or the first two of the set, and its layer.
    For a set without two labels, a sentence. Raises Expensive if the best layer is wanted and the price of finding it,
    and of the call that uses the direction, is not agreed to."""
    best, found = choice(layer, LAYERS, "layer"), chosen_set(bench, request)
    if found.labels is None:
        return NO_LABELS
    names = [*dict.fromkeys(found.labels)]
    if len(names) < 2:
        return f"All texts of {found.title} have the label {names[0]!r}; a direction leads from one label to another."
    first = toward or next(name for name in names if name != against)
    second = against or next(name for name in names if name != first)
    best = best and can_be_probed(found)
    wanted = replace(request, selection=Selection(texts=found.name)) if best else request
    then = call_of(ChosenDirection(first, second, bench.shape_of(request.query.checkpoint)[0] - 1))  # as long as any
    return ChosenDirection(first, second, probed_layer(bench, wanted, progress, then))


def label_edit(bench: Bench, checkpoint: str, kind: str, contrast: LabelContrast, place: str) -> str:
    """The edit that adds the direction of a label of a set once, of the kind "label" or "probe"; "" for labels that
    cannot be written in a line."""
    line = f"+1 {kind} {contrast} at {place}"
    try:
        (change,) = read(line, bench.tokenizer(checkpoint), sets_of(bench, checkpoint))
    except WorkbenchError:
        return ""
    return line if change.labels == contrast else ""


def told_edit(bench: Bench, checkpoint: str, edit: str) -> str:
    """What an edit of `label_edit` does and costs, as a sentence; "" for no edit."""
    if not edit:
        return ""
    price = price_of_edits(bench, checkpoint, edit)
    return (
        " The edit adds the direction, made from all texts of the set, with strength 1 to all tokens that the model "
        f"then reads or writes. Making the direction takes {price} the first time; it is then kept."
    )


def probed_layer(bench: Bench, request: TabRequest, progress: Progress | None = None, *then: Call) -> int | str:
    """The selected layer; without one, the layer from which the labels are read best, or "embed"; the last one if the
    labels cannot be probed. The price of a probe includes the calls that follow it, `then`."""
    layers, selected = bench.shape_of(request.query.checkpoint)[0], request.selection.layer
    if selected is not None or not can_be_probed(chosen_set(bench, request)):
        return layers - 1 if selected is None else min(selected, layers - 1)
    call = probe_call(request)
    price = agree(bench, request, call, *(() if bench.results.get(call) is not None else then))
    best = int(result(call, bench, priced(progress, price)).values[0].argmax())
    return best - 1 if best else "embed"


def clicked_text(bench: Bench, request: TabRequest, data: Mapping[str, Any]) -> str:
    """The text of a clicked row."""
    found, number = chosen_set(bench, request), data.get("text")
    if not isinstance(number, int) or not 0 <= number < len(found.strings):
        raise WorkbenchError(f"no text {number!r}; {found.title} has {len(found.strings):,}")
    return found.strings[number]


def can_be_probed(found: TextSet) -> bool:
    """Whether a set has two labels, and for each of its labels as many texts as a probe needs."""
    counts = Counter(found.labels or ()).values()
    return len(counts) > 1 and min(counts) >= FOLDS


def chosen_set(bench: Bench, request: TabRequest) -> TextSet:
    """The set of texts of a request. Errors: those of `TextSets.get`."""
    return bench.sets.get(request.selection.texts or "")


def overview_call(request: TabRequest) -> Call:
    """The table of the set."""
    return Call.of(text_overview, *texts_arguments(request), tokenizer=tokenizer_argument(request))


def probe_call(request: TabRequest) -> Call:
    """The accuracy of the probe at each layer."""
    return Call.of(linear_probe, *texts_arguments(request), folds=FOLDS)


def overview_of(bench: Bench, request: TabRequest, progress: Progress | None = None) -> pd.DataFrame:
    """The table of the set, from the result cache if it is there. Raises Expensive if its price is not agreed to."""
    call = overview_call(request)
    price = agree(bench, request, call)
    return cached_value(call, bench, priced(progress, price))


def table_of(
    bench: Bench, call: Call, found: TextSet, columns: Mapping[str, tuple[str, str]], about: str
) -> dict[str, Any]:
    """The value of the table of a call (see text_table.js): those columns of `columns` that the table has."""
    whole = cached_value(call, bench)
    shown = whole.assign(content=[found.strings[number][:SHOWN] for number in whole["text"]])
    names = [name for name in columns if name in shown]
    kept = shown[names].astype(object).where(shown[names].notna(), None)
    numbers = shown["text"].tolist()
    rows = [[number, *cells] for number, cells in zip(numbers, kept.to_numpy().tolist(), strict=True)]
    return {"summary": about, "columns": [columns[name] for name in names], "rows": rows, "offer": offer(bench, call)}


def set_summary(found: TextSet, means: Scores | None, lost: list[int]) -> str:
    """The set, its mean loss and that of each label, with standard errors."""
    if means is None:
        return f"{found.counted}: no text has a loss."
    errors = means.errors if means.errors is not None else np.full(means.values.shape, np.nan)
    told = [
        f"{name} {value:.3f}" + (f" ± {error:.3f}" if np.isfinite(error) else "")
        for name, value, error in zip(means.names, means.values, errors, strict=True)
    ]
    more = f"; {len(told) - 1 - MOST_LABELS} more labels" if len(told) > MOST_LABELS + 1 else ""
    left = f" {len(lost)} texts are left out, because their loss is not a number." if lost else ""
    return f"{found.counted}. Mean loss in nats ± standard error: {', '.join(told[: MOST_LABELS + 1])}{more}.{left}"


def confused(probe: Probe, layer: int | str) -> str:
    """The accuracy of a probe, and which labels it takes for others, as a sentence."""
    pairs = probe.texts[probe.texts["wrong"]].groupby(["label", "predicted"]).size().sort_values(ascending=False)
    of_label = probe.texts["label"].value_counts()
    told = [f"{count} of {of_label[label]} {label} as {other}" for (label, other), count in pairs.items()]
    read = f"After {place_of(layer)}: {100 * probe.accuracy:.0f} % ± {100 * probe.error:.0f} % are read correctly"
    return f"{read}; wrongly: {', '.join(told[:MOST_LABELS])}." if told else f"{read}."
