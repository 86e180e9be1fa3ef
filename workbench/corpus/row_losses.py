"""The loss on training rows along a run: whether a row is learned, kept or forgotten.

corpus.row_losses("tiny-olmo", corpus.rows("tiny-olmo", 778), read=[778] * 32)
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, planned, work_of
from workbench.analyses.support.mean_loss import loss_sums
from workbench.analyses.token_losses import token_losses
from workbench.analyses.trajectory import CACHE, Loading, Metric, trajectory
from workbench.checkpoints import Checkpoint
from workbench.errors import WorkbenchError
from workbench.progress import Progress
from workbench.results import Curves
from workbench.texts import Texts, TextsLike, as_texts

MEAN = "mean"


def row_losses(
    series: str | Sequence[Checkpoint],
    rows: TextsLike,
    *,
    read: Sequence[int | None] | None = None,
    log_x: bool = False,
    loading: Loading = Loading(),
    cache: str | Path | None = CACHE,
    progress: Progress | None = None,
) -> Curves:
    """The loss of each row at each checkpoint, in nats per token: Curves over steps, the line `mean` and one per row.

    The loss of a row is the mean of −log p over its tokens but the first, as in training; `mean` is the mean over rows,
    each weighing the same. The name of a line is the label of its row, or `row n`, with the step at which it was read.

    A row that is read at step `s` changes the weights between checkpoint `step{s}` and `step{s + 1}`: the first
    checkpoint that can have learned it has a step above `s`.

    Args:
        series: the name of a series, whose main run is used, or checkpoints, used unchanged.
        rows: the rows, each of at least two tokens.
        read: for each row, the step at which the run read it; None for a row that it did not read.
        log_x: whether the axis of steps is logarithmic.
        loading, cache, progress: as for `trajectory`, which keeps the losses of each checkpoint.

    Errors: WorkbenchError for a row of one token, for another number of steps than rows, or a series that
    `trajectory` refuses.
    """
    run = checkpoints.series(series) if isinstance(series, str) else series
    metric = loss_on_rows(rows, read=read)
    return trajectory(run, metric, log_x=log_x, loading=loading, cache=cache, progress=progress)


def loss_on_rows(rows: TextsLike, *, read: Sequence[int | None] | None = None) -> Metric:
    """The metric of `row_losses`, for `trajectory`: the loss on each row, and the mean over rows. Arguments and errors
    are those of `row_losses`.
    """
    texts = as_texts(rows)
    if min(texts.lengths) < 2:
        raise WorkbenchError(f"a row has {min(texts.lengths)} token; a loss needs at least 2")
    arguments = {"rows": Texts(texts.ids, texts.mask), "names": _row_names(texts, read)}
    note = "Mean −log p of the tokens of each row; a row can be learned from the checkpoint after its step on."
    return Metric("loss on rows", losses_of_rows, arguments, unit="nats", note=note)


def losses_of_rows(model: OlmoForCausalLM, rows: TextsLike, names: Sequence[str]) -> dict[str, float]:
    """The mean −log p of each row's tokens but the first, in nats, by name, after their mean over rows."""
    texts = texts_for(model, rows, at_least=2)
    found = loss_sums(model, texts) / (torch.as_tensor(texts.lengths) - 1)
    return {MEAN: float(found.mean()), **dict(zip(names, found.tolist(), strict=True))}


@work_of(losses_of_rows)
def _work(model: OlmoForCausalLM, rows: TextsLike, **_: object) -> Work:
    return planned(token_losses, model, rows)


def _row_names(texts: Texts, read: Sequence[int | None] | None) -> list[str]:
    """One name for each row; two rows of one name get their number too."""
    if read is not None and len(read) != len(texts):
        raise WorkbenchError(f"read has {len(read)} steps for {len(texts)} rows; give one for each row")
    plain = list(texts.labels or [f"row {number}" for number in range(len(texts))])
    if len(set(plain)) < len(plain) or MEAN in plain:
        plain = [f"row {number}: {label}" for number, label in enumerate(plain)]
    steps = read or [None] * len(texts)
    return [name if step is None else f"{name} (read at step {step})" for name, step in zip(plain, steps, strict=True)]
