"""Compare the predictions, weights and attention of two checkpoints."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from workbench import checkpoints
from workbench.analyses.compare_attention import compare_attention
from workbench.analyses.compare_behaviour import behaviour_summary, compare_behaviour
from workbench.analyses.compare_weights import compare_weights
from workbench.analyses.noise_floor import noise_floor
from workbench.analyses.support.by_label import ALL, by_label, table_by_label
from workbench.analyses.support.two_models import ModelOrName
from workbench.checkpoints import Checkpoint
from workbench.checkpoints.loading import suited_dtype, tokenizer_of
from workbench.checkpoints.names import split_id
from workbench.command_line.common import (
    add_loading_arguments,
    add_text,
    add_texts,
    bar,
    full_id,
    ids_of,
    opened_checkpoint,
    provenance,
    required_tokenizer,
    rows_of,
    text_or_sample,
)
from workbench.errors import WorkbenchError
from workbench.progress import Progress
from workbench.report import Report, Section, dtype_name
from workbench.results import Grid, Measures
from workbench.texts import Texts

EXAMPLES = """
  python -m workbench compare tiny-olmo@step1000 tiny-olmo@step6000
  python -m workbench compare tiny-olmo@step4000 tiny-olmo@step6000 --noise-floor --html compare.html
  python -m workbench compare tiny-olmo@step1000 tiny-olmo@step6000 --only predictions --texts tiny-olmo/number
  python -m workbench compare runs/a/step2000 runs/b/step2000 --only predictions attention --text page.txt
"""
PARTS = ("predictions", "weights", "attention")
SHOWN = 12  # rows listed: the tokens, matrices or heads that differ most
SHOWN_OF_TOKENS = ("loss_difference", "loss_a", "loss_b", "kl", "overlap", "flip")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: two checkpoints, the parts to compare, and a text."""
    parser.add_argument("a", metavar="A", help="checkpoint A: name@revision, or a folder")
    parser.add_argument("b", metavar="B", help="checkpoint B, with the same tokenizer")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        metavar="PART",
        help=f"parts to compare: {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument(
        "--noise-floor",
        action="store_true",
        help="also show the differences between final checkpoints of A's series, which were trained on the same data "
        "in different orders",
    )
    parser.add_argument(
        "--length", type=int, default=128, help="tokens in each row that the text is cut into (default: 128)"
    )
    parser.add_argument("--one-at-a-time", action="store_true", help="load one model at a time (float32, on the CPU)")
    add_text(parser)
    add_texts(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """A table for each part, with the rows that differ most."""
    finals = _finals(args.a) if args.noise_floor else []
    a, b = full_id(args.a), full_id(args.b)
    origin: dict[str, object] = {"A": a, "B": b}
    makers = {"weights": partial(_weights_sections, finals)}
    if set(args.only) - {"weights"}:  # weights are read from files, so they need no loaded model
        pair = _pair(args, finals)
        origin |= {"dtype": pair.dtype, "tokens": pair.texts.tokens}
        origin |= {"texts": args.texts} if args.texts else {"text": args.text or "the built-in page"}
        makers |= {"predictions": partial(_predictions_sections, pair), "attention": partial(_attention_sections, pair)}
    sections = [section for part in PARTS if part in args.only for section in makers[part](args)]
    if finals:
        origin["noise floor"] = ", ".join(final.id for final in finals)
    return Report(f"{a} (A) and {b} (B)", sections, provenance(args, origin))


@dataclass(frozen=True)
class ModelPair:
    """Two models (or their names), and the texts on which they are compared.

    Attributes:
        a, b: the models or names.
        texts: the set, or a single text.
        tokenizer: of A, which reads the texts.
        dtype: of A's weights.
        finals: checkpoints whose differences are the noise floor; empty for no noise floor.
    """

    a: ModelOrName
    b: ModelOrName
    texts: Texts
    tokenizer: PreTrainedTokenizerBase
    dtype: str
    finals: Sequence[Checkpoint]


def _pair(args: argparse.Namespace, finals: Sequence[Checkpoint]) -> ModelPair:
    """The models and the texts to compare, from the arguments."""
    if args.texts is not None and args.text is not None:
        raise WorkbenchError(f"--text {args.text} and --texts {args.texts} both name texts; give one of them")
    if args.one_at_a_time:
        if args.dtype or args.quantize or args.device != "cpu":
            raise WorkbenchError(
                "--one-at-a-time loads in float32 on the CPU; leave out --dtype, --device and --quantize"
            )
        tokenizer = required_tokenizer(tokenizer_of(checkpoints.locate(args.a)), args.a)
        return ModelPair(args.a, args.b, _texts_to_compare(args, tokenizer), tokenizer, suited_dtype(), finals)
    a, b = opened_checkpoint(args, args.a), opened_checkpoint(args, args.b)
    return ModelPair(
        a.model, b.model, _texts_to_compare(args, a.tokenizer), a.tokenizer, dtype_name(a.model.dtype), finals
    )


def _texts_to_compare(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> Texts:
    """The set that --texts names; without it, the text of --text as one row."""
    if args.texts is not None:
        return Texts.read(args.texts, tokenizer, args.text_column, args.label, cut=args.cut)
    return Texts(ids_of(tokenizer, text_or_sample(args.text))[None])


def _finals(checkpoint: str) -> Sequence[Checkpoint]:
    """The final checkpoints of a checkpoint's series, which differ in data order only. Errors: WorkbenchError if there
    are fewer than two."""
    name, _ = split_id(checkpoint)
    found = checkpoints.finals(checkpoints.series(name))
    if len(found) < 2:
        raise WorkbenchError(f"--noise-floor needs checkpoints that differ only by data order; {name} has {len(found)}")
    return found


def _predictions_sections(pair: ModelPair, args: argparse.Namespace) -> list[Section]:
    """Two sections: mean measures over all tokens and over those of each label; the tokens whose loss differs most."""

    def compared(a: ModelOrName, b: ModelOrName, some: Texts, progress: Progress | None = None) -> Measures:
        return compare_behaviour(a, b, some, window=args.length, tokenizer=pair.tokenizer, progress=progress)

    found = by_label(lambda some, told: compared(pair.a, pair.b, some, told), pair.texts, bar(args))
    is_set, means = args.texts is not None, {label: behaviour_summary(one) for label, one in found.items()}
    summary = table_by_label(means).rename(columns={"name": "measure", "value": "mean"})
    summary = summary if is_set else summary.drop(columns="texts")
    summary["unit"] = [measure.unit for one in found.values() for measure in one.values()]
    if pair.finals:
        floors = by_label(
            lambda some, told: noise_floor(
                pair.finals, lambda a, b: behaviour_summary(compared(a, b, some)), progress=told
            ),
            pair.texts,
            bar(args),
        )
        summary["noise floor"] = np.concatenate([floor.values for floor in floors.values()])
    note = (
        "Means over the tokens of the text. loss_a, loss_b: loss of A, of B; loss_difference: loss of B minus loss of "
        "A; kl, js: divergence of the two distributions; overlap: share of the ten likeliest tokens that both have in "
        "common; flip: share of positions where the likeliest next token differs."
    )
    note += " The standard errors are over texts." if is_set else ""
    results = {"means" if label == ALL else f"means of {label}": one for label, one in means.items()}
    return [Section("Predictions", summary, note=note, results=results), _by_token_section(found[ALL], is_set)]


def _by_token_section(measures: Measures, is_set: bool) -> Section:
    """The tokens whose loss differs most. is_set: whether they are of several texts."""
    table = measures.table()
    shown = _furthest(table, "loss_difference")[[*(["line"] if is_set else []), "position", *SHOWN_OF_TOKENS]]
    if "label" in table:
        shown.insert(1, "token", table["label"].loc[shown.index])
    return Section(
        "Loss by token",
        table,
        [measures["loss_difference"]],
        "Negative if B predicts the token better.",
        shown=shown,
        results={"predictions": measures},
    )


def _weights_sections(finals: Sequence[Checkpoint], args: argparse.Namespace) -> list[Section]:
    """A section with the matrices that changed most, relative to their norm. The weights are read from files."""
    measures = compare_weights(args.a, args.b, progress=bar(args))
    floor = noise_floor(finals, compare_weights, progress=bar(args))["relative_change"] if finals else None
    note = "‖B − A‖ / ‖A‖ of each matrix: 0 if nothing changed, √2 for unrelated matrices of equal norm."
    return [_grid_section("Weights", measures, "relative_change", floor, note)]


def _attention_sections(pair: ModelPair, args: argparse.Namespace) -> list[Section]:
    """A section with the heads that moved the largest share of their attention weight to other tokens."""
    rows = pair.texts if args.texts is not None else rows_of(pair.texts.ids[0], args.length)
    measures, floor = compare_attention(pair.a, pair.b, rows, progress=bar(args)), None
    if pair.finals:
        floor = noise_floor(pair.finals, lambda a, b: compare_attention(a, b, rows), progress=bar(args))["moved"]
    note = (
        "moved: share of a head's weight that is on other tokens in B, 0 to 1; js: Jensen–Shannon divergence in nats."
    )
    return [_grid_section("Attention", measures, "moved", floor, note)]


def _grid_section(title: str, measures: Measures, by: str, floor: Grid | None, note: str) -> Section:
    """A section with all measures, sorted by the magnitude of the measure `by`, beside the noise floor of that measure
    if it is given."""
    table = measures.table()
    if floor is not None:
        table["noise floor"] = floor.values.ravel()
    shown = _furthest(table, by).drop(columns=["row", "column"])
    return Section(title, table, [measures[by]], note, shown, results={title.lower(): measures})


def _furthest(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The `SHOWN` rows whose value of `by` is furthest from zero."""
    return table.dropna(subset=by).sort_values(by, key=abs, ascending=False, kind="stable").head(SHOWN)
