"""Compare: two checkpoints on one prompt, each difference beside its noise floor."""

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from workbench import views
from workbench.analyses.compare_attention import compare_attention
from workbench.analyses.compare_behaviour import compare_behaviour
from workbench.analyses.compare_weights import compare_weights
from workbench.analyses.noise_floor import noise_floor
from workbench.analyses.representation_similarity import representation_similarity
from workbench.analyses.transplant import transplant_parts, with_part
from workbench.checkpoints import locate, open_weights
from workbench.progress import Progress
from workbench.tabs.attention import view_value
from workbench.tabs.bench import MOST_ATTENTION_TOKENS, Bench, check_root, label
from workbench.tabs.calls import (
    FILE_SLOTS,
    SLOTS,
    Between,
    Call,
    Finals,
    Model,
    Source,
    Tokenizer,
    Tokens,
    choice,
    result,
)
from workbench.tabs.generate import sampling_controls
from workbench.tabs.panel import Panel, View, head_pick
from workbench.tabs.place import Due, Place
from workbench.tabs.texts import Ask, checked_settings, text_call

TITLE = "Compare"
HOW = (
    "A is the checkpoint in the bar, B the one chosen here; both get the prompt. Beside each difference stands its "
    "noise floor: how much checkpoints differ that saw the same data in another order. What is no larger says nothing."
)
BY_TOKEN = {
    "loss of B − loss of A": ("loss_difference", "Orange where A predicts the token better, blue where B does."),
    "KL(A ‖ B) of the predictions": ("kl", "How far B's prediction of this token is from A's, whatever the token was."),
    "KL(B ‖ A) of the predictions": ("kl_reverse", "How far A's prediction of this token is from B's."),
}
DIFFERENCES = {
    "attention of each head": "attention",
    "hidden states (CKA)": "cka",
    "weights by matrix and layer": "weights",
    "parts of A put into B, weights": "transplant_weights",
    "parts of A put into B, activations": "transplant_activations",
}
NOTES = {
    "attention": "Jensen–Shannon divergence of where a head of A and of B looks, mean over the prompt: 0 is the same "
    "place, 0.69 never the same. Click a head for its maps below.",
    "cka": "How alike a layer of A (row) and one of B (column) represent the prompt: 1 is the same up to rotation.",
    "weights": "‖B − A‖ / ‖A‖ of each matrix: 0 is unchanged, 1.41 is as far as unrelated matrices are.",
    "transplant_weights": "What a part with A's weights does to B's loss on the prompt: blue, B predicts better with "
    "it. Click a cell, and read below what B then writes.",
    "transplant_activations": "What A's activations of a part do to B's loss on the prompt: blue, B predicts better "
    "with them. “residual” is all that A has made of the text by the end of a layer.",
}
PARTS = {
    "the selected head": "head",
    "attention of its layer": "attention",
    "MLP of its layer": "mlp",
    "its whole layer": "layer",
}


@dataclass(frozen=True)
class Pair:
    """Two checkpoints that read the prompt alike, and the prompt."""

    a: str
    b: str
    tokens: Tokens
    shape: tuple[int, int]  # layers, heads of a layer

    @property
    def tokenizer(self) -> tuple[tuple[str, Source]]:
        """The option that lets an analysis write tokens instead of numbers."""
        return (("tokenizer", Tokenizer(self.a)),)

    def filling(self, comparison: Call) -> Call:
        """A comparison of the two."""
        return comparison.filled({"a": self.a, "b": self.b})


def build(place: Place) -> None:
    """Two checkpoints: how they write and predict, and what differs in weights and inside."""
    known = list(place.bench.known)
    other = gr.Dropdown(
        place.bench.choices(), value=known[len(known) // 3], label="B", elem_id="other", elem_classes="menu"
    )
    place.link("other", other)
    with gr.Accordion("How both write", open=False), gr.Row(elem_classes="tools"):
        settings = sampling_controls(place, "compare_")[:5]
    with gr.Row():
        for name, text_of in (("text-a", text_of_a), ("text-b", text_of_b)):
            Panel(name, of_tokens=True).draws(place, text_of, inputs=[other, *settings])
    what = gr.Dropdown(list(BY_TOKEN), value=next(iter(BY_TOKEN)), label="Token by token", elem_classes="menu")
    place.link("by_token", what)
    for name, view in (("by-token", by_token_view), ("by-token-floor", by_token_floor)):
        Panel(name, of_tokens=True).draws(place, view, inputs=[other, what])
    what = gr.Dropdown(list(DIFFERENCES), value=next(iter(DIFFERENCES)), label="Difference", elem_classes="menu")
    place.link("difference", what)
    with gr.Row():
        for name, view in (("difference", difference_view), ("difference-floor", difference_floor)):
            Panel(name).draws(place, view, inputs=[other, what])
    maps = views.attention_view(elem_id="pair")
    place.shows(compare_maps, inputs=[other], outputs=[maps])
    part = gr.Dropdown(
        list(PARTS), value=next(iter(PARTS)), label="Written by B with A's weights in", elem_classes="menu"
    )
    place.link("part", part)
    mixed = Panel("text-mixed", of_tokens=True)
    mixed.draws(place, mixed_text, inputs=[other, part, *settings], follows=["layer", "head"])


def pair_of(bench: Bench, due: Due, other: object) -> Pair:
    """The two checkpoints. Raises WorkbenchError unless they read the prompt as the same tokens."""
    pair = [bench.read(name, due.subject.prompt) for name in (due.subject.checkpoint, bench.checkpoint(other).id)]
    bench.same_tokens(*pair)
    config = pair[1].model.config
    tokens = Tokens(pair[0].checkpoint, due.subject.prompt)
    return Pair(pair[0].checkpoint, pair[1].checkpoint, tokens, (config.num_hidden_layers, config.num_attention_heads))


def files_of(bench: Bench, due: Due, other: object) -> Pair:
    """The two checkpoints for what is read from their files: no model is loaded, and any tokenizers will do."""
    a, b = bench.checkpoint(due.subject.checkpoint), bench.checkpoint(other)
    for checkpoint in (a, b):
        check_root(checkpoint)
    config = open_weights(locate(b)).config
    return Pair(a.id, b.id, Tokens(a.id, due.subject.prompt), (config.num_hidden_layers, config.num_attention_heads))


def text_of_a(bench: Bench, due: Due, other: str, *settings: float) -> View:
    """What A writes."""
    return written(bench, due, "A", due.subject.checkpoint, *settings)


def text_of_b(bench: Bench, due: Due, other: str, *settings: float) -> View:
    """What B writes."""
    return written(bench, due, "B", bench.checkpoint(other).id, *settings)


def written(bench: Bench, due: Due, name: str, checkpoint: str, *settings: float) -> View:
    """The prompt continued by one checkpoint."""
    call = text_call(bench, Ask(checkpoint, due.subject.prompt, "", "", *checked_settings(settings)))
    return View(call, "Both draw with the same random numbers.", title=f"{name}: {label(bench.known[checkpoint])}")


def mixed_text(
    bench: Bench, due: Due, other: str, part: str, *settings: float, progress: Progress | None = None
) -> View:
    """The prompt continued by B with one part of A: the selected head, or something of its layer."""
    pair, kind = pair_of(bench, due, other), choice(part, PARTS, "part")
    heads = result(pair.filling(compared("attention", pair)), bench, progress)
    most = heads.rank().iloc[0]
    pick = head_pick(due, pair.shape, (int(most["row"]), int(most["column"])))
    name, (layer, head) = pick.options[pick.chosen][0], pick.options[pick.chosen][1].values()
    arguments = (Model(pair.a), Model(pair.b), kind, layer, *(((head,),) if kind == "head" else ()))
    call = text_call(bench, Ask(pair.b, due.subject.prompt, "", "", *checked_settings(settings)))
    call = replace(call, arguments=(Call(with_part, arguments, progress=False), *call.arguments[1:]))
    title = f"B with {name if kind == 'head' else f'{kind} of layer {layer}'} of A"
    note = "The same random numbers again; choose the head here or in the grid above."
    return View(call, note, title=title, pick=pick)


def by_token_view(bench: Bench, due: Due, other: str, what: str) -> View:
    """A difference of A's and B's predictions of each token of the prompt."""
    measure, note = choice(what, BY_TOKEN, "difference")
    pair = pair_of(bench, due, other)
    return View(pair.filling(predictions(pair, measure)), note, title=what, chooses={"token": ("x", 0, 1 << 20)})


def by_token_floor(bench: Bench, due: Due, other: str, what: str) -> View | str:
    """The noise floor of the same."""
    measure, _ = choice(what, BY_TOKEN, "difference")
    pair = pair_of(bench, due, other)
    return floor_view(bench, pair, predictions(pair, measure))


def difference_view(bench: Bench, due: Due, other: str, what: str) -> View:
    """One of several ways in which two checkpoints differ."""
    what = choice(what, DIFFERENCES, "difference")
    pair = (files_of if what == "weights" else pair_of)(bench, due, other)
    layers, heads = pair.shape
    chooses = {"head": ("x", 0, heads), "layer": ("y", 0, layers)}
    chooses = {"cka": {"layer": ("y", -1, layers)}, "weights": {"layer": ("x", 0, layers)}}.get(what, chooses)
    return View(pair.filling(compared(what, pair)), NOTES[what], chooses=chooses)


def difference_floor(bench: Bench, due: Due, other: str, what: str) -> View | str:
    """The noise floor of the same."""
    what = choice(what, DIFFERENCES, "difference")
    pair = (files_of if what == "weights" else pair_of)(bench, due, other)
    return floor_view(bench, pair, compared(what, pair))


def floor_view(bench: Bench, pair: Pair, comparison: Call) -> View | str:
    """The noise floor of a comparison, in its colours; a sentence where the series has none."""
    series = bench.series_of(pair.a)
    finals = bench.finals(series)
    if len(finals) < 2:
        return f"No noise floor: on this machine, {series} has no two last checkpoints that differ by data order only."
    call = Call(noise_floor, (Finals(series), Between(comparison)))
    note = (
        f"The most that two of the {len(finals)} last checkpoints of {series} differ, which differ by data order only."
    )
    return View(call, note, title="Its noise floor, in the same colours", scale=pair.filling(comparison))


def predictions(pair: Pair, measure: str) -> Call:
    """A measure of how two checkpoints predict the prompt, as a call with slots for the two."""
    return Call(compare_behaviour, (*SLOTS, pair.tokens), pair.tokenizer, measure=measure)


def compared(what: str, pair: Pair) -> Call:
    """A difference between two checkpoints over the prompt, as a call with slots for the two."""
    (a, b), tokens = SLOTS, pair.tokens
    match what:
        case "attention":
            return Call(compare_attention, (a, b, tokens), measure="js")
        case "cka":
            return Call(representation_similarity, (a, tokens, b), (("skip", 1),))
        case "weights":
            return Call(compare_weights, FILE_SLOTS, measure="relative_change")
    using = what.removeprefix("transplant_")
    return Call(transplant_parts, (a, b, tokens), (("using", using),), measure="loss")


def compare_maps(bench: Bench, due: Due, other: str, progress: Progress | None = None) -> dict[str, Any]:
    """The heads of A less those of B; the view fetches the maps."""
    pair = pair_of(bench, due, other)
    opened = bench.read(pair.a, due.subject.prompt, MOST_ATTENTION_TOKENS)
    moved = result(pair.filling(compared("attention", pair)), bench, progress)
    most = moved.rank().iloc[0]
    best = {"layer": int(most["row"]), "head": int(most["column"])}
    return view_value(opened, due, pair.b) | {"orders": {"divergence": moved.values.ravel().tolist()}, "best": best}
