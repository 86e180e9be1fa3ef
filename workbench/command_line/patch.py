"""Which activations carry the difference between the prompts of matched pairs (activation patching)."""

import argparse

from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.attribution_patching import attribution_patching
from workbench.command_line.common import (
    add_checkpoint,
    add_loading_arguments,
    add_pairs,
    bar,
    opened_checkpoint,
    pairs_of,
)
from workbench.report import Report, Section

EXAMPLES = """
  python -m workbench patch
  python -m workbench patch --texts tiny-olmo/repeat-pairs --site attn.z --by head --html heads.html
  python -m workbench patch --texts pairs.csv --estimate --csv patched.csv
"""
NOTE = (
    "How much of the answer to the clean prompt returns when the corrupted prompt runs with one activation of the "
    "clean run: 0 nothing, 1 all of it. Means over the pairs; the standard error is over pairs."
)
SHOWN = 15  # cells that are listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: pairs of prompts, and what is patched."""
    add_pairs(parser)
    parser.add_argument("--site", default="resid_pre", help="what is patched (default: resid_pre)")
    parser.add_argument(
        "--by", choices=["position", "head"], default="position", help="columns of the map (default: position)"
    )
    parser.add_argument(
        "--estimate", action="store_true", help="estimate all cells from gradients (attribution patching)"
    )
    add_checkpoint(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """A table with a row for each layer and position, or layer and head."""
    subject = opened_checkpoint(args, args.checkpoint)
    pairs = pairs_of(args, subject)
    analysis = attribution_patching if args.estimate else activation_patching
    found = analysis(
        subject.model,
        pairs.clean,
        pairs.corrupted,
        pairs.answers,
        pairs.others,
        site=args.site,
        by=args.by,
        tokenizer=subject.tokenizer,
        progress=bar(args),
    )
    first = next(iter(found))
    columns = ["layer", args.by, *(name for name in found.table() if name not in ("row", "column", "layer", args.by))]
    table = found.table().rename(columns={"column": "index"})
    section = Section(
        f"Patching {args.site} by {args.by}",
        table,
        [found[first]],
        NOTE,
        shown=found.rank(first)[columns].head(SHOWN),
        results={"patching": found},
    )
    origin = subject.provenance(args) | {"texts": args.texts, "number of pairs": len(pairs)}
    return Report(f"Patching {subject.id} on {args.texts}", [section], origin)
