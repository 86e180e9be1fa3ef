"""Compare: two checkpoints on one prompt."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from workbench import views
from workbench.tabs.attention import view_value
from workbench.tabs.bench import MOST_ATTENTION_TOKENS, Bench, Opened, label
from workbench.tabs.generate import sampling_controls, steps
from workbench.tabs.place import Due, Place
from workbench.tabs.strips import loss_difference_strip, strip
from workbench.text import token_labels

TITLE = "Compare"
HOW = (
    "A is the checkpoint in the bar, B the one chosen here. Both continue the prompt from the same random numbers; "
    "below, what each token of the prompt costs them, and where their heads look."
)


def build(place: Place) -> None:
    known = list(place.bench.known)
    early = known[len(known) // 3]
    with gr.Row(elem_classes="tools"):
        other = place.link(
            "other", gr.Dropdown(place.bench.choices(), value=early, label="B", elem_id="other", min_width=220)
        )
        settings = sampling_controls(place, "compare_")
    with gr.Row():
        first = views.token_strip(elem_id="text-a", label="text of A")
        second = views.token_strip(elem_id="text-b", label="text of B")
    difference = views.token_strip(elem_id="loss-difference", label="loss difference by token")
    maps = views.attention_view(elem_id="pair")
    place.shows(compare, inputs=[other, *settings], outputs=[first, second, difference, maps], redraws=[other])


def compare(bench: Bench, due: Due, other: str, *settings: float) -> Iterator[list[Any]]:
    """Losses and maps first, since they are there at once; then the two texts as they are written."""
    with bench.turn():
        pair = [bench.read(name, due.subject.prompt, MOST_ATTENTION_TOKENS) for name in (due.subject.checkpoint, other)]
        bench.same_tokens(*pair)
        difference = loss_difference_strip(*pair)
    maps = view_value(pair[0], due, other)
    texts: list[Any] = [gr.skip(), gr.skip()]
    yield [*texts, difference, maps]
    for place, opened in enumerate(pair):
        ids, scores = opened.ids[0].tolist(), [float("nan")] * opened.ids.shape[1]
        for step in steps(bench, opened, opened.ids[0].tolist(), *settings):
            ids.append(step.id)
            scores.append(step.surprisal)
        texts[place] = written(bench, opened, "AB"[place], ids, scores)
        yield [*texts, gr.skip(), gr.skip()]


def written(bench: Bench, opened: Opened, name: str, ids: list[int], scores: list[float]) -> dict[str, Any]:
    title = f"{name}: {label(bench.known[opened.checkpoint])}"
    more = {"title": title, "high": 8.0, "measure": "surprisal", "probability": True, "given": opened.ids.shape[1]}
    return strip(token_labels(ids, opened.tokenizer), ids, scores, **more)
