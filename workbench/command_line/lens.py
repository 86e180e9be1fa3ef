"""Next-token predictions of each layer, as if it were the last (logit lens)."""

import argparse

import pandas as pd

from workbench.analyses.logit_lens import logit_lens
from workbench.analyses.support.arguments import chosen
from workbench.command_line.common import add_edits, add_loading_arguments, add_prompt, bar, edited, opened
from workbench.command_line.given_text import add_chat, given_text
from workbench.report import Report, Section
from workbench.results import Measures

EXAMPLES = """
  python -m workbench lens "The cat sat on the"
  python -m workbench lens "The cat sat on the" --position 2 --checkpoint tiny-olmo@step200
  python -m workbench lens "The cat sat on the" --csv lens.csv --html lens.html
  python -m workbench lens "What is a cat?" --chat --checkpoint allenai/OLMo-2-0425-1B-Instruct
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: a text, and a position in it."""
    add_prompt(parser)
    add_chat(parser)
    parser.add_argument(
        "--position", type=int, default=-1, help="position shown on the terminal (default: -1, the last)"
    )
    add_edits(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """A row for each layer at one position; files and pictures hold every position."""
    subject = opened(args, args.checkpoint)
    given = given_text(args, subject)
    tokens = given.tokens
    (position,) = chosen([args.position], tokens.shape[1], "position")
    with edited(args, subject, tokens):
        lens = logit_lens(subject.model, tokens, tokenizer=subject.tokenizer, progress=bar(args))
    here = lens["probability"].columns[position]
    sections = [
        Section(
            f"After token {position}, {here}{given.whose(position)}",
            lens.table(),
            [lens["probability"], lens["entropy"]],
            "Each layer's residual stream after the final norm and the unembedding. kl: divergence of the final "
            "distribution from this one, in nats; rank: rank of the token that really follows, 1 is the likeliest.",
            shown=_at(lens, position),
            results={"lens": lens},
        ),
    ]
    origin = subject.provenance(args) | {"text": given.text, "tokens": tokens.shape[1]}
    return Report(f"Logit lens of {subject.id}", sections, origin)


def _at(lens: Measures, position: int) -> pd.DataFrame:
    """The lens at one position: a row for each layer, last layer first."""
    first = lens["probability"]
    table = pd.DataFrame({"layer": first.rows, "likeliest": first.text[:, position]})
    for name in ("probability", "entropy", "kl", "rank"):
        table[name] = lens[name].values[:, position]
    runners = [measure.text[:, position] for name, measure in lens.items() if name.startswith("top_")]
    table["then"] = [" ".join(texts) for texts in zip(*runners, strict=True)]
    return table[::-1]
