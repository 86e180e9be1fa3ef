"""The training text: build its index, count an n-gram, trace a text to the documents and steps that held it."""

import argparse
from pathlib import Path

import pandas as pd
from transformers import PreTrainedTokenizerBase

from workbench import corpus
from workbench.checkpoints import tokenizer_of
from workbench.command_line.common import bar, ids_of, needed, positive, prompt_of
from workbench.corpus.excerpts import excerpt
from workbench.corpus.replay import order_of
from workbench.errors import WorkbenchError
from workbench.report import Report, Section
from workbench.versions import versions

EXAMPLES = """
  python -m workbench corpus build tiny-olmo
  python -m workbench corpus count " is seen speaking to the camera"
  python -m workbench corpus trace "A man is seen speaking to the camera and leads" --shortest 4
  python -m workbench corpus count " vim" --series tiny-olmo@step6000-order2 --csv rows.csv
"""
SAVES = False  # its findings are tables
MOST_DOCUMENTS = 10
AROUND = 12  # tokens shown before and after a match


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    parser.add_argument("action", choices=list(ACTIONS), help="build the index; count an n-gram; trace a text")
    parser.add_argument(
        "prompt", nargs="?", default="", metavar="TEXT", help="the text, or - for standard input; for build, the series"
    )
    parser.add_argument(
        "--series",
        default="tiny-olmo",
        metavar="ID",
        help="the series whose text it is, or a checkpoint of a run with another data order (default: tiny-olmo)",
    )
    parser.add_argument(
        "--shortest", type=positive, default=3, metavar="N", help="shortest span of a trace, in tokens (default: 3)"
    )
    parser.add_argument(
        "--library",
        type=Path,
        metavar="FOLDER",
        help="for build: a folder with the standard library of CPython 3.11.7, such as Lib of its source distribution "
        "(default: that of this interpreter)",
    )


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
    """Tables of the count, of documents, of what follows, and of the rows that held the n-gram."""
    text, tokenizer = corpus.open(args.series), needed(tokenizer_of(args.series), args.series)
    ids = asked(args, tokenizer)
    rows, places = text.rows_with(ids, order_of(args.series)), text.places(ids)
    numbers = {"n-gram": args.prompt, "tokens": len(ids), "count": len(places), "rows": len(rows)}
    numbers |= {"first step": rows["step"].min(), "last step": rows["step"].max()} if len(rows) else {}
    found = text.continuations(ids)
    follows = found.table().assign(token=lambda table: [tokenizer.decode([token]) for token in table["id"]])
    shown = [in_document(text, tokenizer, int(place), len(ids)) for place in text.places(ids, MOST_DOCUMENTS)]
    sections = [
        Section("Count", pd.DataFrame([numbers])),
        Section(f"What follows the last {found.suffix} tokens", follows[["token", "id", "count", "probability"]]),
        Section(
            "Documents", pd.DataFrame(shown, columns=["document", "source", "licence", "before", "match", "after"])
        ),
        Section("Rows that held it", rows, note="Step s leads from checkpoint step s to step s + 1."),
    ]
    return Report(f"{args.prompt!r} in the training text of {args.series}", sections, provenance(args))


def trace(args: argparse.Namespace) -> Report:
    """A table with each maximal span that occurs verbatim, its count, one document, and the steps of its rows."""
    text, tokenizer = corpus.open(args.series), needed(tokenizer_of(args.series), args.series)
    ids = asked(args, tokenizer)
    found = []
    for span in text.spans(ids, args.shortest):
        piece = ids[span.start : span.end]
        rows, document = text.rows_with(piece, order_of(args.series)), text.document(int(text.places(piece, 1)[0]))
        steps = (rows["step"].min(), rows["step"].max()) if len(rows) else (None, None)
        found.append([span.start, span.length, tokenizer.decode(piece), span.count, len(rows), *steps, document.source])
    columns = ["position", "tokens", "text", "count", "rows", "first step", "last step", "a source"]
    section = Section("Verbatim spans", pd.DataFrame(found, columns=columns), note="Spans do not cross documents.")
    return Report(f"A text of {len(ids)} tokens in the training text of {args.series}", [section], provenance(args))


ACTIONS = {"build": build, "count": count, "trace": trace}


def asked(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids of the text. Errors: WorkbenchError if it is empty."""
    ids: list[int] = ids_of(tokenizer, prompt_of(args)).tolist()
    if not ids:
        raise WorkbenchError(f"the text is empty; corpus {args.action} needs a text of at least one token")
    return ids


def in_document(text: corpus.SuffixIndex, tokenizer: PreTrainedTokenizerBase, place: int, length: int) -> list[object]:
    """A match in its document: number, source and licence of the document, and the text before, of and after it."""
    found = excerpt(text, place, length, AROUND)
    about = [found.document.number, found.document.source, found.document.licence]
    return [*about, *map(tokenizer.decode, (found.before, found.match, found.after))]


def provenance(args: argparse.Namespace) -> dict[str, object]:
    """The origin of the numbers."""
    return {"series": args.series} | versions()
