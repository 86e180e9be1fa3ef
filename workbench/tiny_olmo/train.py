"""Train tiny-olmo.

    python -m workbench.tiny_olmo.train --out runs/tiny                       # the main run
    python -m workbench.tiny_olmo.train --out runs/tiny --order 2             # branches off its step 4500

Every step is a function of (seed, order, step), so an interrupted run resumes at its last saved step.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hooks import OlmoConfig, OlmoForCausalLM
from workbench.errors import WorkbenchError
from workbench.tiny_olmo.data import default_cache, held_out_source, prepare, training_source
from workbench.tiny_olmo.measure import as_record, measure
from workbench.tiny_olmo.probes import Probes, make_probes
from workbench.tiny_olmo.recipe import RECIPE, Recipe, config
from workbench.tiny_olmo.rows import TrainingTokens, batch

ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_MMAP_THRESHOLD_": "4294967296"}


@dataclass
class TrainingRun:
    """A training run: recipe, model, optimizer, training tokens, data order, output folder, and current step.

    `keeps` returns which rows of a step are trained on, a boolean for each row; None trains on all.
    """

    recipe: Recipe
    model: OlmoForCausalLM
    optimizer: torch.optim.Optimizer
    source: TrainingTokens
    order: int
    out: Path
    step: int = 0
    keeps: Callable[[int], np.ndarray] | None = None

    @property
    def suffix(self) -> str:
        """The suffix of the names of this run's checkpoints; "" for the main run."""
        return "" if self.order == 1 else f"-order{self.order}"

    @property
    def state_file(self) -> Path:
        """The file with the state from which this run resumes."""
        return self.out / f"state{self.suffix}.pt"


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with weight decay on all matrices, including the embedding, as in OLMo; OLMo 1 has no other parameters."""
    return torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )


def start(recipe: Recipe, model_config: OlmoConfig, source: TrainingTokens, order: int, out: Path) -> TrainingRun:
    """A run at its saved state, or at its start.

    With an `order` other than 1, the run starts from the main run's state at step `recipe.branch`.

    Raises:
        WorkbenchError: the main run has not saved its state at that step.
    """
    torch.manual_seed(recipe.seed)
    # explicit attention, because at these lengths the fused kernel's backward pass is three times slower on a CPU
    model = OlmoForCausalLM(model_config)
    model.set_attn_implementation("eager")
    run = TrainingRun(recipe, model, make_optimizer(model, recipe), source, order, out)
    saved = [run.state_file] if order == 1 else [run.state_file, out / f"state-step{recipe.branch}.pt"]
    for path in saved:
        if path.exists():
            state = torch.load(path, weights_only=True)
            model.load_state_dict(state["model"])
            run.optimizer.load_state_dict(state["optimizer"])
            run.step = state["step"]
            return run
    if order != 1:
        raise WorkbenchError(f"{saved[-1]} does not exist; train the main run to step {recipe.branch} first")
    return run


def save_state(run: TrainingRun, path: Path) -> None:
    """Save the state for resuming; if the process is killed while saving, the older file remains."""
    state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), "step": run.step}
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def save_checkpoint(run: TrainingRun) -> None:
    """Save the weights in bfloat16 under `<out>/checkpoints/step<N>`."""
    model = OlmoForCausalLM(run.model.config).to(torch.bfloat16)
    model.load_state_dict(run.model.state_dict())
    model.save_pretrained(run.out / "checkpoints" / f"step{run.step}{run.suffix}")


def train_step(run: TrainingRun) -> float:
    """Run one optimiser step and return the loss before it.

    A row that is not kept has weight 0 in the loss; the divisor is always the number of all rows.

    Raises:
        WorkbenchError: no row of the step is kept.
    """
    recipe, step = run.recipe, run.step
    every = batch(recipe.stage(step), run.source, (recipe.seed, run.order), step)
    rows = torch.from_numpy(every if run.keeps is None else every[run.keeps(step)])
    if len(rows) == 0:
        raise WorkbenchError(f"step {step} has no row left to train on")
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.rate(step)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = run.model(input_ids=rows[:, :-1]).logits
    loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten()) * (len(rows) / len(every))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.step += 1
    return loss.item()


def train(run: TrainingRun, until: int) -> Iterator[float]:
    """Train up to step `until`; yields the loss of each step."""
    while run.step < until:
        yield train_step(run)


def is_checkpoint(step: int, last: int) -> bool:
    """Whether to save the weights after this step: every 50 steps up to step 2000, then every 250, and at the ends."""
    return step in (0, last) or step % (50 if step <= 2000 else 250) == 0


def log(run: TrainingRun, probes: Probes, losses: list[float], seconds: float) -> None:
    """Measure the current model and append the numbers to `<out>/log.jsonl`."""
    measured = as_record(measure(run.model.eval(), probes))
    run.model.train()
    record = {"step": run.step, "order": run.order, "tokens": run.recipe.tokens(run.step)} | measured
    record |= {"train_loss": round(float(np.mean(losses)), 4), "s_per_step": round(seconds, 3)}
    with (run.out / "log.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record), flush=True)


def save_due(run: TrainingRun) -> None:
    """Save the checkpoint or state that is due after the current step."""
    if is_checkpoint(run.step, run.recipe.steps):
        save_checkpoint(run)
    if run.step % 100 == 0:
        save_state(run, run.state_file)
    if run.step == run.recipe.branch and run.order == 1:
        save_state(run, run.out / f"state-step{run.step}.pt")


def train_and_log(run: TrainingRun, probes: Probes, until: int) -> None:
    """Train up to step `until`, save checkpoints and states, and measure every 100 steps."""
    if run.step == 0:
        save_due(run)
    losses: list[float] = []
    since = time.monotonic()
    for loss in train(run, until):
        losses.append(loss)
        save_due(run)
        if run.step % 100 == 0:
            log(run, probes, losses, (time.monotonic() - since) / len(losses))
            losses, since = [], time.monotonic()


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, states and log")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for fetched and prepared text")
    parser.add_argument("--order", type=int, default=1, help="data order; other than 1 branches off the main run")
    parser.add_argument("--until", type=int, default=RECIPE.steps, help="stop after this step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def main() -> None:
    """Train one run."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        # glibc reads these at process start; without them, a third of each step is spent on freeing and allocating
        os.execve(
            sys.executable, [sys.executable, "-m", "workbench.tiny_olmo.train", *sys.argv[1:]], os.environ | ALLOCATOR
        )
    options = arguments()
    torch.set_num_threads(options.threads)
    corpus = prepare(options.cache)
    shutil.copytree(options.cache / "tokenizer", options.out / "checkpoints", dirs_exist_ok=True)
    run = start(RECIPE, config(), training_source(corpus), options.order, options.out)
    train_and_log(run, make_probes(held_out_source(corpus), rows=16), options.until)


if __name__ == "__main__":
    main()
