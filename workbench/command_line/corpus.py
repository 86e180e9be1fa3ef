"""The training text: build its index, count an n-gram, trace a text to documents and steps, rank rows by influence."""

import argparse
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from workbench import corpus
from workbench.checkpoints import Checkpoint, tokenizer_of
from workbench.checkpoints import series as checkpoint_series
from workbench.checkpoints.catalog import pick
from workbench.checkpoints.names import parse, split_id
from workbench.command_line.common import add_seed, bar, checked_seed, ids_of, positive, prompt_of, required_tokenizer
from workbench.corpus.excerpts import excerpt
from workbench.corpus.explaining_rows import candidates
from workbench.corpus.replay import MAIN, order_of
from workbench.corpus.row_map import distinct_rows
from workbench.corpus.training_text import RECIPES
from workbench.errors import WorkbenchError
from workbench.report import Report, Section
from workbench.versions import versions

EXAMPLES = """
  python -m workbench corpus build tiny-olmo
  python -m workbench corpus count " is seen speaking to the camera"
  python -m workbench corpus trace "A man is seen speaking to the camera and leads" --shortest 4
  python -m workbench corpus influence "A man is seen speaking to the camera" --csv rows.csv
  python -m workbench corpus count " vim" --series tiny-olmo@step6000-order2 --csv rows.csv
"""
SAVES = False  # the reports hold tables only
MOST_DOCUMENTS = 10
AROUND = 12  # tokens shown before and after a match


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    parser.add_argument(
        "action", choices=list(ACTIONS), help="build the index; count an n-gram; trace a text; rank rows by influence"
    )
    parser.add_argument(
        "prompt", nargs="?", default="", metavar="TEXT", help="the text, or - for standard input; for build, the series"
    )
    parser.add_argument(
        "--series",
        default="tiny-olmo",
        metavar="ID",
        help="the series whose training text is searched; for a checkpoint, rows are those of its data order, and for "
        "influence only those of the steps before it (default: tiny-olmo)",
    )
    parser.add_argument(
        "--shortest", type=positive, default=3, metavar="N", help="for trace: shortest span, in tokens (default: 3)"
    )
    _add_influence(parser)
    parser.add_argument(
        "--library",
        type=Path,
        metavar="FOLDER",
        help="for build: a folder with the standard library of CPython 3.11.7, such as Lib of its source distribution "
        "(default: that of this interpreter)",
    )


def _add_influence(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that only influence reads."""
    parser.add_argument(
        "--predicted",
        type=positive,
        default=1,
        metavar="N",
        help="for influence: explain the prediction of the last N tokens of the text (default: 1)",
    )
    parser.add_argument(
        "--rows",
        type=positive,
        default=16,
        metavar="N",
        help="for influence: rank the N rows that hold the longest n-grams of the text (default: 16)",
    )
    parser.add_argument(
        "--random",
        type=positive,
        default=100,
        metavar="N",
        help="for influence: number of random rows, to which the others are compared (default: 100)",
    )
    parser.add_argument(
        "--checkpoints",
        type=positive,
        default=5,
        metavar="N",
        help="for influence: number of checkpoints, evenly spaced (default: 5)",
    )
    add_seed(parser, "for influence: seed of the random rows")


def run(args: argparse.Namespace) -> Report:
    """The report of the action."""
    return ACTIONS[args.action](args)


def build(args: argparse.Namespace) -> Report:
    """A table with the size of the text, after its index is built."""
    name = args.prompt or args.series
    folder = corpus.build(name, bar(args), args.library)
    text = corpus.open(name)
    table = pd.DataFrame([{"tokens": len(text.tokens), "documents": len(text.starts), "folder": str(folder)}])
    return Report(f"Index of the training text of {name}", [Section("Index", table)], {"series": name} | versions())


def count(args: argparse.Namespace) -> Report:
    """Tables of the count of an n-gram, of the tokens that follow it, of its documents, and of the rows that hold it.

    `count` is the number of its occurrences in the text, `rows` the number of training rows that hold it, and `copies`
    the number of its occurrences in these rows, more than `rows` if it occurs twice in a row.
    """
    text, tokenizer = corpus.open(args.series), required_tokenizer(tokenizer_of(args.series), args.series)
    ids = text_ids(args, tokenizer)
    rows, places = text.rows_with(ids, order_of(args.series)), text.places(ids)
    numbers = {"n-gram": args.prompt, "tokens": len(ids), "count": len(places)}
    numbers |= {"rows": len(distinct_rows(rows)), "copies": len(rows)}
    numbers |= {"first step": rows["step"].min(), "last step": rows["step"].max()} if len(rows) else {}
    found = text.continuations(ids)
    follows = found.table().assign(token=lambda table: [tokenizer.decode([token]) for token in table["id"]])
    shown = [in_document(text, tokenizer, int(place), len(ids)) for place in text.places(ids, MOST_DOCUMENTS)]
    sections = [
        Section(
            "Count", pd.DataFrame([numbers]), note="copies: the number of times it occurs in the rows that hold it."
        ),
        Section(f"What follows the last {found.suffix} tokens", follows[["token", "id", "count", "probability"]]),
        Section(
            "Documents", pd.DataFrame(shown, columns=["document", "source", "licence", "before", "match", "after"])
        ),
        Section(
            "Rows that hold it",
            rows,
            note="A line for each copy in a row. Step s leads from checkpoint step s to step s + 1.",
        ),
    ]
    return Report(f"{args.prompt!r} in the training text of {args.series}", sections, text_provenance(args))


def trace(args: argparse.Namespace) -> Report:
    """A table with a row for each maximal span of the text that occurs verbatim in the training text: its count, the
    number of training rows that hold it, their first and last step, and the source of one document."""
    text, tokenizer = corpus.open(args.series), required_tokenizer(tokenizer_of(args.series), args.series)
    ids = text_ids(args, tokenizer)
    found = []
    for span in text.spans(ids, args.shortest):
        piece = ids[span.start : span.end]
        rows = distinct_rows(text.rows_with(piece, order_of(args.series)))
        document = text.document(int(text.places(piece, 1)[0]))
        steps = (rows["step"].min(), rows["step"].max()) if len(rows) else (None, None)
        found.append([span.start, span.length, tokenizer.decode(piece), span.count, len(rows), *steps, document.source])
    columns = ["position", "tokens", "text", "count", "rows", "first step", "last step", "a source"]
    section = Section("Verbatim spans", pd.DataFrame(found, columns=columns), note="Spans do not cross documents.")
    return Report(
        f"A text of {len(ids)} tokens in the training text of {args.series}", [section], text_provenance(args)
    )


def influence(args: argparse.Namespace) -> Report:
    """A table of the rows that hold n-grams of the text, by their influence on the prediction of its last tokens; each
    is compared to random rows."""
    text, tokenizer = corpus.open(args.series), required_tokenizer(tokenizer_of(args.series), args.series)
    ids = text_ids(args, tokenizer)
    chosen, until = run_until(args.series, args.checkpoints)
    order = order_of(args.series)
    held = candidates(text, ids, range(until), order, args.rows)
    if not held:
        raise WorkbenchError(f"no row that {args.series} has read held two neighbouring tokens of this text")
    random = corpus.random_rows(args.series, args.random, until=until, seed=checked_seed(args))
    rows = corpus.chosen_rows(args.series, list(held))
    found = corpus.influence(
        chosen, torch.tensor(ids), rows, predicted=args.predicted, background=random, progress=bar(args)
    )
    table = pd.DataFrame(
        [
            [step, row, tokenizer.decode(ids[start:end]), source_of_copy(text, ids[start:end], (step, row), order)]
            for (step, row), (start, end) in held.items()
        ],
        columns=["step", "row", "n-gram held", "source"],
    )
    table.insert(2, "score", found["score"].values)
    table.insert(3, "quantile", found["quantile"].values)
    predicted = tokenizer.decode(ids[-args.predicted :])
    note = (
        f"score: Σ rate · ⟨∇loss of {predicted!r}, ∇loss of the row⟩ in nats, over {', '.join(c.id for c in chosen)}. "
        f"quantile: the share of {args.random} random rows with a lower score."
    )
    ranked = table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    return Report(f"Rows by influence on {args.prompt!r}", [Section("Rows", ranked, note=note)], text_provenance(args))


ACTIONS = {"build": build, "count": count, "trace": trace, "influence": influence}


def run_until(series: str, count: int) -> tuple[list[Checkpoint], int]:
    """At most `count` evenly spaced checkpoints of a run, and the step at which the run ends.

    The run is that of a series, or the one that leads to a checkpoint: in its data order, and ending at its step.
    """
    name, revision = split_id(series)
    order, last = order_of(series), parse(revision) if revision else None
    recipe = RECIPES[name]
    until = recipe.steps if last is None or last.step is None else last.step
    whole = [
        checkpoint
        for checkpoint in checkpoint_series(name)
        if checkpoint.step is not None
        and checkpoint.step <= until
        and ((checkpoint.order or MAIN) == order or (checkpoint.order is None and checkpoint.step <= recipe.branch))
    ]
    return pick(whole, count), until


def source_of_copy(text: corpus.SuffixIndex, ids: list[int], row: tuple[int, int], order: int) -> str:
    """The source of the document that contains a row's copy of an n-gram. row: (step, number in the step)."""
    table = text.rows_with(ids, order)
    places = table.loc[(table["step"] == row[0]) & (table["row"] == row[1]), "place"]
    return text.document(int(places.iloc[0])).source


def text_ids(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids of TEXT. Errors: WorkbenchError if it is empty."""
    ids: list[int] = ids_of(tokenizer, prompt_of(args)).tolist()
    if not ids:
        raise WorkbenchError(f"the text is empty; corpus {args.action} needs a text of at least one token")
    return ids


def in_document(text: corpus.SuffixIndex, tokenizer: PreTrainedTokenizerBase, place: int, length: int) -> list[object]:
    """A row of the table of documents: number, source and licence of the document of a match, and the text before the
    match, the match, and the text after it."""
    found = excerpt(text, place, length, AROUND)
    about = [found.document.number, found.document.source, found.document.licence]
    return [*about, *map(tokenizer.decode, (found.before, found.match, found.after))]


def text_provenance(args: argparse.Namespace) -> dict[str, object]:
    """The provenance of numbers from a training text: the series, and the versions of packages."""
    return {"series": args.series} | versions()
