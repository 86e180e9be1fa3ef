"""Compare: two checkpoints on one prompt, each difference beside its noise floor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import torch
from gradio.components import Component

from workbench import corpus
from workbench.analyses.compare_attention import compare_attention
from workbench.analyses.compare_behaviour import behaviour_summary, compare_behaviour
from workbench.analyses.compare_weights import compare_weights
from workbench.analyses.noise_floor import noise_floor
from workbench.analyses.representation_similarity import representation_similarity
from workbench.analyses.transplant import transplant_parts, with_part
from workbench.checkpoints import locate, open_weights, pick
from workbench.checkpoints.names import short_name
from workbench.corpus.explaining_rows import first_and_last_step
from workbench.corpus.replay import MAIN
from workbench.corpus.training_text import RECIPES
from workbench.errors import WorkbenchError
from workbench.generation import generate
from workbench.page import components
from workbench.page.build.panel import Panel, View, head_pick, menu
from workbench.page.build.slot import Slot, agreement_button, asked
from workbench.page.session.arguments import (
    FILE_PLACEHOLDERS,
    FinalsOf,
    IndexOf,
    ModelOf,
    Placeholder,
    SeriesRun,
    TextsOf,
    TokenizerOf,
    TokensOf,
)
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Between, Call
from workbench.page.session.checkpoint_labels import label
from workbench.page.session.compared_features import (
    FIRING_NOTE,
    SIZES_NOTE,
    compared_features,
    comparison,
    pair_of_features,
    table_value,
    to_compute,
)
from workbench.page.session.heads import map_value
from workbench.page.session.menus import choice
from workbench.page.session.offers import offer
from workbench.page.session.opened_prompt import MOST_ATTENTION_TOKENS
from workbench.page.session.prices import Expensive, agree, price_of, priced
from workbench.page.session.prompts import Prompt
from workbench.page.session.requests import TabRequest
from workbench.page.session.series_roots import check_root
from workbench.page.session.series_runs import loading_of
from workbench.page.session.text_requests import TextRequest, checked_settings, text_call
from workbench.page.tabs.generate import sampling_controls
from workbench.progress import Progress

TITLE = "Compare"
HOW = (
    "Choose a checkpoint to compare with. A is the earlier of the two, B is the later, and differences are B − A. The "
    "noise floor is the difference that data order alone makes."
)
BY_TOKEN = {
    "loss of B − loss of A": ("loss_difference", "Orange where A predicts the token better, blue where B does."),
    "KL(A ‖ B) of the predictions": ("kl", "How far B's prediction at this token is from A's, over all tokens."),
    "KL(B ‖ A) of the predictions": ("kl_reverse", "How far A's prediction at this token is from B's."),
}
UNITS = {"losses and divergences, nats": "nats", "shares of predictions": ""}
DIFFERENCES = {
    "attention of each head": "attention",
    "hidden states (CKA)": "cka",
    "weights by matrix and layer": "weights",
    "parts of A put into B, weights": "transplant_weights",
    "parts of A put into B, activations": "transplant_activations",
}
NOTES = {
    "attention": "Jensen–Shannon divergence between the attention of a head in A and in B, mean over the prompt: 0 is "
    "equal attention, 0.69 is attention to different tokens only. Click a head to see its maps below.",
    "cka": "How similarly a layer of A (row) and one of B (column) represent the prompt: 1 is equal up to rotation.",
    "weights": "‖B − A‖ / ‖A‖ of each matrix: 0 is unchanged, 1.41 is typical of unrelated matrices.",
    "transplant_weights": "Change of B's loss on the prompt when a part gets A's weights. Blue: B predicts better. "
    "Click a cell to see below what B then writes.",
    "transplant_activations": "Change of B's loss on the prompt when a part gets A's activations. Blue: B predicts "
    "better. “residual” is A's residual stream after a layer.",
}
FEATURES_ON = {"on the set of texts": True, "on the prompt": False}
FEATURES = "Which features are in one of them only?"
MOST_BETWEEN = 2  # checkpoints between A and B at which influence is measured, besides A
PARTS = {
    "the selected head": "head",
    "attention of its layer": "attention",
    "MLP of its layer": "mlp",
    "its whole layer": "layer",
}
EXPLAINING = (
    "A click ranks rows of the training text that B has read and A has not by how much a step on each lowers the "
    "prompt's loss, to first order."
)
MIXED = "A click continues the prompt by B with one head, layer or sublayer taken from A."


@dataclass(frozen=True)
class ComparedPair:
    """The ids of two checkpoints and the prompt's tokens. `pair_of` makes one whose tokenizers agree on the prompt."""

    a: str
    b: str
    tokens: TokensOf
    shape: tuple[int, int]  # (layers, heads of a layer) of B
    edits: str = ""  # interventions in both

    @property
    def placeholders(self) -> tuple[Placeholder, Placeholder]:
        """Placeholders for the models of A and B, with the interventions."""
        return Placeholder("a", self.edits), Placeholder("b", self.edits)

    def compared_by(self, comparison: Call) -> Call:
        """A comparison of the two: a call with placeholders, filled with their ids."""
        return comparison.filled({"a": self.a, "b": self.b})


def build(slot: Slot) -> None:
    """Panels for two checkpoints: their texts and predictions, and their differences in weights and activations."""
    known = list(slot.bench.known)
    with gr.Row(elem_classes="tools"):
        other = gr.Dropdown(
            slot.bench.choices(), value=known[len(known) // 3], label="Compared with", elem_id="other", min_width=290
        )
        slot.link("other", other)
        settings = sampling_controls(slot, "compare_")[:5]
    with gr.Row(elem_classes="panels"):
        for name, question, text_of in (("text-a", "What does A write?", text_of_a), ("text-b", "And B?", text_of_b)):
            Panel(name, question, of_tokens=True).draws(slot, text_of, inputs=[other, *settings])
    what = slot.link("by_token", menu(BY_TOKEN, "Token by token"))
    panel = Panel("by-token", "Which tokens do they predict differently?", menus=[what], of_tokens=True)
    panel.draws(slot, by_token_view, inputs=[other, what])
    Panel("by-token-floor", "How much of it is noise?", of_tokens=True).draws(
        slot, by_token_floor, inputs=[other, what]
    )
    unit = slot.link("set_unit", menu(UNITS, "Unit of the means"))
    panel = Panel("set-difference", "And over the set of texts?", menus=[unit])
    panel.draws(slot, set_view, inputs=[other, unit], follows=["texts"])
    panel = Panel("explaining", "Which training rows between them explain it?")
    panel.draws(slot, explaining_view, inputs=[other], with_progress=True, waiting=EXPLAINING)
    what = slot.link("difference", menu(DIFFERENCES, "Difference"))
    with gr.Row(elem_classes="panels"):
        panel = Panel("difference", "What changed inside?", menus=[what], beside=True)
        panel.draws(slot, difference_view, inputs=[other, what])
        floor = Panel("difference-floor", "And by data order alone?", beside=True)
        floor.draws(slot, difference_floor, inputs=[other, what])
    build_features(slot, other)
    button, maps = agreement_button("pair-price"), components.attention_view(elem_id="pair")
    slot.shows(compare_maps, inputs=[other], outputs=[maps, button], agreement=button, with_progress=True)
    part = slot.link("part", menu(PARTS, "Written by B with A's weights in"))
    mixed = Panel("text-mixed", "What does B write with a part of A?", menus=[part], of_tokens=True)
    controls = [other, part, *settings]
    mixed.draws(slot, mixed_text, inputs=controls, follows=["layer", "head"], with_progress=True, waiting=MIXED)


def build_features(slot: Slot, other: Component) -> None:
    """The table of the features of a dictionary in both checkpoints."""
    names = [("the dictionary that fits best", ""), *((name, name) for name in slot.bench.dictionaries)]
    chosen = gr.Dropdown(
        names,
        value="",
        label="Dictionary",
        elem_id="compared-dictionary",
        container=False,
        min_width=120,
        elem_classes="menu",
        render=False,
    )
    slot.link("compared_dictionary", chosen)
    texts = slot.link("features_on", menu(FEATURES_ON, "Texts"))
    with gr.Column(elem_id="compared-features", min_width=260, elem_classes="view-panel"):
        with gr.Row(elem_classes="panel-head"):
            tools = components.tools(features_about(), elem_id="compared-features-tools")
        with gr.Row(elem_classes="tools"):
            for each in (chosen, texts):
                each.render()
        notice, button = components.sentence(elem_classes="problem"), agreement_button("compared-features-price")
        shown = components.text_table(elem_id="compared-features-table")
    slot.shows(
        features_view,
        inputs=[other, chosen, texts],
        outputs=[shown, tools, button],
        follows=["texts"],
        notice=notice,
        agreement=button,
        with_progress=True,
    )


def features_about(note: str = "") -> dict[str, Any]:
    """The heading of the table of features."""
    return {"panel": "compared-features", "question": FEATURES, "table": True, "note": note}


def features_view(
    bench: Bench, request: TabRequest, other: str, name: str, on: str, progress: Progress | None = None
) -> list[Any]:
    """The values of the table of features, of its heading, and of the button that agrees to its price."""
    a, b = in_order(bench, request, other)
    if choice(on, FEATURES_ON, "texts"):
        same_texts(bench, a, b, request.selection.texts)
        texts: TextsOf | TokensOf = TextsOf(a, bench.sets.get(request.selection.texts).name)
    else:
        bench.same_tokens(a, b, request.query.prompt)
        texts = TokensOf(a, request.query.prompt)
    try:
        pair = pair_of_features(bench, a, b, name, texts)
    except WorkbenchError as error:
        return [{}, features_about(str(error)), asked(None)]
    about = features_about(SIZES_NOTE if bench.dictionary(pair.dictionary).sources else FIRING_NOTE)
    about["note"] += " The edits do not affect this: it reads the unedited models." if request.query.edits else ""
    try:
        price = agree(bench, request, *to_compute(bench, pair))
    except Expensive as expensive:
        return [{}, about, asked(expensive.price)]
    whole = compared_features(bench, pair, priced(progress, price))
    return [table_value(bench, pair, whole), about | offer(bench, comparison(bench, pair)), asked(None)]


def same_texts(bench: Bench, a: str, b: str, chosen: str | None) -> None:
    """Errors: WorkbenchError if the two checkpoints tokenise a set of texts differently."""
    found = bench.sets.get(chosen)
    if not torch.equal(*(bench.texts(one, found.name).ids for one in (a, b))):
        raise WorkbenchError(f"{a} and {b} tokenise {found.title} differently and cannot be compared")


def in_order(bench: Bench, request: TabRequest, other: object) -> tuple[str, str]:
    """The ids of A and B: the checkpoint in the header and the other one. Of one series, A is the earlier one."""
    a, b = bench.checkpoint(request.query.checkpoint), bench.checkpoint(other)
    known = list(bench.known)
    if a.name == b.name and known.index(b.id) < known.index(a.id):
        return b.id, a.id
    return a.id, b.id


def pair_of(bench: Bench, request: TabRequest, other: object) -> ComparedPair:
    """The two checkpoints; no model is loaded. Raises WorkbenchError unless they read the prompt as the same tokens."""
    a, b = in_order(bench, request, other)
    bench.same_tokens(a, b, request.query.prompt)
    return ComparedPair(a, b, TokensOf(a, request.query.prompt), bench.shape_of(b), request.query.edits)


def files_of(bench: Bench, request: TabRequest, other: object) -> ComparedPair:
    """The two checkpoints, for comparisons of files: no model is loaded, and their tokenizers may differ."""
    a, b = (bench.checkpoint(name) for name in in_order(bench, request, other))
    for checkpoint in (a, b):
        check_root(checkpoint)
    config = open_weights(locate(b)).config
    return ComparedPair(
        a.id, b.id, TokensOf(a.id, request.query.prompt), (config.num_hidden_layers, config.num_attention_heads)
    )


def text_of_a(bench: Bench, request: TabRequest, other: str, *settings: float) -> View:
    """The text that A generates."""
    return continuation(bench, request, "A", in_order(bench, request, other)[0], *settings)


def text_of_b(bench: Bench, request: TabRequest, other: str, *settings: float) -> View:
    """The text that B generates."""
    return continuation(bench, request, "B", in_order(bench, request, other)[1], *settings)


def continuation(bench: Bench, request: TabRequest, name: str, checkpoint: str, *settings: float) -> View:
    """The prompt continued by one checkpoint."""
    query = request.query
    if not bench.is_loaded(checkpoint):
        agree(bench, request, outlined_text(checkpoint, query.prompt, settings))
    call = text_call(bench, TextRequest(checkpoint, query.prompt, "", query.edits, *checked_settings(settings)))
    return View(call, f"{drawn_how(settings)}.", title=f"{name}: {label(bench.known[checkpoint])}")


def drawn_how(settings: Sequence[float]) -> str:
    """How the two texts are drawn, so that they differ by the checkpoints alone."""
    temperature = checked_settings(settings)[1]
    return "Both checkpoints sample with the same random numbers" if temperature else "The likeliest token each time"


def outlined_text(checkpoint: str, prompt: Prompt, settings: Sequence[float]) -> Call:
    """A call with the price of a generated text, made without loading the checkpoint."""
    length = checked_settings(settings)[0]
    return Call.of(generate, ModelOf(checkpoint), TokensOf(checkpoint, prompt), max_new_tokens=length)


def mixed_text(
    bench: Bench, request: TabRequest, other: str, part: str, *settings: float, progress: Progress | None = None
) -> View:
    """The prompt continued by B with one part of A: the selected head, or the attention, MLP or all of its layer."""
    pair, kind = pair_of(bench, request, other), choice(part, PARTS, "part")
    by_head = pair.compared_by(compared("attention", pair))
    if bench.results.get(by_head) is None:
        agree(bench, request, by_head, outlined_text(pair.b, request.query.prompt, settings))
    heads = result(by_head, bench, progress)
    most = heads.rank().iloc[0]
    pick = head_pick(request, pair.shape, (int(most["row"]), int(most["column"])))
    name, (layer, head) = pick.options[pick.chosen][0], pick.options[pick.chosen][1].values()
    heads_of_part = ((head,),) if kind == "head" else ()
    mixed = Call.quick(with_part, ModelOf(pair.a), ModelOf(pair.b, pair.edits), kind, layer, *heads_of_part)
    call = text_call(bench, TextRequest(pair.b, request.query.prompt, "", pair.edits, *checked_settings(settings)))
    call = replace(call, arguments=(mixed, *call.arguments[1:]))
    title = f"B with {name if kind == 'head' else f'{kind} of layer {layer}'} of A"
    note = f"{drawn_how(settings)}, as above. Choose the head here or in the grid above."
    return View(call, note, title=title, pick=pick)


def by_token_view(bench: Bench, request: TabRequest, other: str, what: str) -> View:
    """A difference between A's and B's predictions, for each token of the prompt."""
    measure, note = choice(what, BY_TOKEN, "difference")
    pair = pair_of(bench, request, other)
    return View(pair.compared_by(predictions(pair, measure)), note, title=what, chooses={"token": ("x", 0, 1 << 20)})


def by_token_floor(bench: Bench, request: TabRequest, other: str, what: str) -> View | str:
    """The noise floor of `by_token_view`; a sentence if the series has none."""
    measure, _ = choice(what, BY_TOKEN, "difference")
    pair = pair_of(bench, request, other)
    return floor_view(bench, pair, predictions(pair, measure))


def set_view(bench: Bench, request: TabRequest, other: str, unit: str = next(iter(UNITS))) -> View:
    """The mean differences between A's and B's predictions over the tokens of the set of texts."""
    unit = choice(unit, UNITS, "unit")
    a, b = in_order(bench, request, other)
    found, (model_a, model_b) = (
        bench.sets.get(request.selection.texts),
        (ModelOf(one, request.query.edits) for one in (a, b)),
    )
    texts = TextsOf(a, found.name)
    same_texts(bench, a, b, found.name)
    compared_by_token = Call.of(compare_behaviour, model_a, model_b, texts)
    call = Call.quick(behaviour_summary, compared_by_token, unit=unit, in_words=True)
    note = (
        f"Means over the tokens of {found.counted}; bars are standard errors over texts. Other panels show the prompt."
    )
    return View(call, note)


def explaining_view(bench: Bench, request: TabRequest, other: str, progress: Progress | None = None) -> View | str:
    """The rows that B has read and A has not, ranked by influence on the prompt, behind a click with its price.

    A sentence if no rows lie between the two, or the training text is not indexed here.
    """
    a, b = in_order(bench, request, other)
    try:
        run = rows_between(bench, a, b)
        call = Call.of(
            corpus.explaining_rows,
            SeriesRun(bench.series_of(b), run),
            TokensOf(a, request.query.prompt),
            IndexOf(b),
            tokenizer=TokenizerOf(a),
            **loading_of(bench),
        )["score"]
        price = price_of(bench, call)
    except WorkbenchError as error:
        return str(error)
    if bench.results.get(call) is None and not request.agreed:
        raise Expensive(price)
    several = len(run) - 1
    note = (
        "The rows that B has read and A has not, with the longest n-grams of the prompt. Value: how much a step on the "
        f"row lowers the prompt's loss, to first order, summed over {several} checkpoint{'s' * (several > 1)}. Random "
        "rows come last."
    )
    return View(call, note)


def rows_between(bench: Bench, a: str, b: str) -> tuple[str, ...]:
    """The ids of A, of at most `MOST_BETWEEN` checkpoints of the main run between A and B, and of B.

    Errors: those of `explaining_rows.first_and_last_step`, and WorkbenchError if the training text is not indexed.
    """
    first, last = first_and_last_step([bench.checkpoint(name) for name in (a, b)])
    corpus.open(b)
    inside = [one for one in bench.run_here(b) if one.step is not None and first < one.step < last]
    if (bench.checkpoint(b).order or MAIN) != MAIN:  # the main run is on another data order from the branch on
        inside = [one for one in inside if one.step is not None and one.step <= RECIPES[one.name].branch]
    few = pick(inside, MOST_BETWEEN) if len(inside) > MOST_BETWEEN else inside
    return (a, *(one.id for one in few), b)


def difference_view(bench: Bench, request: TabRequest, other: str, what: str) -> View:
    """One of the `DIFFERENCES` between the two checkpoints."""
    what = choice(what, DIFFERENCES, "difference")
    pair = (files_of if what == "weights" else pair_of)(bench, request, other)
    layers, heads = pair.shape
    chooses = {"head": ("x", 0, heads), "layer": ("y", 0, layers)}
    chooses = {"cka": {"layer": ("y", -1, layers)}, "weights": {"layer": ("x", 0, layers)}}.get(what, chooses)
    return View(pair.compared_by(compared(what, pair)), NOTES[what], chooses=chooses)


def difference_floor(bench: Bench, request: TabRequest, other: str, what: str) -> View | str:
    """The noise floor of `difference_view`; a sentence if the series has none."""
    what = choice(what, DIFFERENCES, "difference")
    pair = (files_of if what == "weights" else pair_of)(bench, request, other)
    return floor_view(bench, pair, compared(what, pair))


def floor_view(bench: Bench, pair: ComparedPair, comparison: Call) -> View | str:
    """The noise floor of a comparison, on the same colour scale; a sentence if the series has no noise floor."""
    series = bench.series_of(pair.a)
    finals, named = bench.finals(series), short_name(series)
    if len(finals) < 2:
        return f"No noise floor: {named} has no two final checkpoints on this machine that differ only by data order."
    call = Call.of(noise_floor, FinalsOf(series), Between(comparison))
    note = (
        f"The largest difference between any two of the {len(finals)} final checkpoints of {named}, "
        "which differ only by data order."
    )
    return View(call, note, title="Its noise floor, in the same colours", scale=pair.compared_by(comparison))


def predictions(pair: ComparedPair, measure: str) -> Call:
    """A measure of the difference between two checkpoints' predictions on the prompt, as a call with placeholders."""
    return Call.of(compare_behaviour, *pair.placeholders, pair.tokens, tokenizer=TokenizerOf(pair.a))[measure]


def compared(what: str, pair: ComparedPair) -> Call:
    """One of the `DIFFERENCES` between two checkpoints on the prompt, as a call with placeholders."""
    (a, b), tokens = pair.placeholders, pair.tokens
    match what:
        case "attention":
            return Call.of(compare_attention, a, b, tokens)["js"]
        case "cka":
            return Call.of(representation_similarity, a, tokens, b, skip=1)
        case "weights":
            return Call.of(compare_weights, *FILE_PLACEHOLDERS)["relative_change"]
    return Call.of(transplant_parts, a, b, tokens, using=what.removeprefix("transplant_"))["loss"]


def compare_maps(bench: Bench, request: TabRequest, other: str, progress: Progress | None = None) -> list[Any]:
    """The value of the attention view for A, B and B − A, and its agreement button. The browser fetches the maps."""
    pair = pair_of(bench, request, other)
    by_head = pair.compared_by(compared("attention", pair))
    try:
        agree(bench, request, by_head)
    except Expensive as expensive:
        return [{}, asked(expensive.price, "Compare all heads")]
    opened = bench.read(pair.a, request.query.prompt, MOST_ATTENTION_TOKENS)
    moved = result(by_head, bench, progress)
    most = moved.rank().iloc[0]
    best = {"layer": int(most["row"]), "head": int(most["column"])}
    value = map_value(opened, request.query, pair.b)
    return [value | {"orders": {"divergence": moved.values.ravel().tolist()}, "best": best}, asked(None)]
