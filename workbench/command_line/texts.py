"""Loss and predicted answer of each text of a set, and the mean loss of each label."""

import argparse
from array import array

import pandas as pd

from workbench.analyses.text_overview import mean_losses, text_overview, without_loss
from workbench.command_line.common import (
    add_checkpoint,
    add_loading_arguments,
    add_texts,
    bar,
    opened_checkpoint,
    texts_in_pieces,
)
from workbench.embedded_texts import path_of
from workbench.report import Report, Section
from workbench.text_files import FileLines, named

EXAMPLES = """
  python -m workbench texts
  python -m workbench texts --texts tiny-olmo/number --checkpoint tiny-olmo@step500
  python -m workbench texts --texts prompts.csv --text-column prompt --label answer --csv losses.csv
"""
SHOWN = ("text", "tokens", "label", "loss", "answer", "probability", "begins")
BEGINNING = 30  # characters of each text that are listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: a set of texts, and the checkpoint that reads it."""
    add_texts(parser, "tiny-olmo/english")
    add_checkpoint(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """A table of means with a row for each label, and a table with a row for each text."""
    subject = opened_checkpoint(args, args.checkpoint)
    pieces, lines, done = [], array("Q"), 0
    for texts in texts_in_pieces(args, subject):
        piece = text_overview(subject.model, texts, tokenizer=subject.tokenizer, progress=bar(args))
        pieces.append(piece.assign(text=piece["text"] + done))
        lines.extend(() if texts.places is None else texts.places.lines)
        done += len(texts)
    table = pd.concat(pieces, ignore_index=True)
    means, lost = mean_losses(table), without_loss(table)
    note = "Mean −log p of the tokens except the first of each text; the standard error is over texts."
    if lost:
        said = named(lost, FileLines(path_of(args.texts), lines))
        note += f" Left out, because their loss is not a number (check the checkpoint): {said}."
    begins = table["content"].str.slice(0, BEGINNING).str.replace(r"\s+", " ", regex=True)
    shown = table.assign(begins=begins)[[name for name in SHOWN if name in (*table, "begins")]]
    sections = [
        Section("Mean loss", means.table(), [means], note, results={"mean loss": means}),
        Section("Texts", table, note="answer: the likeliest next token after the text.", shown=shown),
    ]
    origin = subject.provenance(args) | {"texts": args.texts, "number of texts": len(table)}
    return Report(f"{args.texts} read by {subject.id}", sections, origin, text=note if lost else "")
