"""The value of a metric at every checkpoint of a training run. One checkpoint is in memory at a time.

    curves = trajectory(checkpoints.series("tiny-olmo"), metrics.head_scores(tokens, "induction"))

Results are cached on disk. The cache key is made from everything that a result depends on: the contents of the
checkpoint, and the function, version and arguments of the metric. A run that was stopped continues where it stopped,
and a second run reads the results of the first.
"""

import functools
import importlib
import inspect
import math
import os
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import joblib
import numpy as np
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.support.by_label import ALL
from workbench.analyses.support.cost import Work, is_planned, planned, work_of
from workbench.analyses.support.heads import head_name
from workbench.checkpoints import Checkpoint, Weights
from workbench.checkpoints.loading import suited_dtype
from workbench.checkpoints.names import short_name
from workbench.disk_cache import DiskCache
from workbench.errors import WorkbenchError
from workbench.progress import Progress, report
from workbench.results import Curves, Estimated, Grid, Measures, Scores
from workbench.texts import Texts

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "olmo-workbench"
RETRIES = 3  # how often Ray starts a task again whose worker died
MOST_CACHED = 4_000_000_000  # bytes; the values used longest ago are removed first
Value = float | Tensor | np.ndarray | Mapping[str, float] | Scores | Grid | Curves
"""Return type of a metric: a number, one for each layer, one for each layer and head, or numbers by name; or a result
that contains such numbers.
"""


Made = TypeVar("Made")


class Estimate(NamedTuple):
    """One number of a metric: its standard error over texts, NaN if it has none, and the number of those texts."""

    value: float
    error: float = math.nan
    texts: int = 0


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
        return checkpoints.load(checkpoint, dtype=self.dtype, device=self.device, quantize=self.quantize)[0]


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

    If the metric is a mean over texts, the curves have its standard error over them and their number (`errors`,
    `texts`). Metrics of one number, such as the loss, have a line for each label of labelled texts. For those with a
    line for each layer or head, `by_label(lambda some, progress: trajectory(series, head_scores(some, "previous")),
    texts)` gives the curves of each label.

    One checkpoint is in memory at a time in each process. To cancel, `progress` raises; the results up to then stay in
    the cache. If the cache cannot be written (read-only, full, or not a folder), results are not kept; a warning
    reports this, and so does the entry "warning" of the result's provenance.

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
            Ray, the work of a worker that dies is given to another one.
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
    with closing(_all(task, len(run), executor, workers)) as results:  # workers stop at an error
        for index, (values, is_kept) in results:
            found[index] = values
            if not is_kept:
                problems["warning"] = f"the cache {cache} cannot be written: the results are not kept"
            report(progress, len(found) / len(run), f"{metric.name}: {len(found)} of {len(run)} checkpoints")
    lines = list(found[0])
    odd = [run[index].id for index in range(len(run)) if list(found[index]) != lines]
    if odd:
        raise WorkbenchError(
            f"{metric.name} has other names at {odd[0]} than at {run[0].id}, where they are: {', '.join(lines[:4])}, …"
        )
    for sentence in problems.values():
        warnings.warn(sentence, stacklevel=2)
    numbers = [[found[index][line] for index in range(len(run))] for line in lines]
    errors = np.array([[number.error for number in line] for line in numbers])
    texts = [max(number.texts for number in line) for line in numbers]
    return Curves(
        [[number.value for number in line] for line in numbers],
        lines,
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


def _all(task: Callable[[int], Measured], count: int, executor: str, workers: int) -> Generator[tuple[int, Measured]]:
    """Each index with its result, in the order in which the results are finished."""
    if executor == "serial":
        yield from ((index, task(index)) for index in range(count))
        return
    if executor == "ray":
        yield from _on_ray(task, count, workers)
        return
    try:
        with nullcontext() if executor == "joblib" else joblib.parallel_config(backend=executor, n_jobs=workers):
            parallel = joblib.Parallel(return_as="generator_unordered")
    except ValueError as error:
        raise WorkbenchError(f"executor={executor!r}: {error}") from error
    results = parallel(joblib.delayed(_with_index)(task, index) for index in range(count))
    try:
        for result in results:  # noqa: UP028 - `yield from` would close them before the warning is silenced
            yield result
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unfinished work of a cancelled run is expected
            results.close()


def _on_ray(task: Callable[[int], Measured], count: int, workers: int) -> Generator[tuple[int, Measured]]:
    """Each index with its result, from tasks of Ray, `workers` at a time. (Ray's joblib backend returns all results at
    the end, and none if a worker dies.)

    Errors: WorkbenchError if Ray is not installed, or a task lost its worker several times.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise WorkbenchError('executor="ray" needs Ray, which is not installed: pip install ray') from error
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_with_index)
    held, waiting = ray.put(task), list(range(count))[::-1]
    running: list[object] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(remote.remote(held, waiting.pop()))
            done, running = ray.wait(running)
            yield ray.get(done[0])
    except ray.exceptions.WorkerCrashedError as error:
        raise WorkbenchError(f"a task lost its worker {RETRIES + 1} times: {error}") from error
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _with_index(task: Callable[[int], Measured], index: int) -> tuple[int, Measured]:
    return index, task(index)


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
    return joblib.hash(([*Estimate.__annotations__], _key(metric), loading.key, marks))


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
    key = joblib.hash(("reference", _key(metric.reference), _key(metric.arguments), loading.key, mark))
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


def _key(value: object) -> object:
    """A form of a value whose hash depends on its contents only."""
    if isinstance(value, Tensor):
        return ("tensor", str(value.dtype), value.detach().cpu().double().numpy())
    if isinstance(value, Texts):
        return ("texts", _key(value.ids), _key(value.mask), value.labels)
    if isinstance(value, functools.partial):
        return (_key(value.func), _key(value.args), _key(value.keywords))
    if isinstance(value, Metric):
        return ("metric", value.name, _key(value.function), value.version, value.reads, _key(value.arguments))
    if is_dataclass(value) and not isinstance(value, type):  # what it has computed besides its fields does not count
        return (type(value).__qualname__, [(one.name, _key(getattr(value, one.name))) for one in fields(value)])
    if isinstance(value, Mapping):
        return [(name, _key(item)) for name, item in sorted(value.items())]
    if isinstance(value, list | tuple):
        return [_key(item) for item in value]
    if inspect.isfunction(value):
        try:
            source = inspect.getsource(value)
        except OSError as error:
            raise WorkbenchError(
                f"the source of {value.__qualname__} cannot be read, so its results cannot be cached; pass cache=None"
            ) from error
        held = [_key(cell.cell_contents) for cell in value.__closure__ or ()]
        return (value.__module__, value.__qualname__, source, _key(value.__defaults__), held)
    return repr(value) if isinstance(value, torch.dtype | torch.device) else value


def named_estimates(value: Value, name: str) -> dict[str, Estimate]:
    """A metric's value as numbers by name. Each name becomes a line of the curves.

    Errors: WorkbenchError for a value of another form.
    """
    if isinstance(value, Measures):
        raise WorkbenchError(f"{name} returns several measures, but a metric needs one of them: {', '.join(value)}")
    if isinstance(value, Mapping):
        return {str(key): Estimate(float(number)) for key, number in value.items()}
    if isinstance(value, Estimated):
        errors = np.full(value.values.shape, math.nan) if value.errors is None else value.errors
        each = (one.ravel().tolist() for one in (value.values, errors, value.texts_of_values()))
        return dict(zip(_value_names(value, name), map(Estimate, *each), strict=True))
    numbers = np.asarray(value.detach().float().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    if numbers.ndim == 0:
        return {name: Estimate(float(numbers))}
    if numbers.ndim == 1:
        return {f"layer {layer}": Estimate(number) for layer, number in enumerate(numbers.tolist())}
    if numbers.ndim == 2:
        return {head_name(*index): Estimate(float(number)) for index, number in np.ndenumerate(numbers)}
    raise WorkbenchError(
        f"{name} has shape {numbers.shape}; it should be one number, one for each layer, or one for each layer and head"
    )


def _value_names(value: Estimated, name: str) -> list[str]:
    """The names of a result's values, in their order. The mean of all texts has the metric's name if it is alone."""
    if isinstance(value, Scores):
        return [name] if value.names == (ALL,) else list(value.names)
    if isinstance(value, Curves):
        points = value.x_labels or [f"{x:g}" for x in value.x]
        several = len(value.lines) > 1
        return [f"{line}, {point}" if several else point for line in value.lines for point in points]
    assert isinstance(value, Grid)
    heads = value.row_name == "layer" and "head" in value.column_name
    join = head_name if heads else (lambda row, column: f"{row}, {column}")
    return [join(row, column) for row in value.rows for column in value.columns]
