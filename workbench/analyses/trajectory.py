"""The value of a metric at every checkpoint of a training run. One checkpoint is in memory at a time.

    curves = trajectory(checkpoints.series("tiny-olmo"), metrics.head_scores(tokens, "induction"))

Results are cached on disk. The cache key is made from everything that a result depends on: the contents of the
checkpoint, and the function, version and arguments of the metric. A run that was stopped continues where it stopped,
and a second run reads the results of the first.
"""

import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import joblib
import numpy as np
import torch

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.support.content_key import content_key
from workbench.analyses.support.cost import Work, is_planned, planned, work_of
from workbench.analyses.support.executors import unordered
from workbench.analyses.support.named_values import Estimate, Value, named_estimates
from workbench.checkpoints import Checkpoint, Weights
from workbench.checkpoints.loading import suited_dtype
from workbench.checkpoints.names import short_name
from workbench.disk_cache import DiskCache
from workbench.errors import WorkbenchError
from workbench.progress import Progress, report
from workbench.results import Curves

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "olmo-workbench"
MOST_CACHED = 4_000_000_000  # bytes; the values used longest ago are removed first


Made = TypeVar("Made")


Measured = tuple[dict[str, Estimate], bool]
"""The numbers of one checkpoint by line name, and whether they are cached (True if no cache is used)."""


@dataclass(frozen=True)
class Metric:
    """What to measure of each checkpoint, in a form that can be cached and sent to another process.

    Attributes:
        name: the name of the metric in titles and axes.
        function: called as `function(model, **arguments)`; returns a `Value`. It must be a function at the top level of
            a module and depend on its arguments only. With `reads="weights"` it is called as `function(weights,
            previous, steps, **arguments)`.
        arguments: the keyword arguments of `function`.
        unit: the unit of the numbers.
        version: part of the cache key. Increase it when the meaning of `function` changes.
        reads: "model", or "weights", for which no model is loaded: `weights` are the opened files of the checkpoint,
            `previous` those of the checkpoint before it, and `steps` the steps between the two. At the first checkpoint
            `previous` and `steps` are None.
        reference: if given, called once as `reference(model, **arguments)` with the model of one checkpoint of the run.
            Its result is passed to `function` as the argument `reference`.
        reference_at: the index in the run of the checkpoint for `reference`.
        ordered: whether the lines have a natural order, as layers do.
        note: one or two sentences on what the numbers mean, for readers of the plot.
    """

    name: str
    function: Callable[..., Value]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    unit: str = ""
    version: int = 1
    reads: str = "model"
    reference: Callable[..., Any] | None = None
    reference_at: int = -1
    ordered: bool = False
    note: str = ""

    @property
    def cache_identity(self) -> tuple[object, ...]:
        """What the cache key is made from: all that the numbers depend on."""
        return "metric", self.name, self.function, self.version, self.reads, self.arguments


@dataclass(frozen=True)
class Loading:
    """How checkpoints are loaded: the arguments of `checkpoints.load`, with the same default dtype."""

    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    quantize: str | None = None

    @property
    def key(self) -> str:
        """The cache key of these arguments, with None replaced by the dtype that it stands for."""
        return repr(replace(self, dtype=self.dtype or suited_dtype(self.device, self.quantize)))

    def __call__(self, checkpoint: Checkpoint) -> OlmoForCausalLM:
        return checkpoints.load(
            checkpoint, dtype=self.dtype, device=self.device, quantize=self.quantize, with_tokenizer=False
        )[0]


def trajectory(
    series: Sequence[Checkpoint],
    metric: Metric | Callable[[OlmoForCausalLM], Value],
    *,
    axis: str = "step",
    log_x: bool = False,
    loading: Loading = Loading(),
    cache: str | Path | None = CACHE,
    executor: str = "serial",
    workers: int = 2,
    progress: Progress | None = None,
) -> Curves:
    """A metric at every checkpoint of a run, as Curves over training steps or tokens: one line for each number of the
    metric.

    If the metric is a mean over texts, the curves have its standard errors over texts (`errors`) and the number of
    texts (`texts`). For labelled texts, a metric of one number, such as the loss, has a line for each label. For a
    metric with a line for each layer or head, `by_label(lambda some, progress: trajectory(series, head_scores(some,
    "previous")), texts)` returns the curves of each label.

    One checkpoint is in memory at a time in each process. To cancel, raise an exception in `progress`; the results up
    to then stay in the cache. If the cache cannot be written (read-only, full, or not a folder), results are not kept;
    a warning reports this, and so does the entry "warning" of the result's provenance.

    Args:
        series: a `Series`, of which the main run is used, or a list of checkpoints, used unchanged: for example
            `checkpoints.main_run(series, 2)` for the second ingredient, or `checkpoints.pick(run, 12)` for a long run.
            Training stages that restart their step count are placed one after the other.
        metric: a metric of `workbench.metrics`, or any function of a model, such as `functools.partial(effective_rank,
            tokens=ids)`.
        axis: "step" or "tokens".
        log_x: whether the axis is logarithmic.
        loading: how checkpoints are loaded.
        cache: the folder of the cache; None for no cache.
        executor: "serial"; "ray"; or a joblib backend: "loky" (processes), "threading", a registered one ("dask"), or
            "joblib" for the backend that `joblib.parallel_config` has set. All give the same numbers. With dask and
            Ray, another worker takes over the work of a worker that dies.
        workers: the number of parallel workers; not used by "serial" and "joblib".
        progress: called after each checkpoint.

    On a cluster whose machines share the checkpoint folder and the cache: `client = distributed.Client(address)`, then
    `executor="dask", workers=n`. For Ray: `ray.init(address)`, then `executor="ray"`; without `init`, Ray starts here.

    Errors: WorkbenchError if the axis is unknown at a checkpoint, two checkpoints are at the same step, the names that
    the metric returns differ between checkpoints, or a checkpoint cannot be loaded.
    """
    run = checkpoints.main_run(series) if isinstance(series, checkpoints.Series) else list(series)
    places = _axis_places(run, axis)
    metric = metric if isinstance(metric, Metric) else of_model(metric)
    report(progress, 0.0, f"{metric.name} of {len(run)} checkpoints")
    store = None if cache is None else DiskCache(Path(cache).expanduser())
    task = functools.partial(_measure, run, metric, loading, store, _reference(run, metric, loading, store))
    found: dict[int, dict[str, Estimate]] = {}
    problems = {}
    with closing(unordered(task, len(run), executor, workers)) as results:  # workers stop at an error
        for index, (values, is_kept) in results:
            found[index] = values
            if not is_kept:
                problems["warning"] = f"the cache {cache} cannot be written: the results are not kept"
            report(progress, len(found) / len(run), f"{metric.name}: {len(found)} of {len(run)} checkpoints")
    lines = _by_line(run, metric, found)
    for sentence in problems.values():
        warnings.warn(sentence, stacklevel=2)
    errors = np.array([[number.error for number in line] for line in lines.values()])
    texts = [max(number.texts for number in line) for line in lines.values()]
    return Curves(
        [[number.value for number in line] for line in lines.values()],
        list(lines),
        places,
        x_name=axis,
        log_x=log_x,
        x_labels=[checkpoint.revision or checkpoint.id for checkpoint in run],
        ordered=metric.ordered,
        title=f"{metric.name[0].upper()}{metric.name[1:]}, along {short_name(run[0].name)}",
        value_name=metric.name,
        unit=metric.unit,
        errors=None if np.isnan(errors).all() else errors,
        texts=None if not any(texts) else texts[0] if len(set(texts)) == 1 else texts,
        provenance=problems,
    )


def _by_line(
    run: Sequence[Checkpoint], metric: Metric, found: Mapping[int, Mapping[str, Estimate]]
) -> dict[str, list[Estimate]]:
    """The numbers of all checkpoints by line. Errors: WorkbenchError if two checkpoints have other lines."""
    lines = list(found[0])
    odd = [run[index].id for index in range(len(run)) if list(found[index]) != lines]
    if odd:
        raise WorkbenchError(
            f"{metric.name} has other names at {odd[0]} than at {run[0].id}, where they are: {', '.join(lines[:4])}, …"
        )
    return {line: [found[index][line] for index in range(len(run))] for line in lines}


def of_model(function: Callable[[OlmoForCausalLM], Value]) -> Metric:
    """A metric made from any function of a model. Use `functools.partial` to give the function arguments.

    The cache key contains the source of the function, so a changed function is measured again. Changes in functions
    that it calls are not detected.

    Errors: WorkbenchError for a function whose source cannot be read.
    """
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    return Metric(getattr(inner, "__name__", type(inner).__name__), _call, {"function": function})


def _call(model: OlmoForCausalLM, function: Callable[[OlmoForCausalLM], Value]) -> Value:
    return function(model)


def _axis_places(run: Sequence[Checkpoint], axis: str) -> list[int]:
    """The positions of the checkpoints on the axis. Checks that all are known and that the steps increase."""
    if not run:
        raise WorkbenchError("a series without checkpoints has no trajectory")
    places = [_axis_place(checkpoint, axis) for checkpoint in run]
    for one, other in pairwise(run):
        if _axis_place(one, "step") >= _axis_place(other, "step"):
            raise WorkbenchError(
                f"{one.id} and {other.id} do not follow one another on one run; use checkpoints.main_run(series)"
            )
    return places


def _axis_place(checkpoint: Checkpoint, axis: str) -> int:
    """The position of a checkpoint on an axis. Errors: WorkbenchError if it is not known."""
    place = checkpoint.place(axis)
    if place is None:
        raise WorkbenchError(
            f"the {axis} of {checkpoint.id} is not known; use the other axis, or leave this checkpoint out"
        )
    return place


def _measure(
    run: Sequence[Checkpoint],
    metric: Metric,
    loading: Loading,
    store: DiskCache | None,
    reference: tuple[str, Callable[[], Any]] | None,
    index: int,
) -> Measured:
    """The metric at one checkpoint, read from the cache or computed."""
    weights = _located_weights(run[index])
    previous = _located_weights(run[index - 1]) if metric.reads == "weights" and index else None

    def make() -> dict[str, Estimate]:
        given = {} if reference is None else {"reference": reference[1]()}
        steps = None if previous is None else _axis_place(run[index], "step") - _axis_place(run[index - 1], "step")
        read = (weights, previous, steps) if metric.reads == "weights" else (loading(run[index]),)
        try:
            return named_estimates(metric.function(*read, **metric.arguments, **given), metric.name)
        except WorkbenchError as error:
            raise WorkbenchError(f"at {run[index].id}: {error}") from error

    if store is None:
        return make(), True
    return store.kept(_key_of(metric, loading, weights, previous, reference[0] if reference else None), make)


def _key_of(metric: Metric, loading: Loading, weights: Weights, previous: Weights | None, reference: str | None) -> str:
    """The cache key of a metric at one checkpoint."""
    marks = (_weights_mark(weights), _weights_mark(previous) if previous else None, reference)
    return joblib.hash(([*Estimate.__annotations__], content_key(metric), loading.key, marks))


def _reference(
    run: Sequence[Checkpoint], metric: Metric, loading: Loading, store: DiskCache | None
) -> tuple[str, Callable[[], Any]] | None:
    """The fingerprint of the checkpoint that the metric's reference comes from, and a function that returns the
    reference; None without a reference. The reference is computed here and read from the cache when it is needed.
    """
    if metric.reference is None:
        return None
    at = run[metric.reference_at]
    mark, make = (
        _weights_mark(_located_weights(at)),
        functools.partial(_refer, metric.reference, metric.arguments, loading, at),
    )
    if store is None:
        return mark, functools.partial(_same, make())
    key = joblib.hash(("reference", content_key(metric.reference), content_key(metric.arguments), loading.key, mark))
    if not store.holds(key):
        value, is_kept = store.kept(key, make)
        if not is_kept:
            return mark, functools.partial(_same, value)
        store.shrink(MOST_CACHED)  # only references are large
    return mark, functools.partial(_value, store, key, make)


def _refer(
    reference: Callable[..., Made], arguments: Mapping[str, Any], loading: Loading, checkpoint: Checkpoint
) -> Made:
    return reference(loading(checkpoint), **arguments)


def _same(value: Made) -> Made:
    return value


def _value(store: DiskCache, key: str, make: Callable[[], Made]) -> Made:
    return store.kept(key, make)[0]


def _located_weights(checkpoint: Checkpoint) -> Weights:
    return checkpoints.open_weights(checkpoints.locate(checkpoint))


def _weights_mark(weights: Weights) -> str:
    return checkpoints.fingerprint(weights)


@work_of(trajectory)
def _work(
    series: Sequence[Checkpoint],
    metric: Metric | Callable[[OlmoForCausalLM], Value],
    *,
    loading: Loading = Loading(),
    cache: str | Path | None = CACHE,
    **_: object,
) -> Work:
    run = checkpoints.main_run(series) if isinstance(series, checkpoints.Series) else list(series)
    metric = metric if isinstance(metric, Metric) else of_model(metric)
    opened = [_located_weights(checkpoint) for checkpoint in run]
    left = list(range(len(run)))
    if cache is not None:
        store, before = DiskCache(Path(cache).expanduser()), metric.reads == "weights"
        mark = None if metric.reference is None else _weights_mark(opened[metric.reference_at])
        left = [
            index
            for index in left
            if not store.holds(
                _key_of(metric, loading, opened[index], opened[index - 1] if before and index else None, mark)
            )
        ]
    each = Work(0)
    if left and is_planned(metric.function):
        each = planned(metric.function, checkpoints.outline(run[0], dtype=loading.dtype), **metric.arguments)
    files = 2 if metric.reads == "weights" else 1
    return each.times(len(left)) + Work(0, read=files * sum(opened[index].nbytes for index in left))
