"""A trajectory over a set on clusters of two workers, one of which is killed on the way.

    python -m tests.benchmarks.executors dask      # needs: pip install "distributed"
    python -m tests.benchmarks.executors ray       # needs: pip install "ray"

The metric kills its own worker process, once, while it measures one checkpoint in the middle of the run. The curve must
then be the one that `executor="serial"` gives, with a value for every checkpoint. Prints both times and what was found;
exit code 1 if anything was lost.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.support.mean_loss import mean_loss
from workbench.analyses.trajectory import Metric, trajectory
from workbench.results import Curves
from workbench.texts import Texts

SET = "tiny-olmo/place"
VICTIM = 4  # the checkpoint whose worker is killed: number in the run
WORKERS = 2


def deadly_loss(model: OlmoForCausalLM, tokens: Texts, number: str, marks: str) -> float:
    """The mean loss. At the checkpoint whose loss is `number`, the first worker that comes this far kills itself."""
    loss = mean_loss(model, tokens)
    mark = Path(marks) / "killed"
    if f"{loss:.6f}" == number and not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return loss


@contextmanager
def dask_cluster() -> Iterator[None]:
    """A local dask cluster of two processes, which its nanny starts again when they die."""
    from distributed import Client, LocalCluster

    options = {"n_workers": WORKERS, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster):
        yield


@contextmanager
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of two processors."""
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, logging_level="error")
    try:
        yield
    finally:
        ray.shutdown()


CLUSTERS: dict[str, Callable] = {"dask": dask_cluster, "ray": ray_cluster}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("executor", choices=CLUSTERS)
    executor = parser.parse_args().executor
    run = checkpoints.main_run(checkpoints.series("tiny-olmo"))
    tokenizer = checkpoints.tokenizer_of(checkpoints.locate(run[-1]))
    assert tokenizer is not None
    texts = Texts.read(SET, tokenizer)[::4]
    start = time.perf_counter()
    wanted = trajectory(run, Metric("loss", mean_loss, {"tokens": texts}), cache=None)
    serial = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as marks, CLUSTERS[executor]():
        arguments = {"tokens": texts, "number": f"{float(wanted.values[0, VICTIM]):.6f}", "marks": marks}
        number = mean_loss(checkpoints.load(run[VICTIM])[0], texts)  # in full: curves hold float32
        metric = Metric("loss", deadly_loss, arguments | {"number": f"{number:.6f}"})
        start = time.perf_counter()
        found = trajectory(run, metric, cache=Path(marks) / "cache", executor=executor, workers=WORKERS)
        taken = time.perf_counter() - start
        killed = (Path(marks) / "killed").read_text() if (Path(marks) / "killed").exists() else ""
    return told(executor, wanted, found, killed, serial, taken)


def told(executor: str, wanted: Curves, found: Curves, killed: str, serial: float, taken: float) -> int:
    """Print what was found; returns the exit code."""
    same = np.allclose(found.values, wanted.values, rtol=1e-4, atol=1e-5)
    checkpoints_found = f"{found.values.shape[1]} of {wanted.values.shape[1]} checkpoints"
    times = f"serial {serial:.1f} s, {WORKERS} workers {taken:.1f} s"
    numbers = "the same numbers" if same else "OTHER NUMBERS"
    print(f"{executor}: {checkpoints_found}, {times}; worker {killed or 'none'} killed; {numbers}")
    return 0 if same and killed else 1


if __name__ == "__main__":
    from tests.benchmarks import executors  # workers import the metric by this name

    sys.exit(executors.main())
