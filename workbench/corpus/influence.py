"""How much training on a row helped a prediction: gradient similarity summed over checkpoints.

    rows = corpus.random_rows("tiny-olmo", 1000)
    found = corpus.influence("tiny-olmo", prediction, rows)
    found.rank("score")

Source: Pruthi et al. 2020, "Estimating Training Data Influence by Tracing Gradient Descent" (TracInCP).
"""

from collections.abc import Sequence

import numpy as np

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.trajectory import Loading
from workbench.checkpoints import Checkpoint
from workbench.checkpoints.catalog import pick
from workbench.corpus.directional import directional_derivatives
from workbench.corpus.gradients import Gradient, dot, gradient_of, row_gradients, zeros_like
from workbench.corpus.replay import order_of, replay_of
from workbench.corpus.training_text import RECIPES
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, report
from workbench.results import Measures, Scores
from workbench.texts import Texts, TextsLike, as_texts
from workbench.tiny_olmo.build_files import BLANK

PRECONDITIONS = ("none", "adam")
EPSILON = 1e-8  # added to the root of the second moment, as in Adam


def influence(
    series: str | Sequence[Checkpoint],
    prediction: TextsLike,
    rows: TextsLike,
    *,
    predicted: int | None = 1,
    background: TextsLike | None = None,
    rates: Sequence[float] | None = None,
    count: int = 5,
    precondition: str = "none",
    cosine: bool = False,
    loading: Loading = Loading(),
    progress: Progress | None = None,
) -> Measures:
    """How much a training step on each row lowers the loss of a prediction, to first order, summed over checkpoints.

    Returns two Scores with one name for each row (its label, or `row n`):

    - `score`: Σ over checkpoints c of rate_c · ⟨∇ loss(prediction), P ∇ loss(row)⟩, in nats for a step on this row
      alone. It is positive for a row that helps the prediction.
    - `quantile`: the share of background rows with a lower score, ties counted half: 0 to 1.

    The loss of a row is the mean over its tokens but the first, as in training. Dot products are exact: the score of a
    row is the derivative of its loss in the direction of P times the gradient of the prediction, which one forward and
    one backward pass compute for all rows of a batch.

    Args:
        series: checkpoints, used unchanged; or the name of a series, of which `count` checkpoints of the main run are
            used, spread evenly.
        prediction: one text; the loss is that of its last tokens given the tokens before them.
        rows: the training rows, each of at least two tokens.
        predicted: how many of the last tokens of `prediction` are predicted; None means all but the first.
        background: random rows, for the quantiles (see `random_rows`). None compares the rows with one another.
        rates: the weight of each checkpoint. None means the learning rate of the recipe at its step if the recipe of
            the series is known, else 1.
        count: number of checkpoints if `series` is a name.
        precondition: "none": P is the identity, as for gradient descent. "adam": P divides each coordinate by the root
            of its second moment. The optimiser's own moments are not published, so the second moment is the mean of the
            squared gradients of at most 64 background rows (rows if there is no background), an estimate of larger
            size than that of Adam, which squares the mean over a batch.
        cosine: divides each dot product by the norms of both gradients, in the metric of P, so that a row
            with a large gradient does not score high for every prediction. It needs one backward pass for each row.
        loading: how checkpoints are loaded.
        progress: called after each batch.

    Source: Pruthi et al. 2020 (TracInCP). Errors: WorkbenchError for an unknown precondition or series, for texts that
    are too short, or if the numbers of rates and checkpoints differ.
    """
    if precondition not in PRECONDITIONS:
        raise WorkbenchError(f"precondition={precondition!r}; choices: {', '.join(PRECONDITIONS)}")
    run = chosen_checkpoints(series, count)
    weights = _rates(run, rates)
    texts = _at_least_two(as_texts(rows), "row")
    others = None if background is None else _at_least_two(as_texts(background), "background row")
    total = np.zeros(len(texts) + (0 if others is None else len(others)))
    for number, (checkpoint, rate) in enumerate(zip(run, weights, strict=True)):
        share = part(progress, number / len(run), (number + 1) / len(run))
        report(share, 0.0, f"influence at {checkpoint.id}")
        model = loading(checkpoint)
        gradient = gradient_of(model, prediction, predicted)
        scale = _scale(model, texts if others is None else others) if precondition == "adam" else None
        found = [
            _similarities(model, gradient, some, scale, cosine, share) for some in (texts, others) if some is not None
        ]
        total += rate * np.concatenate(found)
    scores, beside = total[: len(texts)], total if others is None else total[len(texts) :]
    names = texts.labels or [f"row {number}" for number in range(len(texts))]
    provenance = {
        "checkpoints": [checkpoint.id for checkpoint in run],
        "rates": weights,
        "precondition": precondition if precondition == "none" else "adam, estimated from squared gradients of rows",
    }
    title = "Influence of rows on a prediction"
    return Measures(
        score=Scores(
            scores,
            names,
            title=title,
            value_name="cosine similarity × rate" if cosine else "score",
            unit="" if cosine or precondition != "none" else "nats",
            signed=True,
            provenance=provenance,
        ),
        quantile=Scores(quantiles(scores, beside), names, title=title, value_name="quantile", provenance=provenance),
    )


def random_rows(series: str, count: int, *, until: int | None = None, seed: int = 0) -> Texts:
    """Rows that a run read at random steps before `until`, labelled with step and row: background for `influence`.

    Steps are drawn with replacement, rows of a step without; no row is returned twice. None for `until` means the whole
    run. A label ends in "with blanks" if the training text on this machine has blanks where the row has text.
    Errors: WorkbenchError if the training text is not at hand, or there are fewer rows than `count`.
    """
    replay = replay_of(series.partition("@")[0])
    until = replay.recipe.steps if until is None else until
    places = random_places([replay.recipe.stage(step).rows for step in range(until)], count, seed)
    found = [replay.rows(step, order_of(series))[row] for step, row in places]
    texts = as_texts(found)
    labels = (
        f"step {step} row {row}" + (" with blanks" if (ids == BLANK).any() else "")
        for (step, row), ids in zip(places, found, strict=True)
    )
    return Texts(texts.ids, texts.mask, tuple(labels))


def random_places(rows_of_steps: Sequence[int], count: int, seed: int) -> list[tuple[int, int]]:
    """`count` different pairs of step and row number, in the order of training; `rows_of_steps` has the number of rows
    of each step. Errors: WorkbenchError if there are fewer rows.
    """
    ends = np.cumsum(rows_of_steps)
    if not 0 < count <= (ends[-1] if len(ends) else 0):
        raise WorkbenchError(
            f"count={count}; it should be at least 1, and at most the {ends[-1] if len(ends) else 0} rows of the steps"
        )
    drawn = np.sort(np.random.default_rng(seed).choice(ends[-1], count, replace=False))
    at = np.searchsorted(ends, drawn, side="right")
    return [(int(step), int(row - ends[step] + rows_of_steps[step])) for step, row in zip(at, drawn, strict=True)]


def quantiles(scores: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The share of the background that is lower than each score, ties counted half: 0 to 1."""
    ordered = np.sort(background)
    below, up_to = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2 * len(ordered)))


def chosen_checkpoints(series: str | Sequence[Checkpoint], count: int) -> list[Checkpoint]:
    """The checkpoints of a sequence unchanged, or `count` ones of the main run of a named series."""
    if not isinstance(series, str):
        if not series:
            raise WorkbenchError("a series without checkpoints has no gradients")
        return list(series)
    if count < 1:
        raise WorkbenchError(f"count={count}; at least 1 checkpoint is needed")
    return pick(checkpoints.main_run(checkpoints.series(series)), count)


def _similarities(
    model: OlmoForCausalLM,
    gradient: Gradient,
    rows: Texts,
    scale: Gradient | None,
    cosine: bool,
    progress: Progress | None,
) -> np.ndarray:
    rows = texts_for(model, rows, at_least=2)
    direction = gradient if scale is None else {name: gradient[name] * scale[name] for name in gradient}
    if not cosine:
        return directional_derivatives(model, direction, rows, progress)
    found = np.zeros(len(rows))
    own = dot(direction, gradient) ** 0.5

    def visit(number: int, row: Gradient) -> None:
        scaled = row if scale is None else {name: row[name] * scale[name] for name in row}
        found[number] = dot(direction, row) / (own * dot(scaled, row) ** 0.5)
        report(progress, (number + 1) / len(rows), f"influence: {number + 1} of {len(rows)} rows")

    row_gradients(model, rows, visit)
    return found


def _scale(model: OlmoForCausalLM, rows: Texts, most: int = 64) -> Gradient:
    """One over the root of the mean squared gradient of at most `most` rows, spread evenly."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)).tolist()]
    squares = zeros_like(model)

    def visit(_: int, row: Gradient) -> None:
        for name, value in row.items():
            squares[name] += value.square() / len(chosen)

    row_gradients(model, chosen, visit)
    return {name: 1 / (value.sqrt() + EPSILON) for name, value in squares.items()}


def _at_least_two(texts: Texts, what: str) -> Texts:
    if min(texts.lengths) < 2:
        raise WorkbenchError(f"a {what} has {min(texts.lengths)} token; a loss needs at least 2")
    return texts


def _rates(run: Sequence[Checkpoint], given: Sequence[float] | None) -> list[float]:
    if given is not None:
        if len(given) != len(run):
            raise WorkbenchError(f"there are {len(given)} rates and {len(run)} checkpoints; give one for each")
        return [float(rate) for rate in given]
    return [_rate(checkpoint) for checkpoint in run]


def _rate(checkpoint: Checkpoint) -> float:
    recipe = RECIPES.get(checkpoint.name)
    if recipe is None or checkpoint.step is None:
        return 1.0
    return recipe.rate(min(checkpoint.step, recipe.steps - 1))
