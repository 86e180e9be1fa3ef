"""The numbers of a metric's value by name: each name is a line of curves along a run."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from workbench.analyses.support.by_label import ALL
from workbench.analyses.support.heads import head_name
from workbench.errors import WorkbenchError
from workbench.results import Curves, Estimated, Grid, Measures, Scores

Value = float | Tensor | np.ndarray | Mapping[str, float] | Scores | Grid | Curves
"""Return type of a metric: a number, one for each layer, one for each layer and head, or numbers by name; or a result
that contains such numbers.
"""


class Estimate(NamedTuple):
    """One number of a metric: its standard error over texts, NaN if it has none, and the number of those texts."""

    value: float
    error: float = math.nan
    texts: int = 0


def named_estimates(value: Value, name: str) -> dict[str, Estimate]:
    """A metric's value as numbers by name. Each name becomes a line of the curves.

    Errors: WorkbenchError for a value of another form.
    """
    if isinstance(value, Measures):
        raise WorkbenchError(f"{name} returns several measures, but a metric needs one of them: {', '.join(value)}")
    if isinstance(value, Mapping):
        return {str(key): Estimate(float(number)) for key, number in value.items()}
    if isinstance(value, Estimated):
        errors = np.full(value.values.shape, math.nan) if value.errors is None else value.errors
        each = (one.ravel().tolist() for one in (value.values, errors, value.texts_of_values()))
        return dict(zip(_value_names(value, name), map(Estimate, *each), strict=True))
    numbers = np.asarray(value.detach().float().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    if numbers.ndim == 0:
        return {name: Estimate(float(numbers))}
    if numbers.ndim == 1:
        return {f"layer {layer}": Estimate(number) for layer, number in enumerate(numbers.tolist())}
    if numbers.ndim == 2:
        return {head_name(*index): Estimate(float(number)) for index, number in np.ndenumerate(numbers)}
    raise WorkbenchError(
        f"{name} has shape {numbers.shape}; it should be one number, one for each layer, or one for each layer and head"
    )


def _value_names(value: Estimated, name: str) -> list[str]:
    """The names of a result's values, in their order. The mean of all texts has the metric's name if it is alone."""
    if isinstance(value, Scores):
        return [name] if value.names == (ALL,) else list(value.names)
    if isinstance(value, Curves):
        points = value.x_labels or [f"{x:g}" for x in value.x]
        several = len(value.lines) > 1
        return [f"{line}, {point}" if several else point for line in value.lines for point in points]
    assert isinstance(value, Grid)
    heads = value.row_name == "layer" and "head" in value.column_name
    join = head_name if heads else (lambda row, column: f"{row}, {column}")
    return [join(row, column) for row in value.rows for column in value.columns]
