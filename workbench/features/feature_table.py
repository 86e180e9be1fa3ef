"""`feature_table`: all features of a dictionary in a table, with what each one predicts."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.olmo import divided
from workbench.analyses.support.cost import Work, work_of
from workbench.features.births import FeatureBirths
from workbench.features.births_on_texts import MeasuredBirths
from workbench.features.card import RESIDUAL_SITES, FeatureCard
from workbench.features.dictionary import Dictionary
from workbench.features.scan import FeatureScan, of
from workbench.progress import Progress, part, steps
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, vocabulary_labels

WHAT = "effects of features"
CHUNK_BYTES = 2**27
"""The most bytes of logits in memory at a time."""
TOKENS = 4
"""The number of tokens in `raises` and in `lowers`."""


@torch.no_grad()
def feature_table(
    model: OlmoForCausalLM,
    dictionary: Dictionary,
    texts: TextsLike | FeatureScan,
    *,
    source: str | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """All features of a dictionary.

    Returns a table with one row for each feature, in their order:

    - `feature`: its number.
    - `count`, `density`: the number and the share of the tokens of the texts at which it is active.
    - `mean`, `max`: its mean activation where it is active, and its largest; 0 if it is never active.
    - `raises`, `lowers`: the tokens whose logits its direction raises and lowers most: decoder direction · unembedding
      through the final norm with its scale frozen, without effects through later layers. The scale differs between
      places, and the order of the tokens does not depend on it. Empty for a site outside the residual stream.

    `texts` may be a scan of the texts (`features.of`), with which the table takes less time. For a
    crosscoder it must be a scan, since a scan reads all of its sources; `model` is then that of the `source` whose
    directions are shown, the last if not given.

    Errors: those of `features.of`, and WorkbenchError for an unknown source.
    """
    scan = texts if isinstance(texts, FeatureScan) else of(model, texts, dictionary, progress=part(progress, 0.0, 0.8))
    effects = logit_effects(model, dictionary, source=source, tokenizer=tokenizer, progress=part(progress, 0.8, 1.0))
    return pd.DataFrame(
        {
            "feature": range(len(scan)),
            "count": scan.counts.numpy(),
            "density": scan.density.double().numpy(),
            "mean": (scan.total / scan.counts.clamp_min(1)).numpy(),
            "max": scan.peak.double().numpy(),
            "raises": effects["raises"],
            "lowers": effects["lowers"],
        }
    )


@torch.no_grad()
def logit_effects(
    model: OlmoForCausalLM,
    dictionary: Dictionary,
    *,
    source: str | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The tokens whose logits each feature raises and lowers most: the columns `feature`, `raises` and `lowers` of
    `feature_table`. Of a crosscoder, those of its directions in `source`, whose model is given; the last if not given.

    Errors: WorkbenchError for an unknown source.
    """
    if not reaches_logits(dictionary):
        raises = lowers = [""] * len(dictionary)
    else:
        raises, lowers = _effects(model, directions_in(dictionary, source), tokenizer, progress)
    return pd.DataFrame({"feature": range(len(dictionary)), "raises": raises, "lowers": lowers})


def directions_in(dictionary: Dictionary, source: str | None = None) -> Tensor:
    """What each feature writes: feature d_model; of a crosscoder, in a source of it, the last if not given."""
    if not dictionary.sources:
        return dictionary.directions
    return dictionary.directions[:, -1 if source is None else dictionary.source(source)]


def with_effects(table: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """A table of features, in its order, with the columns `raises` and `lowers` of `logit_effects`."""
    found = table.merge(effects, on="feature", how="left")
    found.attrs = dict(table.attrs)  # merging drops them
    return found


@work_of(logit_effects)
def _effects_work(model: OlmoForCausalLM, dictionary: Dictionary, **_: object) -> Work:
    if not reaches_logits(dictionary):
        return Work(0)
    return Work(2 * len(dictionary) * model.config.hidden_size * model.config.vocab_size, nbytes=CHUNK_BYTES)


@work_of(feature_table)
def _work(model: OlmoForCausalLM, dictionary: Dictionary, _: object, **__: object) -> Work:
    return _effects_work(model, dictionary)


def examples(card: FeatureCard, name: str = "") -> pd.DataFrame:
    """The examples of a card: a row for each, with its text before, at and after the place; the first column is the
    name of the feature, if it has one."""
    found = card.table()
    if name:
        found.insert(0, "name", name)
    return found


def with_names(table: pd.DataFrame, names: Mapping[int, str]) -> pd.DataFrame:
    """The table of features with a column `name` (see `features.names_of`); empty for those that have none."""
    return table.assign(name=[names.get(feature, "") for feature in table["feature"]])


def with_births(table: pd.DataFrame, born: FeatureBirths) -> pd.DataFrame:
    """The table of features of a crosscoder with the columns `born` and `died`, the steps; empty (NaN) for never.

    Births on texts add `born scaled`, the step of birth after latent scaling, `family`, and `density REVISION`, the
    share of tokens at which each source fires (see `MeasuredBirths`).
    """
    found = table.assign(born=born.born[table["feature"]], died=born.died[table["feature"]])
    if not isinstance(born, MeasuredBirths):
        return found
    more = born.table().iloc[table["feature"]].reset_index(drop=True)
    kept = ["born scaled", "family", *(name for name in more if str(name).startswith("density "))]
    return pd.concat([found.reset_index(drop=True), more[kept]], axis=1)


def reaches_logits(dictionary: Dictionary) -> bool:
    """Whether what a dictionary writes is added to the residual stream, which the final norm and unembedding read."""
    return dictionary.writes.rpartition(".")[2] in RESIDUAL_SITES


def read_by_logits(model: OlmoForCausalLM, directions: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """What directions of the residual stream add to all logits, for a scale of the final norm: … d_model -> … vocab."""
    whole = torch.as_tensor(scale, device=model.device, dtype=torch.float32)
    unembedding = model.get_output_embeddings().weight
    read = divided(model.model.norm, directions.to(model.device).float(), whole)
    return (read.to(unembedding.dtype) @ unembedding.T).float()


def _effects(
    model: OlmoForCausalLM, directions: Tensor, tokenizer: Tokenizer | None, progress: Progress | None
) -> tuple[list[str], list[str]]:
    """The tokens that each direction (feature d_model) raises and lowers, as two lists of texts."""
    found: tuple[list[int], list[int]] = [], []
    most, rows = min(TOKENS, model.config.vocab_size), max(1, CHUNK_BYTES // (4 * model.config.vocab_size))
    for some in steps(directions.split(rows), progress, WHAT):
        logits = read_by_logits(model, some)
        for sign, ids in zip((1, -1), found, strict=True):
            ids += (sign * logits).topk(most).indices.flatten().tolist()
    labels = [vocabulary_labels(ids, tokenizer) for ids in found]
    raises, lowers = ([" · ".join(all_[n : n + most]) for n in range(0, len(all_), most)] for all_ in labels)
    return raises, lowers
