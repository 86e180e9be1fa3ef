"""Costs of captures and edits: `python -m tests.benchmarks [--family olmo2] [--tokens 2048] [--rounds 3]`.

  time        calls with captures or edits, as multiples of transformers' `sdpa` forward; the same for `generate`
  training    a forward and a backward pass, as multiples of transformers'
  peak        peak memory of a separate process, as a multiple of the plain forward's
  analyses    some analyses of the workbench, as multiples of a forward
  identities  errors of the sums of parts, and of our numbers compared with transformers'

Contenders take turns in one process; figures are medians over rounds. All of it takes some five minutes on two cores
with nothing else to do; `--measure` takes one table alone. Beside it stand `tests.benchmarks.weights` (comparing large
checkpoints), `tests.benchmarks.corpus` (the index of the training text), `tests.benchmarks.page`,
`tests.benchmarks.features` and `tests.benchmarks.transformer_lens`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator

import torch

from . import analyses, identities, memory, model
from .timing import show, with_kept_memory

MEASURES = ("time", "training", "peak", "analyses", "identities")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=model.FAMILIES, default="olmo")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-memory", action="store_true", help="tell glibc to keep freed memory")
    parser.add_argument("--measure", choices=MEASURES, help="one table alone")
    parser.add_argument("--what", choices=memory.WHAT, help="of --measure peak: one call's bytes alone, as JSON")
    return parser.parse_args()


def table(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The rows of one table, as they are measured."""
    if options.measure == "identities":
        return identities.largest_errors()
    if options.measure == "peak":
        return memory.peaks(options.family, options.tokens, options.threads)
    timed = {"time": model.time_looking, "training": model.time_training, "analyses": analyses.time_analyses}
    return timed[options.measure](options.family, options.tokens, options.rounds)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.keep_memory:
        with_kept_memory()
    if options.what is not None:
        print(json.dumps(memory.peak(options.family, options.tokens, options.what)))
    elif options.measure is not None:
        show(table(options))
    else:
        print(f"{options.family}, 8 layers, d_model 512, 8 heads, {options.threads} threads\n", flush=True)
        for measure in MEASURES:
            subprocess.run([*sys.orig_argv, "--measure", measure], check=True)


if __name__ == "__main__":
    main()
