"""The cost of looking, as a table: `python -m tests.benchmarks [--family olmo2] [--tokens 2048] [--rounds 9]`.

Time is a multiple of transformers' own `sdpa` forward (or `generate`) in the same process: once as the machine is, once
with glibc told to keep freed memory. Memory is the peak of a process of its own, as a multiple of the plain forward's.
"""

import argparse
import json

import torch

from . import analyses, model
from .timing import KEEP_MEMORY, in_own_process


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=model.FAMILIES, default="olmo")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--measure", choices=["time", "peak", "analyses"], help="measure one thing in this process and print it"
    )
    parser.add_argument("--what", choices=model.MEMORY)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> object:
    torch.set_num_threads(options.threads)
    if options.measure == "peak":
        return model.peak(options.family, options.tokens, options.what)
    if options.measure == "analyses":
        return analyses.time_analyses(options.family, options.tokens, options.rounds)
    forward = model.time_forward(options.family, options.tokens, options.rounds)
    return forward | model.time_generate(options.family, 64, options.rounds)


def table(options: argparse.Namespace) -> str:
    """Every row with its limit and what was measured, in Markdown."""
    common = ["--family", options.family, "--tokens", str(options.tokens), "--threads", str(options.threads)]
    timing = [*common, "--rounds", str(options.rounds), "--measure"]
    plain, kept = (json.loads(in_own_process([*timing, "time"], environment)) for environment in ({}, KEEP_MEMORY))
    limits = {row.what: row.limit for row in model.ROWS} | {"generate without edits": model.GENERATE_LIMIT}
    lines = [
        f"{options.family}, 8 layers, {options.tokens} tokens, {options.threads} threads",
        "",
        "| time | at most | measured | with memory kept |",
        "|---|---|---|---|",
    ]
    for what in plain:
        limit = f"{limits[what]:.2f} ×" if what in limits else ""
        lines.append(f"| {what} | {limit} | {plain[what]:.3f} × | {kept[what]:.3f} × |")
    peaks = {what: json.loads(in_own_process([*common, "--measure", "peak", "--what", what])) for what in model.MEMORY}
    lines += ["", "| peak memory of a process | at most | MB | of the plain forward |", "|---|---|---|---|"]
    for what, size in peaks.items():
        limit = f"{model.MEMORY_LIMIT:.2f} ×" if what.startswith("streamed") else ""
        ratio = size / peaks["forward without taps"]
        lines.append(f"| {what} | {limit} | {size / 1e6:.0f} | {ratio:.2f} × |")
    lines += ["", "| analyses | limit | measured | with memory kept |", "|---|---|---|---|"]
    plain, kept = (json.loads(in_own_process([*timing, "analyses"], environment)) for environment in ({}, KEEP_MEMORY))
    lines += [
        f"| {what} | {limit} | {plain[what]:.2f} × | {kept[what]:.2f} × |" for what, limit in analyses.LIMITS.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    options = arguments()
    print(json.dumps(measure(options)) if options.measure else table(options))
