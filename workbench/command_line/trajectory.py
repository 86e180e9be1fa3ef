"""Measure metrics at every checkpoint of a training run."""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from workbench import checkpoints, metrics
from workbench.analyses.support.by_label import ALL
from workbench.analyses.trajectory import CACHE, Metric, trajectory
from workbench.checkpoints import Checkpoint
from workbench.checkpoints.loading import suited_dtype, tokenizer_of
from workbench.command_line.common import (
    add_loading_arguments,
    add_text,
    add_texts,
    bar,
    ids_of,
    loading,
    positive,
    provenance,
    required_tokenizer,
    rows_of,
    text_or_sample,
)
from workbench.errors import WorkbenchError
from workbench.report import Report, Section
from workbench.results import Curves
from workbench.texts import Texts

EXAMPLES = """
  python -m workbench trajectory tiny-olmo
  python -m workbench trajectory tiny-olmo --metrics loss induction --csv run.csv --html run.html
  python -m workbench trajectory tiny-olmo --texts tiny-olmo/repeats --metrics loss
  python -m workbench trajectory allenai/OLMo-2-0425-1B --checkpoints 12 --axis tokens --dtype bfloat16
"""


METRICS: dict[str, Callable[[Texts], Metric]] = {
    "loss": metrics.held_out_loss,
    "previous": lambda texts: metrics.head_scores(texts, "previous"),
    "induction": lambda texts: metrics.head_scores(texts, "induction"),
    "sinks": lambda texts: metrics.head_scores(texts, "first"),
    "norms": metrics.residual_norms,
    "rank": metrics.effective_rank,
    "change": lambda texts: metrics.weight_change(),
}
BY_HEAD = (
    "previous",
    "induction",
    "sinks",
)  # metrics with a line for each head; the summary has the head with the highest peak
BY_LAYER = ("norms", "rank")  # metrics with a line for each layer; the summary has the last layer
LINES = 8  # lines that are listed and heads that are drawn, those with the highest peaks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: a series, metrics, and a text."""
    parser.add_argument("series", metavar="SERIES", help="tiny-olmo, a folder of step folders, or a hub repository")
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=METRICS,
        default=list(METRICS),
        metavar="METRIC",
        help=f"metrics to measure: {', '.join(METRICS)} (default: all)",
    )
    parser.add_argument(
        "--axis", choices=["step", "tokens"], default="step", help="horizontal axis of the plots (default: step)"
    )
    parser.add_argument(
        "--checkpoints",
        type=int,
        metavar="N",
        help="measure only N checkpoints, evenly spaced in log(step) (default: all)",
    )
    parser.add_argument(
        "--length", type=int, default=128, help="tokens in each row that the text is cut into (default: 128)"
    )
    parser.add_argument("--workers", type=positive, default=1, help="number of processes (default: 1)")
    parser.add_argument(
        "--cache",
        default=os.fspath(CACHE),
        metavar="FOLDER",
        help="folder of the result cache; `none` switches the cache off",
    )
    add_text(parser)
    add_texts(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """A table with a row for each checkpoint and a column for each metric. Files and the page hold all lines."""
    found = checkpoints.series(args.series)
    series = checkpoints.main_run(found)
    if args.checkpoints is not None:
        series = checkpoints.pick(series, args.checkpoints)
    tokenizer = required_tokenizer(tokenizer_of(checkpoints.locate(series[-1])), args.series)
    texts = _texts_to_measure(args, tokenizer)
    measured = {name: METRICS[name](texts) for name in args.metrics}
    curves = {name: _curves_of(series, metric, args) for name, metric in measured.items()}
    sections = [Section("At each checkpoint", by_checkpoint(series, curves, args.axis), note=found.note)]
    sections += [
        Section(
            f"{curve.value_name[0].upper()}{curve.value_name[1:]}",
            curve.table(),
            [evenly(highest(curve, LINES) if name in BY_HEAD else curve, args.axis)],
            measured[name].note,
            shown=_highest_by_checkpoint(curve, args.axis),
            page_only=True,
            results={name: curve},
        )
        for name, curve in curves.items()
    ]
    origin = {"series": args.series, "checkpoints": len(series), "first": series[0].id, "last": series[-1].id}
    origin |= {
        "dtype": args.dtype or suited_dtype(args.device, args.quantize),
        "rows": repr(texts),
    }
    origin |= {"texts": args.texts} if args.texts else {"text": args.text or "the built-in page"}
    origin |= {name: value for curve in curves.values() for name, value in curve.provenance.items()}
    return Report(f"{args.series} along its training", sections, provenance(args, origin))


def _texts_to_measure(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> Texts:
    """The set of --texts, or the rows that a text is cut into. Errors: WorkbenchError if both are given."""
    if args.texts is None:
        return Texts(rows_of(ids_of(tokenizer, text_or_sample(args.text)), args.length))
    if args.text is not None:
        raise WorkbenchError(f"--text {args.text} and --texts {args.texts} both name texts; give one of them")
    return Texts.read(args.texts, tokenizer, args.text_column, args.label, cut=args.cut)


def _curves_of(series: list[Checkpoint], metric: Metric, args: argparse.Namespace) -> Curves:
    return trajectory(
        series,
        metric,
        axis=args.axis,
        loading=loading(args),
        cache=None if args.cache in ("none", "") else args.cache,
        executor="serial" if args.workers == 1 else "loky",
        workers=min(args.workers, len(series)),
        progress=bar(args),
    )


def by_checkpoint(series: list[Checkpoint], curves: dict[str, Curves], axis: str) -> pd.DataFrame:
    """A row for each checkpoint and a column for each metric: of the head with the highest peak, of the last layer, or
    of the only line. For labelled texts, a metric that is one number also has a column for each label.
    """
    table = pd.DataFrame({"revision": [c.revision or c.id for c in series], axis: [c.place(axis) for c in series]})
    for name, curve in curves.items():
        if name in BY_HEAD:
            best = highest(curve, 1)
            table[f"{name} {best.lines[0]}"] = best.values[0]
        elif name in BY_LAYER:
            table[f"{name} L{curve.lines[-1]}"] = curve.values[-1]
        else:
            table[name] = curve.values[0]
            labels = curve.lines[1:] if curve.lines[0] == ALL else ()
            table = table.assign(**{f"{name} {label}": curve.values[n] for n, label in enumerate(labels, 1)})
    return table


def highest(curves: Curves, count: int) -> Curves:
    """The `count` lines with the highest peaks, highest first."""
    peaks = np.nan_to_num(curves.values, nan=-np.inf).max(1)
    order = np.argsort(-peaks, kind="stable")[:count]
    errors = None if curves.errors is None else curves.errors[order]
    texts = np.array(curves.texts)[order] if np.ndim(curves.texts) else curves.texts
    lines = [curves.lines[n] for n in order]
    return replace(curves, values=curves.values[order], errors=errors, texts=texts, lines=lines)


def evenly(curves: Curves, axis: str) -> Curves:
    """The curves with checkpoints at equal distances, so that early ones, which are close together, stay distinct."""
    places = [f"{x:,.0f}" for x in curves.x] if axis == "step" else [f"{x / 1e6:,.0f} M" for x in curves.x]
    return replace(curves, x=range(len(curves.x)), x_labels=places, x_name=f"{axis} (not to scale)")


def _highest_by_checkpoint(curves: Curves, axis: str) -> pd.DataFrame:
    """A row for each checkpoint and a column for each of the `LINES` highest lines."""
    top = highest(curves, LINES)
    return pd.DataFrame({axis: top.x_labels} | dict(zip(top.lines, top.values, strict=True)))
