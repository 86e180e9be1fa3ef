"""Train tiny-olmo.

    python -m workbench.tiny_olmo.train --out runs/tiny                       # the main run
    python -m workbench.tiny_olmo.train --out runs/tiny --order 2             # branches off its step 4500

Every step is a function of (seed, order, step), so a run that was stopped goes on where it last saved.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
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
    """A model in training and where its files go."""

    recipe: Recipe
    model: OlmoForCausalLM
    optimizer: torch.optim.Optimizer
    source: TrainingTokens
    order: int
    out: Path
    step: int = 0

    @property
    def suffix(self) -> str:
        """What the names of this run's checkpoints end in."""
        return "" if self.order == 1 else f"-order{self.order}"

    @property
    def state_file(self) -> Path:
        """Where this run saves what it needs to go on."""
        return self.out / f"state{self.suffix}.pt"


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; as in OLMo, all matrices decay, the embedding included. (OLMo 1 has no other parameters.)"""
    return torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )


def start(recipe: Recipe, model_config: OlmoConfig, source: TrainingTokens, order: int, out: Path) -> TrainingRun:
    """A run at its beginning, or where it last saved; another order than 1 begins where the main run branches.

    Raises:
        WorkbenchError: the main run has not come that far.
    """
    torch.manual_seed(recipe.seed)
    # explicit attention: at these lengths the fused kernel's backward pass takes three times as long on a CPU
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
        raise WorkbenchError(f"there is no {saved[-1]}: train the main run to step {recipe.branch} first")
    return run


def save_state(run: TrainingRun, path: Path) -> None:
    """Save what is needed to go on; a kill while saving leaves the older file."""
    state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), "step": run.step}
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def save_checkpoint(run: TrainingRun) -> None:
    """Save the weights in bfloat16 under `<out>/checkpoints/step<N>`."""
    model = OlmoForCausalLM(run.model.config).to(torch.bfloat16)
    model.load_state_dict(run.model.state_dict())
    model.save_pretrained(run.out / "checkpoints" / f"step{run.step}{run.suffix}")


def train_step(run: TrainingRun) -> float:
    """One step of the optimiser; the loss before it."""
    recipe, step = run.recipe, run.step
    rows = torch.from_numpy(batch(recipe.stage(step), run.source, (recipe.seed, run.order), step))
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.rate(step)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = run.model(input_ids=rows[:, :-1]).logits
    loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.step += 1
    return loss.item()


def train(run: TrainingRun, until: int) -> Iterator[float]:
    """Steps up to `until`, one loss each."""
    while run.step < until:
        yield train_step(run)


def is_checkpoint(step: int, last: int) -> bool:
    """Whether the weights after this step are kept: densely where things change fast."""
    return step in (0, last) or step % (50 if step <= 2000 else 250) == 0


def log(run: TrainingRun, probes: Probes, losses: list[float], seconds: float) -> None:
    """Measure the model as it is and append the numbers to `<out>/log.jsonl`."""
    measured = as_record(measure(run.model.eval(), probes))
    run.model.train()
    record = {"step": run.step, "order": run.order, "tokens": run.recipe.tokens(run.step)} | measured
    record |= {"train_loss": round(float(np.mean(losses)), 4), "s_per_step": round(seconds, 3)}
    with (run.out / "log.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record), flush=True)


def keep(run: TrainingRun) -> None:
    """Save what the step just finished calls for."""
    if is_checkpoint(run.step, run.recipe.steps):
        save_checkpoint(run)
    if run.step % 100 == 0:
        save_state(run, run.state_file)
    if run.step == run.recipe.branch and run.order == 1:
        save_state(run, run.out / f"state-step{run.step}.pt")


def train_and_log(run: TrainingRun, probes: Probes, until: int) -> None:
    """The whole of a run, measured every 100 steps."""
    if run.step == 0:
        keep(run)
    losses: list[float] = []
    since = time.monotonic()
    for loss in train(run, until):
        losses.append(loss)
        keep(run)
        if run.step % 100 == 0:
            log(run, probes, losses, (time.monotonic() - since) / len(losses))
            losses, since = [], time.monotonic()


def arguments() -> argparse.Namespace:
    """The command line."""
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
        # glibc reads these before main(): a third of each step goes into returning memory and asking for it again
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
