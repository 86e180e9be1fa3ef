"""Training runs that follow the recipe but for what they read: some rows are left out, or the text is another one.

A row that is left out has weight 0 in the loss of its step, and the divisor stays the number of all rows. So the other
rows count as they do in the control, which is the recipe's run with all rows on the same machine.
"""

import json
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hooks import OlmoConfig, OlmoForCausalLM
from workbench.tiny_olmo.recipe import Recipe
from workbench.tiny_olmo.rows import TrainingTokens, repeats_in
from workbench.tiny_olmo.train import TrainingRun, save_checkpoint, save_state, start, train_step
from workbench.whole_files import write_whole

SAVED_EVERY = 50  # steps
FEWER = 1_000_003  # in the seed of the rows that `without_as_many` draws; no data order has this number
Keeps = Callable[[int], np.ndarray]
"""Which rows of a step are trained on: a function of the step that returns a boolean for each row."""


@dataclass(frozen=True)
class Setting:
    """What all runs of one table share.

    Attributes:
        recipe: stages, seed and optimiser settings; a run follows it up to `steps`, with its learning rates.
        shape: configuration of the model.
        source: the training tokens.
        steps: the step at which a run ends.
        out: folder with one sub-folder for each run.
        tokenizer: folder with the tokenizer, which goes beside the checkpoints.
    """

    recipe: Recipe
    shape: OlmoConfig
    source: TrainingTokens
    steps: int
    out: Path
    tokenizer: Path


@dataclass(frozen=True)
class Variant:
    """One run: its name, which rows it keeps (None: all) and the text that it reads (None: that of the setting)."""

    name: str
    keeps: Keeps | None = None
    source: TrainingTokens | None = None


CONTROL = Variant("control")


def run_at(setting: Setting, variant: Variant) -> TrainingRun:
    """The run of a variant at its saved state, or at its start."""
    folder = setting.out / variant.name
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for path in setting.tokenizer.glob("tokenizer*.json"):
        shutil.copy(path, folder / "checkpoints")
    run = start(setting.recipe, setting.shape, variant.source or setting.source, 1, folder)
    run.keeps = variant.keeps
    return run


def trained_variant(
    setting: Setting, variant: Variant, watch: Callable[[OlmoForCausalLM], float] | None = None
) -> TrainingRun:
    """The run of a variant at step `setting.steps`, trained from where it was stopped.

    Its checkpoints are saved every `SAVED_EVERY` steps, and its state with them. `watch` is measured before each step
    and at the end; the values are in `losses_watched`.
    """
    run = run_at(setting, variant)
    if run.step == 0:
        save_checkpoint(run)
    watched = _watched(run)
    for _ in _steps(run, setting.steps, watched, watch):
        if run.step % SAVED_EVERY == 0 or run.step == setting.steps:
            save_checkpoint(run)
            save_state(run, run.state_file)
            _write_watched(run.out, watched)
            print(f"{variant.name}: step {run.step} of {setting.steps}", flush=True)
    if watch is not None:
        watched[run.step] = watch(run.model.eval())
        run.model.train()
        _write_watched(run.out, watched)
    return run


def losses_watched(setting: Setting, variant: Variant) -> dict[int, float]:
    """What `trained_variant` watched: the value before each step, and after the last."""
    return _watched(run_at(setting, variant))


def run_without_repeats(setting: Setting) -> Variant:
    """The run without rows with repeats, of text and of random tokens: the natural rows of each step stay."""

    def keeps(step: int) -> np.ndarray:
        return np.arange(setting.recipe.stage(step).rows) >= _number_of_repeats(setting, step)

    return Variant("without-repeats", keeps)


def without_as_many(setting: Setting) -> Variant:
    """The run that leaves out as many rows of each step as have repeats, drawn from all its rows.

    It shows how much of the change by `run_without_repeats` is due to the smaller number of tokens.
    """

    def keeps(step: int) -> np.ndarray:
        rows = setting.recipe.stage(step).rows
        drawn = np.random.default_rng([setting.recipe.seed, FEWER, step]).permutation(rows)
        return np.asarray(drawn >= _number_of_repeats(setting, step))

    return Variant("without-as-many", keeps)


def _number_of_repeats(setting: Setting, step: int) -> int:
    return sum(repeats_in(setting.recipe.stage(step), (setting.recipe.seed, 1), step))


def without_rows(setting: Setting, name: str, left_out: np.ndarray) -> Variant:
    """The run without chosen rows: `left_out` has the step and the number of the row in its step, chosen 2."""
    rows: dict[int, list[int]] = {}
    for step, row in left_out.tolist():
        rows.setdefault(step, []).append(row)

    def keeps(step: int) -> np.ndarray:
        kept = np.ones(setting.recipe.stage(step).rows, dtype=bool)
        kept[rows.get(step, [])] = False
        return kept

    return Variant(name, keeps)


def machine() -> dict[str, Any]:
    """What the bits of a run depend on beside its seeds: processor, number of threads, versions."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _steps(
    run: TrainingRun, until: int, watched: dict[int, float], watch: Callable[[OlmoForCausalLM], float] | None
) -> Iterator[int]:
    while run.step < until:
        if watch is not None:
            watched[run.step] = watch(run.model.eval())
            run.model.train()
        train_step(run)
        yield run.step


def _watched(run: TrainingRun) -> dict[int, float]:
    path = run.out / "watched.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {int(step): value for step, value in kept.items()}


def _write_watched(folder: Path, watched: dict[int, float]) -> None:
    write_whole(folder / "watched.json", json.dumps({str(step): value for step, value in watched.items()}).encode())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
