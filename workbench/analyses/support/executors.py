"""Independent tasks, one after the other or on parallel workers: joblib's backends, dask and Ray."""

import importlib
import warnings
from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import TypeVar

import joblib

from workbench.errors import WorkbenchError

RETRIES = 3  # how often Ray starts a task again whose worker died
Done = TypeVar("Done")


def unordered(task: Callable[[int], Done], count: int, executor: str, workers: int) -> Generator[tuple[int, Done]]:
    """Each index below `count` with the result of its task, in the order in which the results are finished.

    Args:
        task: a function that can be sent to another process.
        count: the number of tasks.
        executor: "serial"; "ray"; "joblib" for the backend that `joblib.parallel_config` has set; or the name of one.
        workers: the number of parallel workers; not used by "serial" and "joblib".

    Errors: WorkbenchError for an unknown executor, if Ray is not installed, or if a task lost its worker several times.
    """
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


def _on_ray(task: Callable[[int], Done], count: int, workers: int) -> Generator[tuple[int, Done]]:
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
        raise WorkbenchError(f"the worker of a task died {RETRIES + 1} times: {error}") from error
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _with_index(task: Callable[[int], Done], index: int) -> tuple[int, Done]:
    return index, task(index)
