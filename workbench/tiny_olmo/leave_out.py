"""Train tiny-olmo without chosen rows, and compare with predictions from influence and from the index.

    python -m workbench.tiny_olmo.leave_out repeats --out runs/leave-out    # without rows with repeats
    python -m workbench.tiny_olmo.leave_out planted --out runs/leave-out    # a sentence read at three known steps
    python -m workbench.tiny_olmo.leave_out subsets --out runs/leave-out    # predicted and real changes of losses

Every run has a control with all rows, made on the same machine, because another machine gives other weights. An
interrupted command resumes at the last saved step. Each writes `<out>/<command>.json` with its seeds, processor and
versions. A step takes 0.2 to 0.6 seconds on two cores; `subsets` trains 20 runs beside the control.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.support.mean_loss import loss_sums
from workbench.checkpoints import Checkpoint
from workbench.corpus.influence import influence, random_places
from workbench.corpus.replay import Replay
from workbench.texts import Texts, as_texts
from workbench.tiny_olmo.build_files import SERIES
from workbench.tiny_olmo.data import default_cache, held_out_source, prepare, training_source
from workbench.tiny_olmo.leave_out_runs import (
    CONTROL,
    Setting,
    Variant,
    losses_watched,
    machine,
    run_without_repeats,
    trained_variant,
    without_as_many,
    without_rows,
)
from workbench.tiny_olmo.measure import as_record, measure
from workbench.tiny_olmo.plant import planted
from workbench.tiny_olmo.probes import Probes, make_probes
from workbench.tiny_olmo.recipe import RECIPE, config
from workbench.tiny_olmo.train import ALLOCATOR
from workbench.whole_files import write_whole

SENTENCE = (
    " The keeper of the glass harbor feeds seven violet owls at noon, and the owls tell him the names of lost ships."
)


def train_without_repeats(setting: Setting, probes: Probes) -> dict[str, Any]:
    """Train the control, the run that leaves out the rows with repeats, and one that leaves out as many random rows.

    Returns their losses and head scores by the name of the run; `measure.Measurement` says what each is.
    """
    variants = (CONTROL, run_without_repeats(setting), without_as_many(setting))
    return {
        variant.name: as_record(measure(trained_variant(setting, variant).model.eval(), probes)) for variant in variants
    }


def plant(setting: Setting, sentence: np.ndarray, background: int, times: int = 3, seed: int = 0) -> dict[str, Any]:
    """A run on the text with a planted sentence, beside its control.

    Returns the steps that read it; the loss of the sentence before and after each of them in both runs; and the
    quantile by influence of each reading row among `background` random rows of the run.
    """
    text = planted(setting.source, setting.recipe, sentence, setting.steps, times)
    variant = Variant("planted", source=text.source)

    def watch(model: OlmoForCausalLM) -> float:
        return float(_losses(model, sentence[None])[0])

    for each in (CONTROL, variant):
        trained_variant(setting, each, watch)
    losses = {each.name: losses_watched(setting, each) for each in (CONTROL, variant)}
    replay = Replay.of(text.source, setting.recipe)
    rows = _rows(replay, [(int(step), int(row)) for step, row in text.read])
    found = _influence(setting, variant, sentence, rows, _random_rows(setting, replay, background, seed))
    return {
        "read": text.read[:, 0].tolist(),
        "loss": {
            name: [[_rounded(values.get(step + late)) for late in (0, 1, 2)] for step, _ in text.read.tolist()]
            for name, values in losses.items()
        },
        "quantile": [round(float(value), 4) for value in found[1]],
        "background": background,
        "seed": seed,
    }


def subsets(setting: Setting, predictions: np.ndarray, count: int, pool: int, seed: int = 0) -> dict[str, Any]:
    """Rank correlation over runs of predicted and real changes of a loss (LDS), for influence and two baselines.

    Returns the mean over predictions and its standard error: of influence, of random scores, and of plain similarity
    (the cosine of the counts of tokens). Each of `count` runs leaves out a random half of `pool` random rows. The
    predicted change of the loss of a prediction (a row of `predictions`) is the sum of the scores of the rows that are
    left out; the real one is its loss in the run less its loss in the control.

    Source: Park et al. 2023, "TRAK: Attributing Model Behavior at Scale" (linear datamodelling score).
    """
    rng = np.random.default_rng(seed)
    places = np.array(random_places(_rows_of_steps(setting), pool, seed))
    out = np.stack([rng.permutation(pool) < pool // 2 for _ in range(count)])  # run row
    before = _losses(trained_variant(setting, CONTROL).model, predictions)
    variants = [without_rows(setting, f"subset-{number:02d}", places[some]) for number, some in enumerate(out)]
    real = np.stack([_losses(trained_variant(setting, variant).model, predictions) - before for variant in variants])
    rows = _rows(Replay.of(setting.source, setting.recipe), [(int(step), int(row)) for step, row in places])
    scores = {
        "influence": np.stack([_influence(setting, CONTROL, one, rows)[0] for one in predictions]),
        "random": rng.standard_normal((len(predictions), pool)),
        "similarity": similarity(predictions, rows, setting.shape.vocab_size),
    }  # prediction row
    found = {name: [rank_correlation(out @ one, real[:, n]) for n, one in enumerate(s)] for name, s in scores.items()}
    return {
        "lds": {name: round(float(np.mean(values)), 4) for name, values in found.items()},
        "standard_error": {
            name: round(float(np.std(values, ddof=1) / len(values) ** 0.5), 4) for name, values in found.items()
        },
        "runs": count,
        "pool": pool,
        "predictions": len(predictions),
        "seed": seed,
    }


def similarity(predictions: np.ndarray, rows: Texts, vocab: int) -> np.ndarray:
    """Cosine similarity of the counts of tokens of predictions and rows: prediction row."""
    one, other = (
        np.stack([np.bincount(np.asarray(ids), minlength=vocab) for ids in some]).astype(float)
        for some in (predictions, rows)
    )
    return np.asarray(one @ other.T / np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation, −1 to 1; ties share their mean rank. 0 if all numbers of one side are equal."""
    ranks = [pd.Series(values).rank() for values in (one, other)]
    return 0.0 if any(side.nunique() == 1 for side in ranks) else float(np.corrcoef(*ranks)[0, 1])


def _influence(
    setting: Setting, variant: Variant, prediction: np.ndarray, rows: Texts, background: Texts | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and quantiles of rows for all tokens of a prediction, over five checkpoints of a run."""
    run = _checkpoints(setting, variant)
    rates = [setting.recipe.rate(min(checkpoint.step or 0, setting.steps)) for checkpoint in run]
    ids = torch.from_numpy(prediction.astype(np.int64))
    found = influence(run, ids, rows, predicted=None, background=background, rates=rates)
    return found["score"].values, found["quantile"].values


def _checkpoints(setting: Setting, variant: Variant) -> list[Checkpoint]:
    """Five checkpoints of a run after its start, spread evenly."""
    run = checkpoints.main_run(checkpoints.series(setting.out / variant.name / "checkpoints"))[1:]
    return [run[at] for at in np.unique(np.linspace(len(run) - 1, 0, 5, endpoint=False).round().astype(int))]


def _losses(model: OlmoForCausalLM, predictions: np.ndarray) -> np.ndarray:
    """The mean −log p of each prediction, of all its tokens but the first, in nats."""
    texts = as_texts(torch.from_numpy(predictions.astype(np.int64)))
    return np.asarray(loss_sums(model.eval(), texts) / (predictions.shape[1] - 1))


def _rows(replay: Replay, places: list[tuple[int, int]]) -> Texts:
    return as_texts([replay.rows(step)[row] for step, row in places])


def _random_rows(setting: Setting, replay: Replay, count: int, seed: int) -> Texts:
    return _rows(replay, random_places(_rows_of_steps(setting), count, seed))


def _rows_of_steps(setting: Setting) -> list[int]:
    return [setting.recipe.stage(step).rows for step in range(setting.steps)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("repeats", "planted", "subsets"))
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for fetched and prepared text")
    parser.add_argument("--steps", type=int, default=1000, help="the step at which each run ends")
    parser.add_argument("--rows", type=int, default=1000, help="random rows beside the planted ones, or in the pool")
    parser.add_argument("--subsets", type=int, default=20, help="runs that leave out half of the pool")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random rows and subsets")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def main() -> None:
    """Run one command and write its record."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        command = [sys.executable, "-m", "workbench.tiny_olmo.leave_out", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | ALLOCATOR)  # glibc reads these at process start
    options = arguments()
    torch.set_num_threads(options.threads)
    corpus = prepare(options.cache, SERIES)
    setting = Setting(RECIPE, config(), training_source(corpus), options.steps, options.out, SERIES)
    probes = make_probes(held_out_source(corpus), 256)
    if options.command == "repeats":
        found = train_without_repeats(setting, probes)
    elif options.command == "planted":
        found = plant(setting, np.array(corpus.tokenizer(SENTENCE)["input_ids"]), options.rows, seed=options.seed)
    else:
        found = subsets(setting, probes.natural["english"][:16], options.subsets, options.rows, options.seed)
    record = {"steps": options.steps, "recipe_seed": RECIPE.seed, **machine(), **found}
    write_whole(options.out / f"{options.command}.json", json.dumps(record, indent=1).encode())
    print(json.dumps(record))


if __name__ == "__main__":
    main()
