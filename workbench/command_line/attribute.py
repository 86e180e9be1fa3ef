"""What each head and MLP adds directly to the logit of an answer, mean over a set of texts."""

import argparse

from workbench.analyses.direct_logit_attribution import by_head, mean_attribution
from workbench.analyses.support.by_label import by_label, table_by_label
from workbench.command_line.common import (
    add_checkpoint,
    add_loading_arguments,
    add_texts,
    bar,
    opened_checkpoint,
    texts_of,
)
from workbench.report import Report, Section

EXAMPLES = """
  python -m workbench attribute
  python -m workbench attribute --texts tiny-olmo/number --answer " were" --against " was" --html parts.html
  python -m workbench attribute --texts prompts.csv --label kind --csv parts.csv
"""
NOTE = (
    "What each part adds to the logit of the answer after each text, with the scale of the final norm frozen; the "
    "parts add up to the logit. Means over texts; the standard error is over texts."
)
SHOWN = 15  # parts that are listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: a set of texts, and the answers."""
    add_texts(parser, "tiny-olmo/number")
    parser.add_argument(
        "--answer", metavar="TOKEN", help="the token to explain (default: the likeliest next token of each text)"
    )
    parser.add_argument("--against", metavar="TOKEN", help="explain the logit of the answer minus that of this token")
    add_checkpoint(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """A table with a row for each part, for all texts and for those of each label."""
    subject = opened_checkpoint(args, args.checkpoint)
    texts = texts_of(args, subject)
    found = by_label(
        lambda some, progress: mean_attribution(
            subject.model, some, args.answer, args.against, tokenizer=subject.tokenizer, progress=progress
        ),
        texts,
        bar(args),
    )
    table = table_by_label(found)
    shown = table.sort_values("value", key=abs, ascending=False, kind="stable").head(SHOWN)
    section = Section(
        "Direct effects", table, [by_head(one) for one in found.values()], NOTE, shown=shown, results=found
    )
    origin = subject.provenance(args) | {"texts": args.texts, "number of texts": len(texts)}
    return Report(f"Attribution by {subject.id} on {args.texts}", [section], origin)
