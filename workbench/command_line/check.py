"""Check that a checkpoint is an OLMo and computes correctly. Exit code 1 if a check fails."""

import argparse

from workbench import checkpoints
from workbench.command_line.common import (
    add_loading_arguments,
    add_seed,
    checked_seed,
    full_id,
    load_as_given,
    provenance,
)
from workbench.report import Report, Section, dtype_name

EXAMPLES = """
  python -m workbench check tiny-olmo
  python -m workbench check runs/mine/step1000 --dtype bfloat16
  python -m workbench check allenai/OLMo-2-0425-1B@main --html check.html || echo broken
"""
SAVES = False  # the report holds a table only


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: a checkpoint, and a seed."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="name@revision, or the path of a folder")
    add_seed(parser, "seed of the random tokens that the model runs over")
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """A table with a row for each check, failed ones first."""
    seed, (model, tokenizer) = checked_seed(args), load_as_given(args, args.checkpoint, check_finite=False)
    # Loading would stop at the first tensor that is not finite; the report names them all.
    found = checkpoints.check(model, tokenizer, seed=seed).sort_values("ok", kind="stable")
    shown = found.assign(ok=found["ok"].map({True: "ok", False: "FAILED"}))[["ok", "check", "detail"]]
    failed = int((~found["ok"]).sum())
    title = f"{failed} of {len(found)} checks failed" if failed else f"All {len(found)} checks passed"
    origin = provenance(args, {"checkpoint": full_id(args.checkpoint), "dtype": dtype_name(model.dtype)})
    return Report(f"Check of {args.checkpoint}", [Section(title, found, shown=shown)], origin, ok=failed == 0)
