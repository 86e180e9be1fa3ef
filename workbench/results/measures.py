"""Several results with the same labels."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import pandas as pd

from workbench.result_files import Storable
from workbench.results.shapes import Grid, Result, Shape, same_labels


class Measures(Storable, Mapping[str, Shape]):
    """Several results of one shape with the same labels, as a mapping from name to result.

        atlas = head_atlas(model, tokens)
        list(atlas)                # names of the measures
        atlas["entropy"]           # one result
        atlas.table()              # one column for each measure
        atlas.rank("induction")    # the table, sorted by one measure
        atlas.plot("entropy")      # the figure of one measure
        atlas.save("atlas.npz")    # all measures in one file, for `load_result`

    A notebook shows the table.

    Errors: ValueError if a result has another shape or other labels than the first.
    """

    def __init__(self, /, **measures: Shape) -> None:
        first = next(iter(measures.values()))
        for name, measure in measures.items():
            if not same_labels(measure, first):
                raise ValueError(f"measure {name!r} does not have the shape and labels of {next(iter(measures))!r}")
        self._measures = MappingProxyType(dict(measures))

    def __getitem__(self, name: str) -> Shape:
        return self._measures[self._known(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._measures)

    def __len__(self) -> int:
        return len(self._measures)

    def __repr__(self) -> str:
        return f"Measures({', '.join(self)})"

    def table(self) -> pd.DataFrame:
        """One table: the labels, a column for each measure, `<name>_standard_error` and `texts` where they are known,
        and `<name>_text` for each distinct set of texts in cells.
        """
        table = _frame(next(iter(self.values()))).copy()
        seen: list[np.ndarray] = []
        for name, measure in self.items():
            own = measure.table()
            table[name] = own["value"]
            if "standard_error" in own:
                table[f"{name}_standard_error"] = own["standard_error"]
            if "texts" in own:
                table["texts"] = own["texts"]
            text = measure.text if isinstance(measure, Grid) else None
            if text is not None and not any(np.array_equal(text, other) for other in seen):
                table[f"{name}_text"] = text.ravel()
                seen.append(text)
        return table

    def rank(self, name: str, largest: bool = True) -> pd.DataFrame:
        """The table of all measures sorted by one of them, without the rows where that measure is undefined.

        Largest values come first; smallest first with `largest=False`.
        """
        table = self.table().dropna(subset=self._known(name))
        return table.sort_values(name, ascending=not largest, kind="stable", ignore_index=True)

    def plot(self, name: str) -> Any:  # noqa: ANN401 - as `Labelled.plot`
        """The plotly figure of one measure."""
        return self[name].plot()

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def stored_fields(self) -> Mapping[str, Any]:
        """The measures by name."""
        return self._measures

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Measures by name, as `stored_fields` gives them."""
        return cls(**fields)

    def _known(self, name: str) -> str:
        if name not in self._measures:
            raise KeyError(f"no measure {name!r}; there are {', '.join(self._measures)}")
        return name

    def with_provenance(self, provenance: Mapping[str, Any]) -> Self:
        """A copy of the measures, with these entries added to the provenance of each."""
        said: dict[str, Any] = {name: measure.with_provenance(provenance) for name, measure in self.items()}
        return type(self)(**said)


def _frame(measure: Result) -> pd.DataFrame:
    return measure.table().drop(columns=["value", "text", "standard_error", "texts"], errors="ignore")
