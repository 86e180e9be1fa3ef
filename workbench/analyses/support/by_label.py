"""An analysis of a labelled set of texts: of all of them, and of those of each label."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor

from workbench.analyses.support.means import MeansOverTexts, means_of
from workbench.progress import Progress, part
from workbench.results import Measures, Result, Scores
from workbench.texts import Texts

ALL = "all texts"
Found = TypeVar("Found", bound=Result | Measures[Any])


def by_label(
    analysis: Callable[[Texts, Progress | None], Found], texts: Texts, progress: Progress | None = None
) -> dict[str, Found]:
    """The result of an analysis for all texts (`all texts`), and for the texts of each label, if there are labels.

        found = by_label(lambda some, progress: ablation(model, some, progress=progress), texts)
        found["singular"], found["all texts"]
        table_by_label(found)      # one table, with the column `label`

    Each result is that of the analysis with those texts alone, with the number of texts and standard errors over them.
    """
    groups = {ALL: texts} | ({} if texts.labels is None else texts.by_label())
    share = 1 / len(groups)
    return {
        label: analysis(some, part(progress, n * share, (n + 1) * share))
        for n, (label, some) in enumerate(groups.items())
    }


def means_by_label(texts: Texts, sums: Tensor, counts: Tensor | float = 1.0) -> Scores:
    """The mean Σ sums / Σ counts of all texts, and that of the texts of each label, with standard errors over texts.

    sums, counts: text; see `MeansOverTexts`.
    """
    groups = {ALL: range(len(texts))} | ({} if texts.labels is None else texts.rows_by_label())
    whole = torch.as_tensor(counts, dtype=torch.float64).expand(sums.shape)
    means = [MeansOverTexts() for _ in groups]
    for mean, rows in zip(means, groups.values(), strict=True):
        mean.add(sums[list(rows)], whole[list(rows)])
    values, errors = means_of(means)
    return Scores(values, list(groups), errors=errors, texts=[len(rows) for rows in groups.values()])


def table_by_label(found: Mapping[str, Any]) -> pd.DataFrame:
    """The tables of results by label as one table, with the column `label` first if there are several results."""
    tables = {label: one.table() for label, one in found.items()}
    if len(tables) == 1:
        return next(iter(tables.values()))
    return pd.concat([t.assign(label=label)[["label", *t]] for label, t in tables.items()], ignore_index=True)
