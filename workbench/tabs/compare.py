"""Compare: two checkpoints on one prompt."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from workbench import views
from workbench.analyses.compare_attention import compare_attention
from workbench.analyses.compare_behaviour import compare_behaviour
from workbench.analyses.compare_weights import compare_weights
from workbench.analyses.representation_similarity import representation_similarity
from workbench.analyses.transplant import transplant_heads
from workbench.tabs.attention import view_value
from workbench.tabs.bench import MOST_ATTENTION_TOKENS, Bench, Opened, label
from workbench.tabs.calls import Call, Model, Named, choice, prompt_of, result, with_tokenizer
from workbench.tabs.generate import sampling_controls, steps
from workbench.tabs.panel import Panel
from workbench.tabs.place import Due, Place
from workbench.tabs.strips import strip
from workbench.text import token_labels

TITLE = "Compare"
HOW = (
    "A is the checkpoint in the bar, B the one chosen here. Both continue the prompt from the same random numbers; "
    "below, what each token of the prompt costs them, how far they differ, and where their heads look."
)
DIFFERENCES = {
    "attention of each head: divergence": "attention",
    "next-token distributions: KL by token": "kl",
    "hidden states: CKA, layers of A × layers of B": "cka",
    "weights: relative change by matrix and layer": "weights",
    "each head of A put into B: change of B's loss": "transplant",
}


def build(place: Place) -> None:
    known = list(place.bench.known)
    with gr.Row(elem_classes="tools"):
        other = gr.Dropdown(
            place.bench.choices(), value=known[len(known) // 3], label="B", elem_id="other", min_width=220
        )
        place.link("other", other)
        settings = sampling_controls(place, "compare_")
    with gr.Row():
        texts = (
            views.token_strip(elem_id="text-a", label="text of A"),
            views.token_strip(elem_id="text-b", label="text of B"),
        )
    difference = views.token_strip(elem_id="loss-difference", label="loss difference by token")
    place.shows(compare_texts, inputs=[other, *settings], outputs=[*texts, difference], redraws=[other])
    maps = views.attention_view(elem_id="pair")
    place.shows(compare_maps, inputs=[other], outputs=[maps])
    with gr.Row(elem_classes="tools"):
        what = gr.Dropdown(list(DIFFERENCES), value=next(iter(DIFFERENCES)), label="Difference", min_width=300, scale=0)
        place.link("difference", what)
    panel = Panel("difference", {"x": "head", "y": "layer"})
    place.shows(panel.drawing(difference_call), inputs=[other, what], outputs=panel.outputs)


def compare_texts(bench: Bench, due: Due, other: str, *settings: float) -> Iterator[list[Any]]:
    """Losses first, since they are there at once; then the two texts."""
    texts: list[Any] = [gr.skip(), gr.skip()]
    pair = [bench.read(name, due.subject.prompt) for name in (due.subject.checkpoint, other)]
    bench.same_tokens(*pair)
    yield [*texts, loss_difference(bench, due, other, pair[0])]
    for place, opened in enumerate(pair):
        ids, scores = opened.ids[0].tolist(), [float("nan")] * opened.ids.shape[1]
        for step in steps(bench, opened, opened.ids[0].tolist(), *settings):
            ids.append(step.id)
            scores.append(step.surprisal)
        texts[place] = written(bench, opened, "AB"[place], ids, scores)
        yield [*texts, gr.skip()]


def compare_maps(bench: Bench, due: Due, other: str) -> dict[str, Any]:
    """The heads of A less those of B; the view fetches the maps."""
    pair = [bench.read(name, due.subject.prompt, MOST_ATTENTION_TOKENS) for name in (due.subject.checkpoint, other)]
    bench.same_tokens(*pair)
    moved = result(difference_call(bench, due, other, next(iter(DIFFERENCES))), bench)
    most = moved.rank().iloc[0]
    best = {"layer": int(most["row"]), "head": int(most["column"])}
    return view_value(pair[0], due, other) | {"orders": {"divergence": moved.values.ravel().tolist()}, "best": best}


def difference_call(bench: Bench, due: Due, other: str, what: str) -> Call:
    """One of several ways in which two checkpoints differ."""
    a, tokens = prompt_of(due)
    b = Model(bench.checkpoint(other).id)
    match choice(what, DIFFERENCES, "difference"):
        case "attention":
            return Call(compare_attention, (a, b, tokens), measure="js")
        case "kl":
            return Call(compare_behaviour, (a, b, tokens), with_tokenizer(due), measure="kl")
        case "cka":
            return Call(representation_similarity, (a, tokens, b), (("skip", 1),))
        case "weights":
            return Call(compare_weights, (Named(a.checkpoint), Named(b.checkpoint)), measure="relative_change")
    return Call(transplant_heads, (a, b, tokens), measure="loss")


def loss_difference(bench: Bench, due: Due, other: str, opened: Opened) -> dict[str, Any]:
    """Loss under B less loss under A, on the strip."""
    a, tokens = prompt_of(due)
    call = Call(compare_behaviour, (a, Model(other), tokens), measure="loss_difference")
    return strip(
        opened.labels,
        opened.ids[0].tolist(),
        result(call, bench).values[0].tolist(),
        title="Loss of B − loss of A at each token: orange where A predicts better, blue where B does",
        signed=True,
        high=4.0,
        measure="B − A",
    )


def written(bench: Bench, opened: Opened, name: str, ids: list[int], scores: list[float]) -> dict[str, Any]:
    """One checkpoint's text."""
    title = f"{name}: {label(bench.known[opened.checkpoint])}"
    more = {"title": title, "high": 8.0, "measure": "surprisal", "probability": True, "given": opened.ids.shape[1]}
    return strip(token_labels(ids, opened.tokenizer), ids, scores, **more)
