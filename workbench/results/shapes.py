"""The shapes of results: Grid, Maps, Scores, Curves and Points."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from workbench.results.labelled import Estimated, Labelled
from workbench.results.values import (
    Names,
    Values,
    check_positive,
    check_shape,
    count,
    frozen_array,
    label_column,
    labels,
)


@dataclass(frozen=True, eq=False, repr=False)
class Grid(Estimated):
    """Numbers in rows × columns, with an optional text in each cell.

    Attributes:
        values: row column.
        rows, columns: labels.
        row_name, column_name: names of the two axes.
        text: a string for each cell, row column; or None.
        log: True to colour by the logarithm; all values must then be positive.
    """

    values: Values  # row column
    rows: Names
    columns: Names
    row_name: str = field(default="layer", kw_only=True)
    column_name: str = field(default="position", kw_only=True)
    text: Values | None = field(default=None, kw_only=True)
    log: bool = field(default=False, kw_only=True)  # positive numbers

    def __post_init__(self) -> None:
        values, rows, columns = frozen_array(self.values), labels(self.rows), labels(self.columns)
        check_shape(values, (len(rows), len(columns)), f"{count(rows, 'row')} and {count(columns, 'column')}")
        text = None
        if self.text is not None:
            text = np.array(self.text, dtype=object)
            check_shape(text, values.shape, f"{count(rows, 'row')} and {count(columns, 'column')}", what="texts")
            text.setflags(write=False)
        if self.log:
            check_positive(values)
        self._keep(values=values, rows=rows, columns=columns, text=text)
        self._keep_errors(f"{count(rows, 'row')} and {count(columns, 'column')}")

    def table(self) -> pd.DataFrame:
        """One row for each cell: the indices `row` and `column`, their labels, `value`, `standard_error` and `texts` if
        known, and `text` if cells have texts.

        Labels that are all whole numbers (layers, heads) become integers.
        """
        row, column = (index.ravel() for index in np.indices(self.values.shape))
        table = pd.DataFrame({"row": row, "column": column})
        table[self.row_name] = label_column(self.rows)[row]
        table[self.column_name] = label_column(self.columns)[column]
        table["value"] = self.values.ravel()
        table = self._with_errors(table)
        if self.text is not None:
            table["text"] = self.text.ravel()
        return table

    def rank(self, largest: bool = True) -> pd.DataFrame:
        """The table sorted by value, largest first (smallest first with `largest=False`), without undefined values."""
        table = self.table().dropna(subset="value")
        return table.sort_values("value", ascending=not largest, kind="stable", ignore_index=True)


@dataclass(frozen=True, eq=False, repr=False)
class Maps(Labelled):
    """Attention of several heads, with the tokens.

    Attributes:
        values: head query key.
        heads: labels of the heads.
        tokens: labels of the key positions.
        queries: positions of the query rows; None means all positions.
    """

    values: Values  # head query key
    heads: Names
    tokens: Names  # one for each key position
    queries: tuple[int, ...] | Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        values, heads, tokens = frozen_array(self.values), labels(self.heads), labels(self.tokens)
        queries = tuple(range(len(tokens))) if self.queries is None else tuple(int(q) for q in self.queries)
        outside = [q for q in queries if not 0 <= q < len(tokens)]
        if outside:
            raise ValueError(f"query positions {outside} are outside a text of {count(tokens, 'token')}")
        there = f"{count(heads, 'head')}, {len(queries)} query positions and {count(tokens, 'token')}"
        check_shape(values, (len(heads), len(queries), len(tokens)), there)
        self._keep(values=values, heads=heads, tokens=tokens, queries=queries)

    def table(self) -> pd.DataFrame:
        """One row for each head, query and key, where key ≤ query: positions and tokens of both, and `value`."""
        seen = np.arange(len(self.tokens)) <= np.array(self.queries)[:, None]  # query key
        row, key = (np.tile(index, len(self.heads)) for index in seen.nonzero())
        query = np.array(self.queries)[row]
        tokens = np.array(self.tokens, dtype=object)
        head = np.array(self.heads, dtype=object).repeat(seen.sum())
        table = pd.DataFrame({"head": head, "query": query, "key": key})
        table["query_token"], table["key_token"] = tokens[query], tokens[key]
        table["value"] = self.values[:, seen].ravel()
        return table


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Estimated):
    """Named numbers. `total` is the expected sum of a decomposition; None if the numbers are not parts of a sum."""

    values: Values  # name
    names: Names
    total: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        values, names = frozen_array(self.values), labels(self.names)
        check_shape(values, (len(names),), count(names, "name"))
        if np.ndim(self.value_when_equal):
            equal = tuple(float(value) for value in self.value_when_equal)
            check_shape(np.array(equal), (len(names),), count(names, "name"), what="values when equal")
            self._keep(value_when_equal=equal)
        self._keep(values=values, names=names)
        self._keep_errors(count(names, "name"))

    def table(self) -> pd.DataFrame:
        """One row for each name, in order: `name`, `value`, and `standard_error` and `texts` if known."""
        return self._with_errors(pd.DataFrame({"name": self.names, "value": self.values}))

    def top(self, n: int) -> "Scores":
        """The `n` numbers with the largest absolute value, in descending order of it; NaN counts as 0."""
        order = np.argsort(-np.abs(np.nan_to_num(self.values)), kind="stable")[:n]
        equal = np.broadcast_to(self.value_when_equal, self.values.shape)[order]
        return dataclasses.replace(
            self,
            values=self.values[order],
            names=[self.names[i] for i in order],
            value_when_equal=equal,
            errors=None if self.errors is None else self.errors[order],
            texts=np.array(self.texts)[order] if np.ndim(self.texts) else self.texts,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Curves(Estimated):
    """Named lines over a common axis.

    Attributes:
        values: line x.
        lines: names of the lines.
        x: the points of the axis.
        x_name: name of the axis.
        x_labels: a label for each point of the axis, or None.
        ordered: True if the lines have an order (layers, steps).
        surprisal: True if a value is −log probability in nats, so that exp(−value) is a probability.
        log_x: True for a logarithmic axis.
        log_y: True for a logarithmic scale of the values, which must then be positive.
    """

    values: Values  # line x
    lines: Names
    x: Values
    x_name: str = field(default="position", kw_only=True)
    x_labels: Names | None = field(default=None, kw_only=True)
    ordered: bool = field(default=False, kw_only=True)  # of the lines: layers, steps
    surprisal: bool = field(default=False, kw_only=True)  # −log probability in nats: exp(−value) is a probability
    log_x: bool = field(default=False, kw_only=True)
    log_y: bool = field(default=False, kw_only=True)  # positive numbers

    def __post_init__(self) -> None:
        values, lines, x = frozen_array(self.values), labels(self.lines), frozen_array(self.x)
        there = f"{count(lines, 'line')} and {len(x)} points on the axis"
        check_shape(values, (len(lines), len(x)), there)
        if self.x_labels is not None:
            self._keep(x_labels=labels(self.x_labels))
            check_shape(np.empty(len(self.x_labels)), (len(x),), f"{len(x)} points on the axis", what="labels")
        if self.log_y:
            check_positive(values)
        self._keep(values=values, lines=lines, x=x)
        self._keep_errors(there)

    def table(self) -> pd.DataFrame:
        """One row for each point of a line: `line`, the axis, `label` if any, `value`, and `standard_error` and `texts`
        if known.
        """
        line, point = (index.ravel() for index in np.indices(self.values.shape))
        table = pd.DataFrame({"line": np.array(self.lines, dtype=object)[line], self.x_name: self.x[point]})
        if self.x_labels is not None:
            table["label"] = np.array(self.x_labels, dtype=object)[point]
        table["value"] = self.values.ravel()
        return self._with_errors(table)

    def grid(self, line_name: str = "line") -> Grid:
        """The same numbers as a heat map: line × point of the axis. `line_name` is what the lines are: "layer"."""
        return Grid(
            self.values,
            self.lines,
            [f"{x:g}" for x in self.x] if self.x_labels is None else self.x_labels,
            row_name=line_name,
            column_name=self.x_name,
            title=self.title,
            value_name=self.value_name,
            unit=self.unit,
            signed=self.signed,
            as_percent=self.as_percent,
            value_when_equal=self.value_when_equal,
            provenance=self.provenance,
            errors=self.errors,
            texts=self.texts,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Points(Labelled):
    """Labelled points in two or three dimensions.

    Attributes:
        values: point axis.
        names: labels of the points.
        axes: names of the two or three axes.
        colour: a number for each point, shown as its colour; or None.
        colour_name: name of these numbers.
        shares: the share of the variance of all points along each axis, or None.
        share_errors: the standard error of each share over texts; None if none is known.
        texts: the number of texts that the points come from, or None.
    """

    values: Values  # point axis
    names: Names
    axes: Names
    colour: Values | None = field(default=None, kw_only=True)  # point
    colour_name: str = field(default="position", kw_only=True)
    shares: Values | None = field(default=None, kw_only=True)  # axis
    share_errors: Values | None = field(default=None, kw_only=True)  # axis
    texts: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        values, names, axes = frozen_array(self.values), labels(self.names), labels(self.axes)
        if len(axes) not in (2, 3):
            raise ValueError(f"points must have two or three axes, not {len(axes)}: {', '.join(axes)}")
        check_shape(values, (len(names), len(axes)), f"{count(names, 'point')} and {len(axes)} axes")
        if self.colour is not None:
            self._keep(colour=frozen_array(self.colour))
            check_shape(self.colour, (len(names),), count(names, "point"), what="colours")
        for name in ("shares", "share_errors"):
            if getattr(self, name) is not None:
                self._keep(**{name: frozen_array(getattr(self, name))})
                check_shape(getattr(self, name), (len(axes),), f"{len(axes)} axes", what=name.replace("_", " of "))
        self._keep(values=values, names=names, axes=axes)

    def table(self) -> pd.DataFrame:
        """One row for each point: `name`, a column for each axis, and a column for `colour` if given."""
        table = pd.DataFrame({"name": self.names})
        for axis, name in enumerate(self.axes):
            table[name] = self.values[:, axis]
        if self.colour is not None:
            table[self.colour_name] = self.colour
        return table


Result = Grid | Maps | Scores | Curves | Points
LABELS: Mapping[type, tuple[str, ...]] = {
    Grid: ("rows", "columns", "row_name", "column_name"),
    Maps: ("heads", "tokens", "queries"),
    Scores: ("names",),
    Curves: ("lines", "x", "x_name", "x_labels"),
    Points: ("names", "axes", "values", "colour", "colour_name"),
}
"""The fields that say what the values of each shape are about. Points are about the values on their own axes."""

Shape = TypeVar("Shape", bound=Result)


def same_labels(one: Result, other: Result) -> bool:
    """Whether two results have the same shape and labels."""
    return type(one) is type(other) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in LABELS[type(one)]
    )
