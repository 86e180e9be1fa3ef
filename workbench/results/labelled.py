"""What all shapes of results share: title, names, units, provenance, and standard errors over texts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from workbench.deferred import deferred
from workbench.result_files import Storable
from workbench.results.values import Values, check_shape, frozen_array


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Labelled(Storable):
    """Fields and methods that all shapes of results share.

        result.table()              # a tidy DataFrame
        result.plot()               # a plotly figure; a notebook shows it for a line `result` at the end of a cell
        result.save("result.npz")   # with its provenance; `load_result("result.npz")` reads it

    Attributes:
        title: a heading for plots and tables.
        value_name: name of the values, for example "loss".
        unit: unit of the values, for example "nats"; "" for none.
        signed: True if zero is the centre of the scale.
        as_percent: True if the values are probabilities, which plots write as percentages.
        value_when_equal: the value of a comparison when both sides are equal: 0 for a difference, 1 for a similarity,
            NaN for a value that is not a comparison. `Scores` may have one for each name.
        provenance: the origin of the values (checkpoint, revision, dtype, seed, tokens, versions); written to every
            export.
        values: the numbers; their shape depends on the class.
    """

    title: str = ""
    value_name: str = "value"
    unit: str = ""
    signed: bool = False
    as_percent: bool = False
    value_when_equal: Any = 0.0  # a number; for `Scores` also a sequence, one number for each name
    provenance: Mapping[str, Any] = field(default_factory=dict)
    values: Values

    @property
    def value_label(self) -> str:
        """The name of the values with their unit: "loss (nats)"."""
        return f"{self.value_name} ({self.unit})" if self.unit else self.value_name

    def plot(self) -> Any:  # noqa: ANN401 - a figure of plotly, which only `workbench.plots` imports
        """The plotly figure of the result: `workbench.plot(result)`. Errors: TypeError if it has no plot."""
        return deferred("plot")(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Mapping[str, Any]:
        """The figure, for a notebook; outside of a notebook, nothing."""
        return self.plot()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        shape = " × ".join(str(n) for n in self.values.shape)
        return f"<{type(self).__name__} {self.title!r}: {shape} of {self.value_label}>"

    def _keep(self, **values: object) -> None:
        """Set fields of the frozen instance; for `__post_init__` only."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Estimated(Labelled):
    """Fields of results whose values may be means over a set of texts.

    Attributes:
        errors: standard errors of the values, of the same shape; NaN where there is none. None if none is known.
        texts: the number of texts that the values are means over; None if the values are no such means. Also one number
            for each name, line or row, or one for each value.
    """

    errors: Values | None = None
    texts: Any = None

    def _keep_errors(self, there: str) -> None:
        """Check and freeze the errors and the numbers of texts; `there` describes the shape of the values."""
        if self.errors is not None:
            self._keep(errors=frozen_array(self.errors))
            check_shape(self.errors, self.values.shape, there, what="errors")
        if np.ndim(self.texts):
            numbers = np.array(self.texts, dtype=int)
            check_shape(numbers, self.values.shape[: numbers.ndim], there, what="numbers of texts")
            each = numbers.tolist()
            self._keep(texts=tuple(tuple(row) if isinstance(row, list) else row for row in each))

    def _with_errors(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with one row for each value, with `standard_error` and `texts` where they are known."""
        if self.errors is not None:
            table["standard_error"] = self.errors.ravel()
        if self.texts is not None:
            table["texts"] = self.texts_of_values().ravel()
        return table

    def texts_of_values(self) -> np.ndarray:
        """The number of texts of each value, in the shape of the values; 0 if it is not known."""
        numbers = np.array(self.texts or 0)
        spread = numbers[..., *(None,) * (self.values.ndim - numbers.ndim)]
        return np.broadcast_to(spread, self.values.shape)
