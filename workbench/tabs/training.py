"""Training: one number of every checkpoint of the series, along its run; and one head's map through it."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from workbench import views
from workbench.analyses import metrics
from workbench.analyses.sample_text import SAMPLE_TEXT
from workbench.analyses.trajectory import trajectory
from workbench.errors import WorkbenchError
from workbench.tabs.attention import view_value
from workbench.tabs.bench import MOST_ATTENTION_TOKENS, Bench, label
from workbench.tabs.calls import Call, Run, Tokens, choice
from workbench.tabs.panel import Panel
from workbench.tabs.place import Due, Place

TITLE = "Training"
HOW = (
    "Every checkpoint of the series' main run, left to right, measured on the prompt (induction on random tokens, the "
    "loss on a text written for this page). Below, the maps of all heads at one checkpoint: move the slider."
)
METRICS = {
    "induction score of heads": "induction",
    "attention to the previous token": "previous",
    "attention to the first token": "first",
    "loss on a sample text": "loss",
    "log-probability of a continuation": "continuation",
    "KL to the last checkpoint": "kl",
    "norm of the residual stream": "norm",
    "effective rank": "rank",
    "weight change a step": "weights",
}
AXES = {"step": "step", "tokens": "tokens"}


def build(place: Place) -> None:
    with gr.Row(elem_classes="tools"):
        metric = place.link(
            "metric", gr.Dropdown(list(METRICS), value=next(iter(METRICS)), label="What", min_width=220)
        )
        axis = place.link("axis", gr.Dropdown(list(AXES), value="step", label="Axis", min_width=90))
        words = place.link("continuation", gr.Textbox(" lazy", label="Continuation", min_width=120))
    panel = Panel("training")
    place.shows(panel.drawing(training_call), inputs=[metric, axis, words], outputs=panel.outputs)
    most = max(len(place.bench.main_run(name)) for name in {c.name for c in place.bench.known.values()})
    with gr.Row(elem_classes="tools"):
        moment = gr.Slider(
            1, most, most, step=1, label="Checkpoint of the main run", elem_id="moment", interactive=True
        )
        opened = gr.Button("Open it in all tabs", size="sm", min_width=150, scale=0)
    place.link("moment", moment)
    view = views.attention_view(elem_id="through")
    place.shows(head_through_training, inputs=[moment], outputs=[view])
    place.on(panel.tools.select, moment_of, inputs=[axis], outputs=[moment])
    place.asks.append(place.on(opened.click, checkpoint_at, inputs=[moment], outputs=[place.checkpoint]))


def training_call(bench: Bench, due: Due, metric: str, axis: str, continuation: str) -> Call:
    """A metric along the main run of the checkpoint's series."""
    subject = due.subject
    prompt, sample = Tokens(subject.checkpoint, subject.prompt), Tokens(subject.checkpoint, SAMPLE_TEXT)
    match choice(metric, METRICS, "metric"):
        case "induction" | "previous" | "first" as score:
            samples = 64 if score == "induction" else 0
            measured = Call(metrics.head_scores, (prompt, score), (("samples", samples),))
        case "loss":
            measured = Call(metrics.held_out_loss, (sample,))
        case "continuation":
            if not continuation:
                raise WorkbenchError("write the continuation whose probability is to be followed")
            measured = Call(metrics.continuation_log_prob, (prompt, Tokens(subject.checkpoint, continuation)))
        case "kl":
            measured = Call(metrics.kl_to_last, (prompt,))
        case "norm":
            measured = Call(metrics.residual_norms, (prompt,))
        case "rank":
            measured = Call(metrics.effective_rank, (sample,))
        case _:
            measured = Call(metrics.weight_change)
    series = Run(bench.series_of(subject.checkpoint))
    return Call(trajectory, (series, measured), (("axis", choice(axis, AXES, "axis")),))


def moment_of(bench: Bench, due: Due, told: Mapping[str, Any], axis: str) -> int:
    """The slider's place for a point of the curve that was clicked."""
    run, place = bench.main_run(bench.series_of(due.subject.checkpoint)), told.get("x")
    if not isinstance(place, int | float):
        raise WorkbenchError(f"no checkpoint at {place!r}")
    return 1 + min(range(len(run)), key=lambda n: abs((getattr(run[n], choice(axis, AXES, "axis")) or 0) - place))


def checkpoint_at(bench: Bench, due: Due, _: Mapping[str, Any], moment: float) -> str:
    """The id of the slider's checkpoint."""
    run = bench.main_run(bench.series_of(due.subject.checkpoint))
    if not isinstance(moment, int | float) or moment != moment:
        raise WorkbenchError(f"no checkpoint number {moment}; there are {len(run)}")
    return run[min(max(int(moment), 1), len(run)) - 1].id


def head_through_training(bench: Bench, due: Due, moment: float) -> dict[str, Any]:
    """The attention view at one checkpoint of the run; the head stays the one that is chosen."""
    opened = bench.read(checkpoint_at(bench, due, {}, moment), due.subject.prompt, MOST_ATTENTION_TOKENS)
    return view_value(opened, due) | {"title": label(bench.known[opened.checkpoint])}
