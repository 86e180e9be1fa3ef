"""Check the replay of rows against the weights: a checkpoint has a lower loss on rows that it has read.

python -m workbench.corpus.check_rows               # step4000 on rows before and after its step; step2000 read none
python -m workbench.corpus.check_rows --finals      # the final checkpoints on the last rows of each data order
"""

import argparse
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch

from hooks import OlmoForCausalLM
from workbench.analyses.support.mean_loss import mean_loss
from workbench.checkpoints import load
from workbench.corpus.replay import Replay, order_of, replay_of

SERIES = "tiny-olmo"
AROUND = ("step2000", "step4000")
ENDS = ("step6000", "step6000-order2", "step6000-order3")


@torch.inference_mode()
def loss_on_steps(model: OlmoForCausalLM, replay: Replay, steps: Iterable[int], order: int = 1) -> float:
    """Mean −log p of all predicted tokens in the rows of some steps, in nats."""
    return float(np.mean([mean_loss(model, replay.rows(step, order)) for step in steps]))


def loss_table(revisions: Sequence[str], windows: Sequence[tuple[int, range]]) -> pd.DataFrame:
    """Mean loss of checkpoints (rows) on the rows of (data order, steps) (columns), in nats."""
    replay = replay_of(SERIES)
    names = [f"order {order}, steps {steps[0]:,}–{steps[-1]:,}" for order, steps in windows]
    found = {}
    for revision in revisions:
        model, _ = load(f"{SERIES}@{revision}", dtype="float32")
        found[revision] = [loss_on_steps(model, replay, steps, order) for order, steps in windows]
    return pd.DataFrame.from_dict(found, orient="index", columns=names)


def main() -> None:
    """Print the table of losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finals", action="store_true", help="the ends of the runs, on the last 100 steps of each")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every Nth step (default: 1)")
    options = parser.parse_args()
    if options.finals:
        found = loss_table(ENDS, [(order_of(f"{SERIES}@{end}"), range(5900, 6000, options.every)) for end in ENDS])
    else:
        found = loss_table(AROUND, [(1, range(begin, begin + 100, options.every)) for begin in (3900, 4000)])
    print(found.round(4).to_string())


if __name__ == "__main__":
    main()
