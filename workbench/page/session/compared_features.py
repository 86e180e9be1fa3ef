"""The features of a dictionary in two checkpoints: the calls that compare them, and the table of the result."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.errors import WorkbenchError
from workbench.features import scan
from workbench.features.compare_firing import ALIKE, compare_firing
from workbench.features.compare_sources import compare_sources
from workbench.features.feature_table import logit_effects, with_effects
from workbench.page.session.arguments import ModelOf, ModelsOf, TextsOf, TokenizerOf, TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import cached_value
from workbench.page.session.calls import Call
from workbench.page.session.dictionaries import NONE_FITS, DictionaryOf, why_not
from workbench.progress import Progress, part

FIRING = {
    "feature": ("#", "count"),
    "raises": ("raises most in B", "words"),
    "only": ("only in", "mark"),
    "density_a": ("active in A", "percent"),
    "density_b": ("in B", "percent"),
    "density_change": ("B − A", "change"),
    "density_floor": ("by data order", "percent"),
}
SIZES = {
    "feature": ("#", "count"),
    "raises": ("raises most in B", "words"),
    "only": ("only in", "mark"),
    "density": ("active at", "percent"),
    "size_a": ("size in A", "size"),
    "size_b": ("in B", "size"),
    "size_floor": ("by data order", "size"),
    "refit_a": ("refit A", "size"),
    "refit_b": ("refit B", "size"),
    "in_reconstruction": ("written by others", "size"),
}
FIRING_NOTE = (
    "The share of tokens at which each feature is active in A and in B, and the largest difference that data order "
    "alone makes. The features that differ most beyond it come first."
)
SIZES_NOTE = (
    "Size: the mean norm of what each feature writes in A and in B, relative to the spread of the activations there. "
    "Refit: this size, fitted to the activations themselves. A feature is not new if its refit is large in both, or if "
    "the last column is near 1: then other features write it in the checkpoint where its size is smaller."
)


@dataclass(frozen=True)
class FeaturePair:
    """Two checkpoints to compare, the name of the dictionary, and the text or texts that they read.

    `finals` are the checkpoints that differ by data order only; of a crosscoder, those among its sources.
    """

    a: str
    b: str
    dictionary: str
    texts: TextsOf | TokensOf
    finals: tuple[str, ...]


def pair_of_features(bench: Bench, a: str, b: str, name: str, texts: TextsOf | TokensOf) -> FeaturePair:
    """The pair with the dictionary `name`; if it is empty, with a crosscoder that was trained on both, else with the
    first dictionary that fits.

    Errors: WorkbenchError if none fits, or the named one does not.
    """
    name = name or dictionary_for_pair(bench, a, b)
    found = bench.dictionary(name)
    if (why := why_not(bench, (a, b), found)) is not None:
        raise WorkbenchError(f"{name} is not used for {a} and {b}: {why}")
    finals = tuple(one.id for one in bench.finals(bench.series_of(a)))
    if found.sources:
        finals = tuple(one for one in finals if one in found.sources)
    return FeaturePair(a, b, name, texts, finals if len(finals) > 1 else ())


def dictionary_for_pair(bench: Bench, a: str, b: str) -> str:
    """The name of the dictionary to compare with: a crosscoder that was trained on both, else one of B, else of A, else
    any that fits; sparse autoencoders before transcoders. Errors: WorkbenchError if none fits."""
    ranks = {}
    for name in bench.dictionaries:
        found = bench.dictionary(name)
        if why_not(bench, (a, b), found) is None:
            ranks[name] = (bool(found.sources), found.model == b, found.model == a, found.kind == "SAE", len(found))
    if not ranks:
        raise WorkbenchError(NONE_FITS)
    return max(ranks, key=lambda name: ranks[name])


def scans_of(pair: FeaturePair) -> dict[str, Call]:
    """The scans that `compare_firing` reads, by checkpoint."""
    dictionary = DictionaryOf(pair.a, pair.dictionary)
    return {name: Call.of(scan.of, ModelOf(name), pair.texts, dictionary) for name in (pair.a, pair.b, *pair.finals)}


def comparison(bench: Bench, pair: FeaturePair) -> Call:
    """The table of all features in both checkpoints, with the tokens that each raises in B."""
    dictionary, sources = DictionaryOf(pair.a, pair.dictionary), bench.dictionary(pair.dictionary).sources
    if sources:
        models = ModelsOf(pair.a, sources)
        finals = {"finals": pair.finals} if pair.finals else {}
        found = Call.of(compare_sources, models, pair.texts, dictionary, pair.a, pair.b, **finals)
        source = {"source": pair.b}
    else:
        scans, source = scans_of(pair), {}
        found = Call.quick(compare_firing, scans[pair.a], scans[pair.b], tuple(scans[name] for name in pair.finals))
    effects = Call.of(logit_effects, ModelOf(pair.b), dictionary, **source, tokenizer=TokenizerOf(pair.b))
    return Call.quick(with_effects, found, effects)


def to_compute(bench: Bench, pair: FeaturePair) -> list[Call]:
    """The calls with a price that are not in the result cache: the scans, or the whole comparison of a crosscoder."""
    whole = comparison(bench, pair)
    if bench.results.get(whole) is not None:
        return []
    if bench.dictionary(pair.dictionary).sources:
        return [whole]
    scans = [call for call in scans_of(pair).values() if bench.results.get(call) is None]
    return [*scans, whole.arguments[1]]


def compared_features(bench: Bench, pair: FeaturePair, progress: Progress | None = None) -> pd.DataFrame:
    """The value of `comparison`. The scans are computed one after the other, so that one model is needed at a time."""
    parts = [call for call in to_compute(bench, pair) if call.function is scan.of]
    for number, call in enumerate(parts):
        cached_value(call, bench, part(progress, number / (len(parts) + 1), (number + 1) / (len(parts) + 1)))
    return cached_value(comparison(bench, pair), bench, progress if not parts else None)


def table_value(bench: Bench, pair: FeaturePair, whole: pd.DataFrame) -> dict[str, Any]:
    """The value of the table (see text_table.js)."""
    columns = SIZES if bench.dictionary(pair.dictionary).sources else FIRING
    shown = whole[[name for name in columns if not (name.endswith("_floor") and whole[name].isna().all())]]
    cells = shown.astype(object).where(shown.notna(), None).to_numpy().tolist()
    return {
        "summary": compared_summary(bench, pair, whole),
        "columns": [columns[name] for name in shown],
        "rows": [[row[0], *row] for row in cells],
        "search": "Token, or number",
        "act": "Open its card",
        "of": pair.dictionary,
        "label": "table of features in two checkpoints",
    }


def compared_summary(bench: Bench, pair: FeaturePair, whole: pd.DataFrame) -> str:
    """How many features are beyond the floor, and in one checkpoint only; what the dictionary was trained on."""
    found = bench.dictionary(pair.dictionary)
    told = [f"{pair.dictionary}: {found.kind} of {len(found):,} features."]
    if pair.finals:
        told += [
            f"{int((whole['beyond'] > 0).sum()):,} of them differ by more than between any two of the "
            f"{len(pair.finals)} final checkpoints, which differ in data order only."
        ]
    else:
        told += ["No noise floor: there are no two final checkpoints that differ in data order only."]
    if found.sources:
        only = [int((whole["only"] == name).sum()) for name in "AB"]
        return " ".join([*told, f"In A only: {only[0]:,}; in B only: {only[1]:,}. It was trained on both checkpoints."])
    active_a, active_b = whole.attrs["active_a"], whole.attrs["active_b"]
    told += [f"{active_a:.1f} features are active at a token of A, {active_b:.1f} at one of B."]
    own = [name for name in (pair.a, pair.b) if name != found.model]
    if own and found.model:
        told += [f"It was trained on {found.model}; here it also reads {' and '.join(own)}."]
    if max(active_a, active_b) > ALIKE * min(active_a, active_b):
        told += [
            "These two numbers are far apart, so the dictionary does not fit one of the checkpoints, and no feature is "
            "marked as being in one only. Choose a crosscoder that was trained on both."
        ]
        return " ".join(told)
    only = [int((whole["only"] == name).sum()) for name in "AB"]
    return " ".join([*told, f"In A only: {only[0]:,}; in B only: {only[1]:,}."])
