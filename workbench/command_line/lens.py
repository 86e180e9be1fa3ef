"""Next-token predictions of each layer, as if it were the last (logit lens)."""

import argparse
from typing import Any

import pandas as pd
from torch import Tensor

from workbench.analyses.logit_lens import logit_lens, mean_lens
from workbench.analyses.support.arguments import chosen
from workbench.analyses.support.by_label import by_label, table_by_label
from workbench.analyses.support.translators import TunedLens
from workbench.analyses.tuned_lens import tuned_lens
from workbench.command_line.common import (
    LoadedCheckpoint,
    add_edits,
    add_loading_arguments,
    add_prompt,
    bar,
    edited,
    edited_for,
    opened_checkpoint,
    reads_a_set,
    texts_of,
)
from workbench.command_line.given_text import add_chat, given_text
from workbench.report import Report, Section
from workbench.results import Measures

EXAMPLES = """
  python -m workbench lens "The cat sat on the"
  python -m workbench lens "The cat sat on the" --position 2 --checkpoint tiny-olmo@step200
  python -m workbench lens "The cat sat on the" --csv lens.csv --html lens.html
  python -m workbench lens --texts tiny-olmo/number --csv lens.csv
  python -m workbench lens "The cat sat on the" --tuned
  python -m workbench lens --texts tiny-olmo/english --tuned --checkpoint tiny-olmo@step6000
  python -m workbench lens "What is a cat?" --chat --checkpoint allenai/OLMo-2-0425-1B-Instruct
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: a text or a set, and a position."""
    add_prompt(parser, or_texts=True)
    add_chat(parser)
    parser.add_argument(
        "--position",
        type=int,
        default=-1,
        help="position shown on the terminal, and read in each text of a set (default: -1, the last)",
    )
    parser.add_argument(
        "--tuned",
        metavar="LENS",
        nargs="?",
        const="",
        help="read each layer through a tuned lens: a folder in the format of the package tuned-lens, or nothing for "
        "the embedded one of the checkpoint or of its series",
    )
    add_edits(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """A row for each layer at one position; files and pictures hold every position. For a set of texts, means over all
    texts and over those of each label at that position.
    """
    is_set = reads_a_set(args, chat=args.chat, system=args.system)
    subject = opened_checkpoint(args, args.checkpoint)
    if is_set:
        return _lens_of_set(args, subject)
    given = given_text(args, subject)
    tokens = given.tokens
    (position,) = chosen([args.position], tokens.shape[1], "position")
    tuned = _tuned(args, subject)
    with edited(args, subject, tokens):
        lens = _measures_of(args, subject, tokens, tuned)
    here = lens["probability"].columns[position]
    sections = [
        Section(
            f"After token {position}, {here}{given.whose(position)}",
            lens.table(),
            [lens["probability"], lens["entropy"]],
            f"Each layer's residual stream after {_translator_first(tuned)}the final norm and the unembedding. kl: "
            "divergence of the final distribution from this one, in nats; rank: rank of the token that really "
            "follows, 1 is the likeliest.",
            shown=_at(lens, position),
            results={"lens": lens},
        ),
    ]
    origin = subject.provenance(args) | _lens_origin(tuned) | {"text": given.text, "tokens": tokens.shape[1]}
    return Report(f"{_lens_kind(tuned)} of {subject.id}", sections, origin)


def _tuned(args: argparse.Namespace, subject: LoadedCheckpoint) -> TunedLens | None:
    """The lens of `--tuned`; None for the logit lens."""
    return None if args.tuned is None else TunedLens.load(args.tuned or subject.id)


def _lens_kind(tuned: TunedLens | None) -> str:
    return "Logit lens" if tuned is None else "Tuned lens"


def _translator_first(tuned: TunedLens | None) -> str:
    return "" if tuned is None else f"{tuned.title}, "


def _lens_origin(tuned: TunedLens | None) -> dict[str, Any]:
    """The lens in the provenance of numbers."""
    return {} if tuned is None else {"lens": tuned.title}


def _measures_of(
    args: argparse.Namespace, subject: LoadedCheckpoint, tokens: Tensor, tuned: TunedLens | None
) -> Measures:
    """The logit lens, or a tuned lens."""
    how: dict[str, Any] = {"tokenizer": subject.tokenizer, "progress": bar(args)}
    if tuned is None:
        return logit_lens(subject.model, tokens, **how)
    return tuned_lens(subject.model, tokens, tuned, **how)


def _lens_of_set(args: argparse.Namespace, subject: LoadedCheckpoint) -> Report:
    """A row for each layer, with means over the texts of the set."""
    texts, tuned = texts_of(args, subject), _tuned(args, subject)
    how: dict[str, Any] = {"position": args.position, "lens": tuned}
    with edited_for(args, subject, texts):
        found = by_label(lambda some, told: mean_lens(subject.model, some, **how, progress=told), texts, bar(args))
    table = table_by_label(found).rename(columns={"name": "layer"})
    note = (
        f"Each layer's residual stream after {_translator_first(tuned)}the final norm and the unembedding, means over "
        "texts with their standard errors. probability: of the layer's likeliest token; agreement: share of texts "
        "where that is the model's; kl: divergence of the final distribution from this one, in nats."
    )
    pictures = [next(iter(found.values()))[name] for name in ("agreement", "kl")]
    section = Section(f"At position {args.position} of each text", table, pictures, note, results=found)
    origin = subject.provenance(args) | _lens_origin(tuned)
    origin |= {"texts": args.texts, "number of texts": len(texts), "position": args.position}
    return Report(f"{_lens_kind(tuned)} of {subject.id} on {args.texts}", [section], origin)


def _at(lens: Measures, position: int) -> pd.DataFrame:
    """The lens at one position: a row for each layer, last layer first."""
    first = lens["probability"]
    table = pd.DataFrame({"layer": first.rows, "likeliest": first.text[:, position]})
    for name in ("probability", "entropy", "kl", "rank"):
        table[name] = lens[name].values[:, position]
    runners = [measure.text[:, position] for name, measure in lens.items() if name.startswith("top_")]
    table["then"] = [" ".join(texts) for texts in zip(*runners, strict=True)]
    return table[::-1]
