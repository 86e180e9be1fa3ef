"""How well the label of a text can be read from each layer (linear probe)."""

import argparse
from typing import Any

import pandas as pd

from workbench import checkpoints, metrics
from workbench.analyses.linear_probe import linear_probe, probe_layer
from workbench.analyses.trajectory import trajectory
from workbench.command_line.common import (
    LoadedCheckpoint,
    add_checkpoint,
    add_loading_arguments,
    add_seed,
    add_texts,
    bar,
    checked_seed,
    loading,
    opened_checkpoint,
    positive,
    texts_of,
    whole,
)
from workbench.report import Report, Section
from workbench.results import Curves
from workbench.texts import Texts
from workbench.tokens import token_labels

EXAMPLES = """
  python -m workbench probe
  python -m workbench probe --texts reviews.csv --label stars --position mean --layer 2
  python -m workbench probe --texts tiny-olmo/place --along tiny-olmo --html place.html
"""
SET = "tiny-olmo/number"
LINES = {"held-out texts": "accuracy", "shuffled labels": "shuffled", "most frequent label": "most frequent"}
NOTE = (
    "accuracy: share of texts whose label a linear classifier, trained on other texts, reads from the residual stream "
    "after a layer; error: its standard error over texts; shuffled: the same with shuffled labels, where there is "
    "nothing to learn; most frequent: the accuracy of always guessing the most frequent label."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: labelled texts, the token that is read, and a layer to show in detail."""
    add_texts(parser, SET)
    add_checkpoint(parser)
    add_position(parser)
    parser.add_argument(
        "--layer",
        type=layer_name,
        metavar="L",
        help="layer to show in detail: a number, or embed (default: the first layer of highest accuracy)",
    )
    parser.add_argument("--folds", type=positive, default=5, help="folds of the cross-validation (default: 5)")
    parser.add_argument(
        "--along", metavar="SERIES", help="also probe every checkpoint of a series, as a heat map of layer × step"
    )
    add_seed(parser, "seed of the folds and of the shuffled labels")
    add_loading_arguments(parser)


def add_position(parser: argparse.ArgumentParser) -> None:
    """Add --position, the token of each text whose state is read."""
    parser.add_argument(
        "--position",
        type=position_name,
        default=-1,
        metavar="P",
        help="token whose state is read: a number, -1 is the last, or mean, for the mean over tokens (default: -1)",
    )


def position_name(text: str) -> int | str:
    """Parse a position: a whole number, or "mean"."""
    return text if text == "mean" else whole(text)


def layer_name(text: str) -> int | str:
    """Parse a layer: a whole number, or "embed"."""
    return text if text == "embed" else whole(text)


def run(args: argparse.Namespace) -> Report:
    """Accuracy by layer; at one layer, the confusion matrix and the texts read wrongly; with --along, a heat map."""
    seed, subject = checked_seed(args), opened_checkpoint(args, args.checkpoint)
    texts = texts_of(args, subject)
    how: dict[str, Any] = {"position": args.position, "folds": args.folds, "seed": seed}
    curves = linear_probe(subject.model, texts, **how, progress=bar(args))
    layer = best_layer(curves) if args.layer is None else args.layer
    sections = [
        Section(
            "Accuracy by layer", curves.table(), [curves], NOTE, shown=_by_layer(curves), results={"accuracy": curves}
        ),
        *_layer_sections(args, subject, texts, layer, how),
    ]
    if args.along is not None:
        sections.append(_along(args, texts, how))
    origin = subject.provenance(args) | {"texts": args.texts, "number of texts": len(texts), **how}
    return Report(f"Linear probe of {subject.id}", sections, origin)


def best_layer(curves: Curves) -> int | str:
    """The first layer of highest accuracy."""
    assert curves.x_labels is not None
    return layer_name(curves.x_labels[int(curves.values[0].argmax())])


def _by_layer(curves: Curves) -> pd.DataFrame:
    """The accuracies as a table with a row for each layer."""
    table = pd.DataFrame({"layer": curves.x_labels})
    for line, values in zip(curves.lines, curves.values, strict=True):
        table[LINES[line]] = values
        if line == curves.lines[0] and curves.errors is not None:
            table["error"] = curves.errors[0]
    return table


def _layer_sections(
    args: argparse.Namespace, subject: LoadedCheckpoint, texts: Texts, layer: int | str, how: dict[str, Any]
) -> list[Section]:
    """Two sections on one layer: its confusion matrix, and the texts whose label is read wrongly."""
    found = probe_layer(subject.model, texts, layer=layer, **how, progress=bar(args))
    table = found.texts.assign(words=["".join(token_labels(ids, subject.tokenizer)) for ids in texts])
    wide = pd.DataFrame(found.confusion.values, columns=[f"read as {name}" for name in found.confusion.columns])
    wide.insert(0, "label", found.confusion.rows)
    note = "Each row sums to 1: the shares in which the texts of a label are read as each label."
    wrong = table[table["wrong"]].drop(columns="wrong")
    return [
        Section(
            f"Labels as read at {found.site}",
            found.confusion.table(),
            [found.confusion],
            note,
            shown=wide,
            results={"confusion": found.confusion},
        ),
        Section(
            f"{len(wrong)} of {len(texts)} texts are read wrongly at {found.site}",
            table,
            note="probability: what the classifier gives to the text's own label.",
            shown=wrong,
        ),
    ]


def _along(args: argparse.Namespace, texts: Texts, how: dict[str, Any]) -> Section:
    """The accuracy at every checkpoint of a series, as a heat map."""
    metric = metrics.probe_accuracy(texts, **how)
    grid = trajectory(checkpoints.series(args.along), metric, loading=loading(args), progress=bar(args)).grid("layer")
    wide = pd.DataFrame(grid.values.T, columns=[f"layer {row}" for row in grid.rows])
    wide.insert(0, "checkpoint", grid.columns)
    return Section(f"Along {args.along}", grid.table(), [grid], metric.note, shown=wide, results={"along": grid})
