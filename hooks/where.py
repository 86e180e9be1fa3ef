"""Selections of heads and positions: the forms in which a caller may give them, and their conversion to indices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .errors import OutOfRange, WrongType, WrongValue
from .sites import HEADS, POSITIONS, axis_of

Where: TypeAlias = int | slice | Sequence[int] | Sequence[Sequence[int]] | Tensor | None
"""Whole numbers (negative ones count from the end), a mask with one bool for each head or position, a slice, or None
for all.

Positions may also be given for each text of a batch: numbers [batch, n], or, in edits only, masks [batch, pos].
"""


@dataclass(frozen=True)
class Places:
    """Heads or positions as the caller gave them, before the axis length is known.

    Attributes:
        rows: numbers or bools; one row for all texts, or one row for each text.
        mask: whether the rows are masks of bools.
        by_text: whether there is one row for each text.
    """

    rows: tuple[tuple[int, ...], ...]
    mask: bool = False
    by_text: bool = False

    def within(self, size: int, what: str, whole: str, strict: bool = True) -> list[list[int]]:
        """Each row as indices along an axis of length `size`; negative numbers are converted to count from the start.

        Args:
            size: the length of the axis.
            what: one element of the axis, for error messages, for instance "head".
            whole: the axis in words, for error messages.
            strict: numbers outside the axis and masks of another length are errors; if False, the result may contain
                indices outside the axis.
        """
        if self.mask:
            if strict and (length := len(self.rows[0])) != size:
                raise WrongValue(f"a mask of {length} {what}s does not fit {whole}: a mask needs one bool for each")
            return [[place for place, here in enumerate(row) if here] for row in self.rows]
        if strict and (outside := [number for row in self.rows for number in row if not -size <= number < size]):
            raise OutOfRange(f"{what} {outside[0]} is outside {whole}: 0 to {size - 1}, or -1 to -{size} from the end")
        return [[number + size if number < 0 else number for number in row] for row in self.rows]


Chosen: TypeAlias = Places | slice | None


def places(where: Where | Places, what: str) -> Chosen:
    """Heads or positions as `Places`, a slice or None, after the checks that need neither a model nor a text.

    Raises:
        WrongType: an element is neither a whole number nor a bool.
        WrongValue: numbers and bools are mixed, rows differ in length, or a row of more than two numbers holds only 0
            and 1, so that it looks like a mask.
    """
    if where is None or isinstance(where, slice | Places):
        return where
    given = _without_tensors(where)
    if isinstance(given, bool):
        raise WrongType(f"{what} must be whole numbers, a mask of bools, a slice or None, not {given}")
    items = [_without_tensors(item) for item in given] if _is_list(given) else [given]
    by_text = any(_is_list(item) for item in items)
    rows = tuple(_whole_numbers(item, what) for item in (items if by_text else [items]))
    kinds = {type(number) for row in rows for number in row}
    if len(kinds) > 1 or len({len(row) for row in rows}) > 1:
        raise WrongValue(f"{what} must be only numbers or only bools, in rows of equal length; got {_shown(where)}")
    if kinds == {int} and any(len(row) > 2 and set(row) <= {0, 1} for row in rows):
        raise WrongValue(f"{what} of only 0 and 1 look like a mask; give a mask as bools; got {_shown(where)}")
    return Places(rows, kinds == {bool}, by_text)


def _without_tensors(where: Any) -> Any:  # noqa: ANN401
    """Tensors and arrays as lists, their scalars as Python numbers; anything else unchanged."""
    return where.tolist() if hasattr(where, "tolist") else where


def _is_list(where: object) -> bool:
    return isinstance(where, Iterable) and not isinstance(where, str | bytes)


def _whole_numbers(numbers: Any, what: str) -> tuple[int, ...]:  # noqa: ANN401
    try:
        return tuple(number if isinstance(number, bool) else index(number) for number in map(_without_tensors, numbers))
    except TypeError:
        got = _shown(numbers)
        raise WrongType(f"{what} must be whole numbers, a mask of bools, a slice or None, not {got}") from None


def _shown(where: object) -> str:
    text = " ".join(repr(where).split())
    return text if len(text) <= 80 else f"{text[:80]}…"


class Field:
    """A dataclass field that accepts any `Where` and stores it as `Chosen`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object | None, owner: type) -> Chosen:
        return None if instance is None else vars(instance)[self.name]  # on the class: the default

    def __set__(self, instance: object, where: Where | Places) -> None:
        vars(instance)[self.name] = places(where, self.name)


def is_by_text(chosen: Chosen) -> bool:
    """Whether each text has its own row of positions."""
    return isinstance(chosen, Places) and chosen.by_text


def index_into(x: Tensor, shape: str, heads: Tensor | None, rows: Tensor | None) -> tuple[Any, ...] | None:
    """An index that selects heads and positions of x, the tensor at a site; None if everything is selected.

    Args:
        shape: the shape of x in words.
        heads: head numbers; None means all.
        rows: indices along the position axis, of shape n (the same for all texts) or batch n (for each text); None
            means all.
    """
    chosen = {
        axis: where
        for axis, word in enumerate(shape.split())
        if (where := _selection_of(word, heads, rows)) is not None
    }
    if not chosen:
        return None
    by_text = rows is not None and rows.dim() == 2
    axes = range(0 if by_text else min(chosen), max(chosen) + 1)  # torch moves separated indexed axes to the front
    index: list[Any] = [slice(None)] * axes.start
    for axis in axes:
        numbers = chosen.get(axis, torch.arange(x.shape[axis], device=x.device))
        spread = [1] * len(axes)
        spread[axis - axes.start] = numbers.shape[-1]
        if numbers.dim() == 2:
            spread[0] = len(numbers)
        index.append(numbers.view(spread))
    return tuple(index)


def _selection_of(word: str, heads: Tensor | None, rows: Tensor | None) -> Tensor | None:
    return heads if word in HEADS else rows if word in POSITIONS else None


def put(x: Tensor, index: tuple[Any, ...], new: Tensor, counts: Tensor | None = None) -> Tensor:
    """A copy of x with `new` at an index made by `index_into`.

    Args:
        counts: bools that broadcast to the index; only elements where it is True are replaced. None replaces all.
    """
    x = x.clone()
    if counts is not None:
        spread = torch.broadcast_tensors(*index)
        here = counts.expand(spread[0].shape)
        index, new = tuple(part[here] for part in spread), new[here]
    x[index] = new
    return x


def heads_of(x: Tensor, shape: str, heads: Chosen) -> Tensor | None:
    """The selected heads of x as a tensor of numbers; None means all, also where the shape has no head axis."""
    axis = axis_of(shape, *HEADS)
    return None if axis is None else head_numbers(heads, x.shape[axis], x.device)


def head_numbers(heads: Chosen, n_heads: int, device: torch.device) -> Tensor | None:
    """The selected heads as a tensor of numbers; None means all."""
    if heads is None:
        return None
    numbers = range(n_heads)[heads] if isinstance(heads, slice) else heads.rows[0]
    return torch.tensor(list(numbers), dtype=torch.long, device=device)
