"""`compare_firing`: which features of a dictionary are active in one checkpoint and not in another.

scan_a, scan_b, *finals = [features.of(model, texts, sae) for model in models]
table = features.compare_firing(scan_a, scan_b, finals)
table[table["only"] == "A"]
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.features.scan import FeatureScan

TIMES = 10
"""A feature is active in one checkpoint only if its density there is this many times that in the other, or more."""
LEAST = 10
"""And if it is active at this many tokens there, or more."""
ALIKE = 2
"""No feature is said to be active in one only if the mean numbers of active features differ by more than this factor.
"""


def compare_firing(a: FeatureScan, b: FeatureScan, finals: Sequence[FeatureScan] = ()) -> pd.DataFrame:
    """How much each feature of a dictionary is active in A and in B, beside the differences that data order makes.

    `a`, `b` and `finals` are scans of the same texts with the same dictionary by different models (`features.of`). The
    models of `finals` differ only by seed or data order.

    Returns a table with one row for each feature:

    - `feature`: its number.
    - `density_a`, `density_b`: the share of the tokens at which it is active; `density_change` is B − A.
    - `density_floor`: the largest difference of the density between any two of the `finals`.
    - `mean_a`, `mean_b`: its activation, mean over all tokens, 0 where it is not active; `mean_change` is B − A.
    - `mean_floor`: the largest difference of that mean between any two of the `finals`.
    - `beyond`: |density_change| − density_floor; above 0 if data order alone did not make so large a difference.
    - `only`: "A" if it is active in A and not in B by this rule: its density in A is at least `TIMES` that in B, it is
      active at `LEAST` tokens of A or more, and `beyond` is above 0. "B" for the reverse, else "".

    Its `attrs` hold `active_a` and `active_b`, the mean number of active features of a token.

    The rows with the largest `beyond` come first. The floors and `beyond` are undefined (NaN) with fewer than two
    `finals`; `only` then follows from the densities alone. Three finals give three pairs, which is only a rough bound.

    A dictionary describes the model that it was trained on. In a model that is far from it, many features are active
    where they describe nothing. So `only` is left empty if `active_a` and `active_b` differ by more than a factor of
    `ALIKE`. Use a crosscoder that was trained on both then (`compare_sources`).

    Errors: WorkbenchError if the scans differ in their texts or in their number of features.
    """
    _check_same_texts([a, b, *finals])
    tokens = a.texts.tokens
    table = pd.DataFrame({"feature": range(len(a))})
    for name, of in (("density", lambda scan: scan.counts.double()), ("mean", lambda scan: scan.total)):
        table[f"{name}_a"], table[f"{name}_b"] = (of(scan).numpy() / tokens for scan in (a, b))
        table[f"{name}_change"] = table[f"{name}_b"] - table[f"{name}_a"]
        table[f"{name}_floor"] = largest_difference([of(scan) / tokens for scan in finals], len(a)).numpy()
    table["beyond"] = table["density_change"].abs() - table["density_floor"]
    active_a, active_b = (len(scan.value) / tokens for scan in (a, b))
    table["only"] = ""
    if max(active_a, active_b) <= ALIKE * min(active_a, active_b):
        beyond = ~(table["beyond"] <= 0)
        table.loc[beyond & is_only(a.counts, b.counts).numpy(), "only"] = "A"
        table.loc[beyond & is_only(b.counts, a.counts).numpy(), "only"] = "B"
    table = beyond_first(table, "density_change")
    table.attrs = {"active_a": active_a, "active_b": active_b}
    return table


def beyond_first(table: pd.DataFrame, change: str) -> pd.DataFrame:
    """The rows with the largest `beyond` first; where that is undefined, those with the largest |change|."""
    by = table["beyond"].where(table["beyond"].notna(), table[change].abs())
    return table.loc[by.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)


def is_only(here: Tensor, there: Tensor) -> Tensor:
    """Whether features are active here and not there by the rule of `compare_firing`, given both counts: feature."""
    return (here >= LEAST) & (here >= TIMES * there)


def largest_difference(values: Sequence[Tensor], features: int) -> Tensor:
    """The largest difference between any two of several values of each feature: feature; NaN with fewer than two."""
    if len(values) < 2:
        return torch.full((features,), float("nan"), dtype=torch.float64)
    found = torch.stack(list(values)).double()
    return found.amax(0) - found.amin(0)


def _check_same_texts(scans: Sequence[FeatureScan]) -> None:
    first = scans[0]
    for scan in scans[1:]:
        if len(scan) != len(first):
            raise WorkbenchError(f"one scan is of {len(first):,} features, and another one of {len(scan):,}")
        if not (torch.equal(scan.texts.ids, first.texts.ids) and torch.equal(scan.texts.mask, first.texts.mask)):
            raise WorkbenchError(
                f"the scans are of different texts, or of different tokens: {first!r} and {scan!r}; scan the same "
                "texts, and compare checkpoints that have the same tokenizer"
            )
