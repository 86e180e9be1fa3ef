"""Training: a metric at each checkpoint of a series' main run, and the attention maps at one of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from workbench import corpus, metrics
from workbench.analyses.support.sample_text import SAMPLE_TEXT
from workbench.analyses.trajectory import trajectory
from workbench.checkpoints import Checkpoint, is_here, locate
from workbench.corpus.training_text import RECIPES
from workbench.errors import WorkbenchError
from workbench.generation import generate
from workbench.page import components
from workbench.page.build.panel import Panel, View, head_pick, menu, shown_if
from workbench.page.build.slot import DOWNLOADS, Slot, agreement_button, asked, guarded
from workbench.page.session.arguments import InterventionsOf, ModelOf, TextsOf, TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.checkpoint_labels import label
from workbench.page.session.heads import SAMPLED, map_value
from workbench.page.session.map_requests import INDUCTION_SAMPLES, all_maps, atlas_call
from workbench.page.session.menus import OVER, PROMPT, choice
from workbench.page.session.opened_prompt import MOST_ATTENTION_TOKENS
from workbench.page.session.prices import Expensive, Planner, agree, is_cheap, priced
from workbench.page.session.prompts import Prompt
from workbench.page.session.requests import TabRequest
from workbench.page.session.series_runs import absent, loading_of, series_run, too_few
from workbench.page.session.text_sets import NO_LABELS, TextSet
from workbench.page.session.training_text import read_ngram
from workbench.progress import Progress, steps
from workbench.results import Curves

TITLE = "Training"
HOW = (
    "The main run from left to right: click a point to open its checkpoint on all tabs, or press Play to watch the "
    "selected head's map change."
)
ON_ROWS = "loss on rows that held the token's n-gram"
FOLLOWED = "log-probability of a continuation"
METRICS = {
    "induction score of heads": "induction",
    "attention to the previous token": "previous",
    "attention to the first token": "first",
    "entropy of attention": "entropy",
    "held-out loss": "loss",
    FOLLOWED: "continuation",
    "KL to the last checkpoint": "kl",
    "norm of the residual stream": "norm",
    "effective rank": "rank",
    "weight change a step": "weights",
    ON_ROWS: "rows",
    "labels of the set, read by a probe": "probe",
}
X_AXES = {
    "step, logarithmic": ("step", True),
    "step": ("step", False),
    "tokens, logarithmic": ("tokens", True),
    "tokens": ("tokens", False),
}
OF_SETS = ("loss", "kl", "norm", "rank", "previous", "first", "entropy")
SCORES = ("induction", "previous", "first", "entropy")
PLAYS = {"slider": "moment", "view": "through", "chart": "training"}
MOST_ROWS = 6  # of which the loss is shown, spread evenly over those that held an n-gram
MOST_MARKS = 2000
MOST_WORDS = 4  # tokens of the default continuation, used if none is typed
A_WORD = "the"  # a continuation of about its length
WAITING = "A click draws the chosen number at each checkpoint of the run."


def build(slot: Slot) -> None:
    """The panel of a metric along the series, and below it the player and the map of a head at its checkpoint."""
    metric = slot.link("metric", menu(METRICS, "Metric"))
    axis = slot.link("axis", menu(X_AXES, "Axis"))
    over = slot.link("over", menu(OVER, "Measured on", visible=METRICS[metric.value] in OF_SETS))
    words = gr.Textbox(
        "",
        label="Continuation",
        placeholder="the last checkpoint's continuation",
        visible=False,
        container=False,
        min_width=150,
        render=False,
    )
    marks = slot.link("marks", gr.Checkbox(False, label="Mark when read", min_width=120, scale=0, render=False))
    some_absent = any(slot.bench.run_of(name) != slot.bench.run_here(name) for name in of_each_series(slot.bench))
    more = gr.Button("Fetch the others", size="sm", min_width=150, scale=0, visible=some_absent, render=False)
    with gr.Row(elem_classes="panels", elem_id="along"):
        panel = Panel(
            "training", "When did it form?", menus=[metric, axis, over, words, marks, more], height=290, beside=True
        )
        with gr.Column(min_width=260):
            button = agreement_button("through-price")
            view = components.attention_view(elem_id="through")
    metric.change(fitting_controls, metric, [words, over], show_progress="hidden")
    slot.link("continuation", words)
    fetched = gr.State(0)
    controls, follows = [metric, axis, words, fetched, over, marks], ["token", "layer", "head", "texts"]
    panel.draws(slot, training_view, inputs=controls, follows=follows, with_progress=True, waiting=WAITING)
    work = guarded(
        lambda request, _, *more, **to: download_missing(slot.bench, request, *more, **to), 1, True, slot.token_of
    )
    downloads = {"concurrency_limit": 1, "concurrency_id": DOWNLOADS}  # so model runs do not wait for them
    more.click(work, [slot.request, fetched], [slot.notice, fetched], show_progress_on=slot.notice, **downloads)
    build_player(slot, panel, view, button)


def build_player(slot: Slot, panel: Panel, view: Component, button: gr.Button) -> None:
    """The player of the run's checkpoints, which moves a mark in the panel's plot and shows a head in `view`.

    `button` is the view's agreement to its price.
    """
    moment = moment_slider(slot.bench, PLAYS["slider"])
    with gr.Row(elem_classes="tools", elem_id="playing"):
        player = components.player(PLAYS, elem_id="player")
        opened = gr.Button("Open it on all tabs", size="sm", min_width=150, scale=0)
    slot.link("moment", moment)
    outputs = [view, player, button]
    slot.shows(head_through_training, inputs=[moment], outputs=outputs, agreement=button, with_progress=True)
    slot.runs(panel.tools.select, clicked, outputs=[moment, slot.checkpoint])
    slot.runs(opened.click, checkpoint_at, inputs=[moment], outputs=[slot.checkpoint])


def of_each_series(bench: Bench) -> list[str]:
    """The id of one checkpoint of each series."""
    return list({checkpoint.name: name for name, checkpoint in bench.known.items()}.values())


def moment_slider(bench: Bench, elem_id: str) -> gr.Slider:
    """The hidden slider that a player moves: the number of a checkpoint of the main run, from 1."""
    most = max(2, *(len(bench.run_of(name)) for name in of_each_series(bench)))  # a slider needs at least two values
    return gr.Slider(1, most, most, step=1, label="Checkpoint of the main run", elem_id=elem_id, visible="hidden")


def fitting_controls(metric: object) -> list[Component]:
    """The box for a continuation and the menu of texts to measure on; each is shown if the metric depends on it."""
    measured = choice(metric, METRICS, "metric")
    return [gr.Textbox(visible=metric == FOLLOWED), gr.Dropdown(visible=shown_if(measured in OF_SETS))]


def download_missing(bench: Bench, request: TabRequest, times: int, progress: Progress | None = None) -> Iterator[int]:
    """Download the checkpoints of the run that are not on this machine; yields the number downloaded, plus `times`."""
    absent = [checkpoint for checkpoint in bench.run_of(request.query.checkpoint) if not is_here(checkpoint)]
    for done, checkpoint in enumerate(steps(absent, progress, "downloading"), 1):
        locate(checkpoint)
        yield times + done


def training_view(
    bench: Bench,
    request: TabRequest,
    metric: str,
    axis: str,
    continuation: str,
    _fetched: int = 0,
    over: str = PROMPT,
    marks: bool = False,
    *,
    progress: Progress | None = None,
) -> View | str:
    """A metric along the main run of the checkpoint's series; a sentence if fewer than two checkpoints are here.

    With `marks`, and for the loss on rows, the steps at which rows held the selected token's n-gram get ticks.
    """
    if not marks and choice(metric, METRICS, "metric") != "rows":
        return metric_view(bench, request, metric, axis, continuation, over, progress=progress)
    try:
        read = read_ngram(bench, request.query.checkpoint, request.query.prompt, request.selection.token)
    except WorkbenchError as error:  # no index: the metric is drawn without ticks
        if METRICS[metric] == "rows":
            return str(error)
        view = metric_view(bench, request, metric, axis, continuation, over, progress=progress)
        return view if isinstance(view, str) else replace(view, note=f"{view.note} No ticks: {error}.")
    if METRICS[metric] == "rows" and not read.places:
        return read.told
    view = metric_view(bench, request, metric, axis, continuation, over, read.places, progress=progress)
    if isinstance(view, str):
        return view
    return replace(view, marks=reading_ticks(bench, request, axis, read.steps), note=f"{view.note} Ticks: {read.told}")


def reading_ticks(bench: Bench, request: TabRequest, axis: str, read: Sequence[int]) -> tuple[float, ...]:
    """Places on the axis of steps of the run: those that its checkpoints here have read, at most `MOST_MARKS`."""
    last = bench.run_here(request.query.checkpoint)[-1]
    recipe = RECIPES[last.name]
    known = [step for step in read if last.step is None or step < last.step]
    few = [known[n] for n in spread(len(known), MOST_MARKS)]
    return tuple(recipe.tokens(step) if choice(axis, X_AXES, "axis")[0] == "tokens" else step for step in few)


def spread(there: int, most: int) -> list[int]:
    """Indices of at most `most` of `there` items, evenly spaced."""
    return np.unique(np.linspace(0, there - 1, min(there, most)).astype(int)).tolist()


def metric_view(
    bench: Bench,
    request: TabRequest,
    metric: str,
    axis: str,
    continuation: str,
    over: str,
    rows: tuple[tuple[int, int], ...] = (),
    *,
    progress: Progress | None = None,
) -> View | str:
    """`training_view` without ticks; `rows` are the places of rows for the loss on rows."""
    metric = choice(metric, METRICS, "metric")
    axis, log = choice(axis, X_AXES, "axis")
    run, whole = bench.run_here(request.query.checkpoint), bench.run_of(request.query.checkpoint)
    if len(run) < 2:
        return too_few(bench, request.query.checkpoint)
    options = {"axis": axis, **({"log_x": True} if log else {}), **loading_of(bench)}

    def along(measured: Call) -> Call:
        return Call.of(trajectory, series_run(bench, run), measured, **options)

    if metric == "continuation":
        continuation = continuation or affordable_continuation(bench, request, run[-1], along)
    found = measured_on(bench, request, run[-1], metric, continuation, over, rows)
    if isinstance(found, str):
        return found
    measured, told = found
    call = along(measured)
    asked_in_vain = choice(over, OVER, "text") and metric not in (*OF_SETS, "probe")
    unused = "This does not depend on the set of texts." if asked_in_vain else ""
    note = " ".join(filter(None, (Planner(bench).value(measured).note, told, unused, absent(whole, run))))
    return view_of_heads(bench, request, run[-1], call, note, progress) if metric in SCORES else View(call, note)


def measured_on(
    bench: Bench,
    request: TabRequest,
    last: Checkpoint,
    metric: str,
    continuation: str,
    over: str,
    rows: tuple[tuple[int, int], ...],
) -> tuple[Call, str] | str:
    """The call of a metric, and a sentence on what it is measured on; only a sentence if there is nothing to measure.

    `last` is the last checkpoint of the run.
    """
    edits, prompt = request.query.edits, TokensOf(last.id, request.query.prompt)
    if metric == "rows":
        few = tuple(rows[n] for n in spread(len(rows), MOST_ROWS))
        losses = Call.quick(corpus.loss_on_rows, Call.quick(corpus.chosen_rows, last.name, few))
        told = f"{MOST_ROWS} of the {len(rows):,} rows, spread evenly over the run." if len(rows) > MOST_ROWS else ""
        return intervened_call(losses, last.id, edits), told
    if metric == "continuation":
        told = f"The continuation is “{continuation}”; type another one above."
        return metric_call(prompt, metric, continuation, edits), told
    chosen = measured_set(bench, request, metric, over)
    if metric == "probe" and (chosen is None or chosen.labels is None):
        return NO_LABELS
    if chosen is not None:
        return metric_call(TextsOf(last.id, chosen.name), metric, "", edits), f"Mean over {chosen.counted}."
    return metric_call(prompt, metric, "", edits), SAMPLED if metric == "induction" else ""


def affordable_continuation(bench: Bench, request: TabRequest, last: Checkpoint, along: Callable[[Call], Call]) -> str:
    """What the last checkpoint writes after the prompt. `along` gives the call of a metric along the run.

    Raises Expensive if the price of the text, and of its probability along the run, is not agreed to.
    """
    query, call = request.query, writing_call(last.id, request.query.prompt)
    if bench.results.get(call) is None:
        of_a_word = metric_call(TokensOf(last.id, query.prompt), "continuation", A_WORD, query.edits)
        agree(bench, request, call, along(of_a_word))
    return written_next(bench, last.id, query.prompt)


def view_of_heads(
    bench: Bench, request: TabRequest, last: Checkpoint, call: Call, note: str, progress: Progress | None
) -> View:
    """A metric with one line for each head, the selected head in front; without one, the highest at the end."""
    price = agree(bench, request, call)
    if price.seconds:
        bench.residents.make_room(last)
    curves, shape = result(call, bench, priced(progress, price)), bench.shape_of(last.id)
    pick = head_pick(request, shape, highest_head(curves, shape))
    line = pick.options[pick.chosen][0]
    note = f"{note} {line} in front; click a line to choose its head."
    return View(call, note, pick=pick, line=line)


def measured_set(bench: Bench, request: TabRequest, metric: str, over: str) -> TextSet | None:
    """The set of texts that a metric is measured on; None if that is the prompt, or text that the metric chooses."""
    is_chosen = metric in OF_SETS and choice(over, OVER, "text")
    return bench.sets.get(request.selection.texts) if is_chosen or metric == "probe" else None


def metric_call(tokens: TokensOf | TextsOf, metric: str, continuation: str, edits: str = "") -> Call:
    """The call of a metric, for all checkpoints with the same interventions; those do not affect weights.

    `tokens` are the prompt's or those of a set, by one checkpoint's tokenizer, since all share it.
    """
    plain = plain_metric(tokens, metric, continuation)
    return plain if metric == "weights" else intervened_call(plain, tokens.name, edits)


def intervened_call(plain: Call, checkpoint: str, edits: str) -> Call:
    """The call of a metric with interventions in each checkpoint, which the tokenizer of `checkpoint` reads."""
    return Call.quick(metrics.intervened, plain, InterventionsOf(checkpoint, edits)) if edits else plain


def plain_metric(tokens: TokensOf | TextsOf, metric: str, continuation: str) -> Call:
    """The call of a metric of unedited checkpoints."""
    sample = tokens if isinstance(tokens, TextsOf) else TokensOf(tokens.name, SAMPLE_TEXT)
    match metric:
        case "loss":
            return Call.quick(metrics.held_out_loss, sample)
        case "continuation":
            return Call.quick(metrics.continuation_log_prob, tokens, TokensOf(tokens.name, continuation))
        case "kl":
            return Call.quick(metrics.kl_to_last, tokens)
        case "norm":
            return Call.quick(metrics.residual_norms, tokens)
        case "rank":
            return Call.quick(metrics.effective_rank, sample)
        case "weights":
            return Call.quick(metrics.weight_change)
        case "probe":
            return Call.quick(metrics.probe_accuracy, tokens)
    return Call.quick(metrics.head_scores, tokens, metric, samples=INDUCTION_SAMPLES if metric == "induction" else 0)


def highest_head(curves: Curves, shape: tuple[int, int]) -> tuple[int, int]:
    """The head with the highest score at the end of the run: layer, head."""
    return divmod(int(curves.values[:, -1].argmax()), shape[1])


def writing_call(checkpoint: str, prompt: Prompt) -> Call:
    """The call that continues a prompt by `MOST_WORDS` tokens."""
    read = ModelOf(checkpoint), TokensOf(checkpoint, prompt)
    return Call.of(generate, *read, max_new_tokens=MOST_WORDS, temperature=0.0)


def written_next(bench: Bench, checkpoint: str, prompt: Prompt) -> str:
    """The likeliest continuation of a prompt by a checkpoint: at most `MOST_WORDS` tokens, to the end of a word."""
    written, tokenizer = result(writing_call(checkpoint, prompt), bench), bench.tokenizer(checkpoint)
    first, *rest = written.ids[written.given :]
    return tokenizer.decode([first, *takewhile(lambda token: tokenizer.decode([token]).isalnum(), rest)])


def clicked(bench: Bench, request: TabRequest, data: Mapping[str, Any]) -> list[Any]:
    """The slider's value and the checkpoint's id of a clicked point."""
    run, point = bench.run_here(request.query.checkpoint), data.get("point")
    if not isinstance(point, int) or not 0 <= point < len(run):
        raise WorkbenchError(f"no checkpoint {point!r} on this run; it has {len(run)} checkpoints")
    return [point + 1, run[point].id]


def checkpoint_at(bench: Bench, request: TabRequest, _: Mapping[str, Any], moment: float) -> str:
    """The id of the slider's checkpoint."""
    run = bench.run_here(request.query.checkpoint)
    if not run or not isinstance(moment, int | float) or moment != moment:
        raise WorkbenchError(f"no checkpoint number {moment}; there are {len(run)}")
    return run[min(max(int(moment), 1), len(run)) - 1].id


def head_through_training(
    bench: Bench, request: TabRequest, moment: float, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """The values of the attention view and the player at one checkpoint of the run; the chosen head stays the same.

    The third value is that of the agreement button.
    """
    checkpoint, query = checkpoint_at(bench, request, {}, moment), request.query
    names = [label(checkpoint) for checkpoint in bench.run_here(query.checkpoint)]
    player = PLAYS | {"names": names, "at": moment}
    try:
        if not bench.is_loaded(checkpoint):
            agree(bench, request, all_maps(checkpoint, query.prompt, query.edits))
    except Expensive as expensive:
        return [{}, player, asked(expensive.price, "Load this checkpoint")]
    opened = bench.read(checkpoint, query.prompt, MOST_ATTENTION_TOKENS)
    about = {"title": label(bench.known[opened.checkpoint]), "best": best_at_the_end(bench, request, progress)}
    return [map_value(opened, query) | about, player, asked(None)]


def best_at_the_end(bench: Bench, request: TabRequest, progress: Progress | None = None) -> dict[str, int] | None:
    """The head to open first: the strongest induction head of the last checkpoint; None if that is expensive."""
    last, query = bench.run_here(request.query.checkpoint)[-1].id, request.query
    call = atlas_call(last, query.prompt, query.edits)
    if bench.tokens(last, query.prompt).shape[1] < 2 or not is_cheap(bench, call):
        return None
    most = result(call, bench, progress)["induction"].rank().iloc[0]
    return {"layer": int(most["row"]), "head": int(most["column"])}
