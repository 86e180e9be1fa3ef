"""How much worse a set of texts is predicted without each head or MLP."""

import argparse

import pandas as pd

from workbench.analyses.ablation import METHODS, ablation
from workbench.analyses.support.by_label import by_label, table_by_label
from workbench.command_line.common import (
    add_checkpoint,
    add_loading_arguments,
    add_seed,
    add_texts,
    bar,
    checked_seed,
    opened_checkpoint,
    texts_of,
)
from workbench.report import Report, Section

EXAMPLES = """
  python -m workbench ablate
  python -m workbench ablate --texts tiny-olmo/repeats --csv heads.csv --html heads.html
  python -m workbench ablate --texts prompts.jsonl --label kind --method zero --answer " was"
"""
NOTE = (
    "Change of the mean loss of the tokens, in nats; positive where the part helps. The standard error is over texts."
)
SHOWN = 12  # parts that are listed for each label


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: a set of texts, and the method that replaces a part."""
    add_texts(parser, "tiny-olmo/repeats")
    parser.add_argument("--method", choices=METHODS, default="mean", help="what replaces a part (default: its mean)")
    parser.add_argument(
        "--answer", metavar="TOKEN", help="also measure the log-probability of this token after each text"
    )
    add_seed(parser, "seed of the other texts with --method resample")
    add_checkpoint(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """A table with a row for each head and MLP, for all texts and for those of each label."""
    seed, subject = checked_seed(args), opened_checkpoint(args, args.checkpoint)
    texts = texts_of(args, subject)
    found = by_label(
        lambda some, progress: ablation(
            subject.model,
            some,
            args.answer,
            method=args.method,
            reference=texts if args.method == "mean" else None,
            seed=seed,
            tokenizer=subject.tokenizer,
            progress=progress,
        ),
        texts,
        bar(args),
    )
    table = table_by_label(found).drop(columns=["row", "column"])
    pictures = [next(iter(one.values())) for one in found.values()]
    section = Section("Without one part", table, pictures, NOTE, shown=strongest_parts(table), results=found)
    origin = subject.provenance(args) | {"texts": args.texts, "number of texts": len(texts), "method": args.method}
    return Report(f"Ablation of {subject.id} on {args.texts}", [section], origin)


def strongest_parts(table: pd.DataFrame) -> pd.DataFrame:
    """The parts of each label whose removal changes the loss most."""
    ordered = table.sort_values("loss", key=abs, ascending=False, kind="stable")
    if "label" not in table:
        return ordered.head(SHOWN)
    best = {str(label): group.head(SHOWN) for label, group in ordered.groupby("label", sort=False)}
    return pd.concat([best[label] for label in table["label"].unique()])
