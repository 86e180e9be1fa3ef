"""What analyses return: a few frozen shapes that check themselves, know their labels, and give a table.

Values are CPU float32 and read-only, whatever they were born from (tensor, array, list). NaN means "not defined
here" (say, the true next token after the last one). Labels are plain text; escaping is the business of whoever draws.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
import torch

Values = np.ndarray | Any  # at birth anything that `np.array` takes, or a tensor
Names = tuple[str, ...] | Any  # at birth a sequence of anything that prints


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Labelled:
    """What all shapes share.

    Attributes:
        value_name, unit: the name of the numbers and their unit: "loss", "nats".
        signed: zero is the centre.
        value_when_equal: the number that a comparison gives for two equal things: 0 for a difference, 1 for a
            similarity, NaN for a number that compares nothing. `Scores` may have one for each name.
        provenance: where the numbers come from (checkpoint, revision, dtype, seed, tokens, versions); in all exports.
    """

    title: str = ""
    value_name: str = "value"
    unit: str = ""
    signed: bool = False
    value_when_equal: Any = 0.0  # a number; at birth of `Scores` also a sequence of numbers
    provenance: Mapping[str, Any] = field(default_factory=dict)
    values: Values

    @property
    def value_label(self) -> str:
        """The name of the numbers with their unit: "loss (nats)"."""
        return f"{self.value_name} ({self.unit})" if self.unit else self.value_name

    def with_provenance(self, provenance: Mapping[str, Any]) -> Self:
        """The same result that also says where it comes from."""
        return dataclasses.replace(self, provenance={**self.provenance, **provenance})

    def __repr__(self) -> str:
        shape = " × ".join(str(n) for n in self.values.shape)
        return f"<{type(self).__name__} {self.title!r}: {shape} of {self.value_label}>"

    def _keep(self, **values: object) -> None:
        """Set fields of the frozen instance while it is born."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False, repr=False)
class Grid(Labelled):
    """Rows × columns of numbers, with an optional text in each cell; `log` if they are best seen by order of size."""

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

    def table(self) -> pd.DataFrame:
        """One row a cell: indices `row`, `column`; their labels; `value`, and `text` where cells have one.

        Labels that are all whole numbers (layers, heads) are given as such.
        """
        row, column = (index.ravel() for index in np.indices(self.values.shape))
        table = pd.DataFrame({"row": row, "column": column})
        table[self.row_name] = label_column(self.rows)[row]
        table[self.column_name] = label_column(self.columns)[column]
        table["value"] = self.values.ravel()
        if self.text is not None:
            table["text"] = self.text.ravel()
        return table

    def rank(self, largest: bool = True) -> pd.DataFrame:
        """The table with the largest values first (or the smallest), undefined ones left out."""
        table = self.table().dropna(subset="value")
        return table.sort_values("value", ascending=not largest, kind="stable", ignore_index=True)


@dataclass(frozen=True, eq=False, repr=False)
class Maps(Labelled):
    """Attention: head × query × key, with the tokens. `queries` are the positions of the rows; all of them if None."""

    values: Values  # head query key
    heads: Names
    tokens: Names  # one a key position
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
        """One row for each head, query and key at or before the query; tokens and positions of both."""
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
class Scores(Labelled):
    """Named numbers. `total` is what they add up to, where they do."""

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

    def table(self) -> pd.DataFrame:
        """One row a name, in order."""
        return pd.DataFrame({"name": self.names, "value": self.values})

    def top(self, n: int) -> "Scores":
        """The n numbers furthest from zero, largest first."""
        order = np.argsort(-np.abs(np.nan_to_num(self.values)), kind="stable")[:n]
        equal = np.broadcast_to(self.value_when_equal, self.values.shape)[order]
        return dataclasses.replace(
            self, values=self.values[order], names=[self.names[i] for i in order], value_when_equal=equal
        )


@dataclass(frozen=True, eq=False, repr=False)
class Curves(Labelled):
    """Named lines over one axis, with an optional standard error and optional labels of the axis's points."""

    values: Values  # line x
    lines: Names
    x: Values
    x_name: str = field(default="position", kw_only=True)
    x_labels: Names | None = field(default=None, kw_only=True)
    errors: Values | None = field(default=None, kw_only=True)  # line x
    ordered: bool = field(default=False, kw_only=True)  # the lines themselves stand in order (layers, steps)
    surprisal: bool = field(default=False, kw_only=True)  # −log probability in nats: exp(−value) is a probability
    log_x: bool = field(default=False, kw_only=True)
    log_y: bool = field(default=False, kw_only=True)  # positive numbers

    def __post_init__(self) -> None:
        values, lines, x = frozen_array(self.values), labels(self.lines), frozen_array(self.x)
        there = f"{count(lines, 'line')} and {len(x)} points on the axis"
        check_shape(values, (len(lines), len(x)), there)
        if self.errors is not None:
            self._keep(errors=frozen_array(self.errors))
            check_shape(self.errors, values.shape, there, what="errors")
        if self.x_labels is not None:
            self._keep(x_labels=labels(self.x_labels))
            check_shape(np.empty(len(self.x_labels)), (len(x),), f"{len(x)} points on the axis", what="labels")
        if self.log_y:
            check_positive(values)
        self._keep(values=values, lines=lines, x=x)

    def table(self) -> pd.DataFrame:
        """One row a point of a line: `line`, the axis, its label, `value` and its standard `error` where known."""
        line, point = (index.ravel() for index in np.indices(self.values.shape))
        table = pd.DataFrame({"line": np.array(self.lines, dtype=object)[line], self.x_name: self.x[point]})
        if self.x_labels is not None:
            table["label"] = np.array(self.x_labels, dtype=object)[point]
        table["value"] = self.values.ravel()
        if self.errors is not None:
            table["error"] = self.errors.ravel()
        return table


@dataclass(frozen=True, eq=False, repr=False)
class Points(Labelled):
    """Labelled points in two or three dimensions, with an optional number each (`colour`) to colour them by."""

    values: Values  # point axis
    names: Names
    axes: Names
    colour: Values | None = field(default=None, kw_only=True)  # point
    colour_name: str = field(default="position", kw_only=True)

    def __post_init__(self) -> None:
        values, names, axes = frozen_array(self.values), labels(self.names), labels(self.axes)
        if len(axes) not in (2, 3):
            raise ValueError(f"points have two or three axes, not {len(axes)}: {', '.join(axes)}")
        check_shape(values, (len(names), len(axes)), f"{count(names, 'point')} and {len(axes)} axes")
        if self.colour is not None:
            self._keep(colour=frozen_array(self.colour))
            check_shape(self.colour, (len(names),), count(names, "point"), what="colours")
        self._keep(values=values, names=names, axes=axes)

    def table(self) -> pd.DataFrame:
        """One row a point: `name`, a column for each axis, and the number it is coloured by."""
        table = pd.DataFrame({"name": self.names})
        for axis, name in enumerate(self.axes):
            table[name] = self.values[:, axis]
        if self.colour is not None:
            table[self.colour_name] = self.colour
        return table


Result = Grid | Maps | Scores | Curves | Points
Shape = TypeVar("Shape", bound=Result)


class Measures(Mapping[str, Shape]):
    """Several measures of the same things: results of one shape and the same labels, by name.

    A mapping: with `atlas = head_atlas(model, tokens)` there are `list(atlas)`, `atlas["entropy"]`, `atlas.table()` and
    `atlas.rank("induction")`.
    """

    def __init__(self, /, **measures: Shape) -> None:
        first = next(iter(measures.values()))
        for name, measure in measures.items():
            if type(measure) is not type(first) or not _frame(measure).equals(_frame(first)):
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
        """The labels once, and a column for each measure, with its cells' texts where they are its own."""
        table = _frame(next(iter(self.values()))).copy()
        seen: list[np.ndarray] = []
        for name, measure in self.items():
            table[name] = measure.table()["value"]
            text = getattr(measure, "text", None)
            if text is not None and not any(np.array_equal(text, other) for other in seen):
                table[f"{name}_text"] = text.ravel()
                seen.append(text)
        return table

    def rank(self, name: str, largest: bool = True) -> pd.DataFrame:
        """All measures in one table, sorted by one of them; where that one is undefined is left out."""
        table = self.table().dropna(subset=self._known(name))
        return table.sort_values(name, ascending=not largest, kind="stable", ignore_index=True)

    def _known(self, name: str) -> str:
        if name not in self._measures:
            raise KeyError(f"no measure {name!r}; there are {', '.join(self._measures)}")
        return name

    def with_provenance(self, provenance: Mapping[str, Any]) -> "Measures[Shape]":
        """The same measures that also say where they come from."""
        said: dict[str, Any] = {name: measure.with_provenance(provenance) for name, measure in self.items()}
        return Measures(**said)


def _frame(measure: Result) -> pd.DataFrame:
    return measure.table().drop(columns=["value", "text", "error"], errors="ignore")


def frozen_array(values: Values) -> np.ndarray:
    """A read-only CPU float32 copy; what is one already is taken as it is."""
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    is_own = isinstance(values, np.ndarray) and values.dtype == np.float32 and values.flags.owndata
    if is_own and not values.flags.writeable:
        return values
    array = np.array(values, dtype=np.float32)
    array.setflags(write=False)
    return array


def labels(names: Sequence[object]) -> tuple[str, ...]:
    """Labels as a tuple of strings, from anything that prints."""
    return tuple(str(name) for name in names)


def label_column(names: Sequence[str]) -> np.ndarray:
    """Labels as a column of a table: whole numbers where all of them are (layers, heads), text otherwise."""
    whole = all(name.isascii() and name.isdecimal() for name in names)
    return np.array([int(name) for name in names]) if whole else np.array(names, dtype=object)


def count(things: Sequence[object], singular: str) -> str:
    """ "1 row", "3 rows"."""
    return f"{len(things)} {singular}{'' if len(things) == 1 else 's'}"


def check_shape(array: np.ndarray, expected: tuple[int, ...], there: str, what: str = "values") -> None:
    """Raise unless the array has the shape that the labels say."""
    if array.shape != expected:
        raise ValueError(f"{what} are {array.shape} but there are {there}")


def check_positive(array: np.ndarray) -> None:
    """Raise unless all numbers have a place on a logarithmic scale."""
    if np.nanmin(array, initial=1.0) <= 0:
        raise ValueError(f"a logarithmic scale has no place for {np.nanmin(array):g}")
