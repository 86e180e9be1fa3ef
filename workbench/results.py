"""Results of analyses: frozen, labelled shapes that check their arguments and can be exported as a table.

Values are given as a tensor, an array or a list, and stored as a read-only float32 array on the CPU. NaN means "not
defined" (for example, the loss on the token after the last one). Labels are plain text; plots and pages escape them.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self, TypeVar, cast

import numpy as np
import pandas as pd
import torch

from workbench.deferred import deferred
from workbench.result_files import Storable

Values = np.ndarray | Any  # the constructor also takes a tensor, and anything that `np.array` takes
Names = tuple[str, ...] | Any  # the constructor takes a sequence of objects and applies `str`


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


def change(after: Shape, before: Shape) -> Shape:
    """The change of a result, after − before, cell by cell: for example of an edited model from the unedited one.

    Texts of cells are those of `after`. A value is NaN where either is undefined. Totals are subtracted too; standard
    errors are left out.

    Errors: ValueError if the two differ in shape or labels, or are Points, whose axes are not comparable.
    """
    if not _alike(after, before) or isinstance(after, Points):
        raise ValueError(f"{after!r} and {before!r} cannot be subtracted: they differ in shape or labels")
    others: dict[str, Any] = {name: False for name in ("log", "log_y", "surprisal") if hasattr(after, name)}
    others |= {"errors": None} if isinstance(after, Estimated) else {}
    if isinstance(after, Scores) and isinstance(before, Scores) and None not in (after.total, before.total):
        others["total"] = float(after.total or 0) - float(before.total or 0)
    return dataclasses.replace(
        after,
        values=after.values - before.values,
        title=f"{after.title} (change)",
        value_name=f"change of {after.value_name}",
        signed=True,
        value_when_equal=0.0,
        **others,
    )


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
            if not _alike(measure, first):
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
            text = getattr(measure, "text", None)
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


def _alike(one: Result, other: Result) -> bool:
    """Whether two results have the same shape and labels."""
    return type(one) is type(other) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in LABELS[type(one)]
    )


def _frame(measure: Result) -> pd.DataFrame:
    return measure.table().drop(columns=["value", "text", "standard_error", "texts"], errors="ignore")


def without_errors(result: Shape) -> Shape:
    """A copy without standard errors and numbers of texts, for values that are computed from those of the result."""
    if isinstance(result, Estimated):
        return cast(Shape, dataclasses.replace(result, errors=None, texts=None))
    return result


def frozen_array(values: Values) -> np.ndarray:
    """A read-only float32 copy on the CPU. A read-only float32 array with its own data is not copied."""
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    is_own = isinstance(values, np.ndarray) and values.dtype == np.float32 and values.flags.owndata
    if is_own and not values.flags.writeable:
        return values
    array = np.array(values, dtype=np.float32)
    array.setflags(write=False)
    return array


def labels(names: Sequence[object]) -> tuple[str, ...]:
    """Labels as a tuple of strings: `str` of each name."""
    return tuple(str(name) for name in names)


def label_column(names: Sequence[str]) -> np.ndarray:
    """Labels as a table column: integers if all labels are whole numbers (layers, heads), otherwise text."""
    whole = all(name.isascii() and name.isdecimal() for name in names)
    return np.array([int(name) for name in names]) if whole else np.array(names, dtype=object)


def count(things: Sequence[object], singular: str) -> str:
    """The number of things with the noun in its right form: "1 row", "3 rows"."""
    return f"{len(things)} {singular}{'' if len(things) == 1 else 's'}"


def check_shape(array: np.ndarray, expected: tuple[int, ...], there: str, what: str = "values") -> None:
    """Raise ValueError unless the array has the expected shape; `there` describes that shape in the message."""
    if array.shape != expected:
        raise ValueError(f"{what} are {array.shape} but there are {there}")


def check_positive(array: np.ndarray) -> None:
    """Raise ValueError unless all defined numbers are positive, as a logarithmic scale requires."""
    if np.nanmin(array, initial=1.0) <= 0:
        raise ValueError(f"a logarithmic scale cannot show {np.nanmin(array):g}")
