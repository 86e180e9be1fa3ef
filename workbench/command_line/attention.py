"""Attention statistics of all heads, and the attention maps of chosen heads."""

import argparse
import re

import pandas as pd
from torch import Tensor

from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.support.by_label import by_label, table_by_label
from workbench.command_line.common import (
    LoadedCheckpoint,
    add_edits,
    add_loading_arguments,
    add_prompt,
    add_seed,
    bar,
    checked_seed,
    edited,
    edited_for,
    opened_checkpoint,
    prompt_of,
    reads_a_set,
    texts_of,
)
from workbench.errors import WorkbenchError
from workbench.report import Report, Section
from workbench.results import Maps, Measures

EXAMPLES = """
  python -m workbench attention "The cat sat. The cat sat."
  python -m workbench attention "The cat sat. The cat sat." --head L2H1 --head L1H3
  python -m workbench attention "The cat sat. The cat sat." --by previous --csv heads.csv --html heads.html
  python -m workbench attention --texts tiny-olmo/number --by first --csv heads.csv
"""
SCORES = ("induction", "previous", "first", "self", "duplicate", "entropy", "distance")
PICTURED = ("induction", "previous", "first", "entropy")
NOTE = (
    "previous, first, self, duplicate: mean weight of the text's queries on the previous token, the first token (high "
    "for attention sinks), the token itself and its earlier copies; induction: weight from the second copy of a token "
    "on the token after its first copy, in random text; entropy in nats, 0 if all weight is on one token; distance: "
    "distance from query to key in tokens, mean weighted by attention."
)
SHOWN = 12  # heads that are listed
KEYS = 3  # keys that are listed for each query


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: a text or a set, a score that sorts the heads, and heads to show."""
    add_prompt(parser, or_texts=True)
    parser.add_argument("--by", choices=SCORES, default="induction", help="score to sort heads by (default: induction)")
    parser.add_argument(
        "--head",
        type=head,
        action="append",
        metavar="L2H1",
        help="head to show; may be repeated (default: the first by --by)",
    )
    add_seed(parser, "seed of the random text for the induction score")
    add_edits(parser)
    add_loading_arguments(parser)


def head(name: str) -> tuple[int, int]:
    """The (layer, head) of a name such as L2H1."""
    found = re.fullmatch(r"[Ll](\d+)[Hh](\d+)", name)
    if found is None:
        raise argparse.ArgumentTypeError(f"{name!r} is not a head; write L2H1 for head 1 of layer 2")
    return int(found[1]), int(found[2])


def run(args: argparse.Namespace) -> Report:
    """A table of all heads with their scores, and for each chosen head the keys with most weight at each query. For a
    set of texts, mean scores over all texts and over those of each label.
    """
    is_set = reads_a_set(args, head=args.head)
    seed, subject = checked_seed(args), opened_checkpoint(args, args.checkpoint)
    if is_set:
        return _heads_of_set(args, subject, seed)
    text = prompt_of(args)
    tokens = subject.tokens(text)
    with edited(args, subject, tokens):
        atlas = head_atlas(subject.model, tokens, seed=seed, progress=bar(args))
        ranked = ranking(atlas, args.by)
        best = ranked.iloc[0]
        chosen = args.head or [(int(best["layer"]), int(best["head"]))]
        shown = [_head_section(subject, tokens, *one) for one in dict.fromkeys(chosen)]
    pictures = [atlas[name] for name in dict.fromkeys([args.by, *PICTURED]) if name in atlas]
    sections = [
        Section(f"Heads by {args.by}", ranked, pictures, NOTE, shown=ranked.head(SHOWN), results={"heads": atlas}),
        *shown,
    ]
    origin = subject.provenance(args) | {"text": text, "tokens": tokens.shape[1]}
    return Report(f"Attention of {subject.id}", sections, origin)


def _heads_of_set(args: argparse.Namespace, subject: LoadedCheckpoint, seed: int) -> Report:
    """A table of all heads with their mean scores, for all texts of the set and for those of each label."""
    texts = texts_of(args, subject)
    with edited_for(args, subject, texts):
        random = head_atlas(subject.model, texts, seed=seed) if args.by == "induction" else None
        found = by_label(lambda some, told: head_atlas(subject.model, some, samples=0, progress=told), texts, bar(args))
    if random is not None:  # measured on random tokens, so equal for all labels
        scores = {name: random[name] for name in ("induction", "induction_error")}
        found = {label: Measures(**atlas, **scores) for label, atlas in found.items()}
    table = table_by_label(found).drop(columns=["row", "column"])
    table = table.sort_values(args.by, ascending=False, kind="stable", ignore_index=True)
    shown = table[[name for name in ("label", "layer", "head", *SCORES) if name in table]]
    first = next(iter(found.values()))
    pictures = [first[name] for name in dict.fromkeys([args.by, *PICTURED]) if name in first]
    note = f"{NOTE} Means over texts, with standard errors over texts."
    section = Section(f"Heads by {args.by}", table, pictures, note, shown=shown.head(SHOWN), results=found)
    origin = subject.provenance(args) | {"texts": args.texts, "number of texts": len(texts)}
    return Report(f"Attention of {subject.id} on {args.texts}", [section], origin)


def ranking(atlas: Measures, by: str) -> pd.DataFrame:
    """A table of layer, head and all scores, sorted by one score, highest first."""
    return atlas.rank(by)[["layer", "head", *(name for name in SCORES if name in atlas)]]


def _head_section(subject: LoadedCheckpoint, tokens: Tensor, layer: int, which: int) -> Section:
    maps = attention_maps(subject.model, tokens, layers=[layer], heads=[which], tokenizer=subject.tokenizer)
    note = "A row is a query token, a column is a key token; each row sums to 1."
    return Section(
        f"What {maps.heads[0]} attends to",
        maps.table(),
        [maps],
        note,
        shown=strongest_keys(maps),
        results={maps.heads[0]: maps},
    )


def strongest_keys(maps: Maps) -> pd.DataFrame:
    """A row for each query of one head, with the keys of most weight. Errors: WorkbenchError if there are several."""
    if len(maps.heads) != 1:
        raise WorkbenchError(f"only the keys of one head can be listed, but the maps hold {len(maps.heads)} heads")
    rows = []
    for query, weights in zip(maps.queries, maps.values[0], strict=True):
        keys = (-weights[: query + 1]).argsort(kind="stable")[:KEYS]
        named = "   ".join(f"{key} {maps.tokens[key]} {weights[key]:.2f}" for key in keys)
        rows.append((query, maps.tokens[query], named))
    return pd.DataFrame(rows, columns=["query", "token", "attends to"])
