"""One edit applied at one site: select, call the function, check its result, write it back."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .call_taps import Taps
from .capture_and_edit import Edit
from .compat import changes_of
from .errors import WrongType, WrongValue
from .resolved import ResolvedEdit
from .sites import position_axis
from .where import Places, heads_of, index_into, is_by_text, put


def after_edit(taps: Taps, site: str, x: Tensor, change: ResolvedEdit, present: Sequence[int]) -> Tensor:
    """x after one edit at one site: select, call the function, check its result, write it back."""
    shape = taps.sites[site]
    axis = position_axis(shape)
    value = change.value if change.of_ids is None else _of_ids(taps, site, change.of_ids)
    value = None if value is None else value.to(device=x.device, dtype=x.dtype)
    n_rows = None  # length of the position axis of the value; None if there is no such axis, or its length is 1
    if value is not None and value.dim() == x.dim() and (change.whole or value.shape[axis] != 1):
        n_rows = value.shape[axis]
    heads, rows = heads_of(x, shape, change.heads), None
    if n_rows is not None or change.edit.positions is not None:
        table = _table_of_rows(taps, site, change, present, n_rows)
        if table.shape[-2] == 0:
            return x
        rows, of_value = table.to(x.device).unbind(-1)  # which row, which value: n each, or text n
        if value is not None and n_rows is not None:
            value = _rows_of(site, value, shape, heads if change.whole else None, of_value)
        if rows.dim() == 1 and table[:, 0].tolist() == list(range(len(present))):
            rows = None
    index = index_into(x, shape, heads, rows)
    selected = x if index is None else x[index]
    if change.reads is not None:
        value = _read(taps, change.reads, rows)
    new = _called(site, change.edit, selected, value)
    if index is None:
        return new
    return put(x, index, new, index[axis] >= 0 if rows is not None and rows.dim() == 2 else None)


def _of_ids(taps: Taps, site: str, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The tensor of a whole site that an edit computes from the token ids."""
    if taps.ids is None:
        raise WrongValue(
            f"an edit of {site!r} needs the token ids of the whole sequence, and this forward pass does not know "
            "them: it starts from a stored residual stream, or its texts are padded on the left"
        )
    return function(taps.ids)


def _read(taps: Taps, site: str, rows: Tensor | None) -> Tensor:
    """What this forward pass has at another site, at rows n, or text n; None for all rows."""
    found = taps.read[site]
    assert found is not None, f"{site} is reached first"
    index = index_into(found, taps.sites[site], None, rows)
    return found if index is None else found[index]


def _table_of_rows(taps: Taps, site: str, change: ResolvedEdit, present: Sequence[int], n_rows: int | None) -> Tensor:
    """The positions that an edit changes in this forward pass: n 2, or text n 2 (padded with -1) if texts differ.

    The last axis holds an index into `present` and the matching row of the edit's value, which has `n_rows` rows.
    Row i belongs to the i-th selected position. If no positions are given, if they are a mask for each text, or if
    the value is the whole site of another run, row i belongs to position i of the sequence.
    """
    positions, total = change.edit.positions, taps.present.stop
    by_text = is_by_text(positions)
    masks = by_text and isinstance(positions, Places) and positions.mask
    in_order = not (change.whole or positions is None or masks)
    rows = taps.numbers(positions, change.strict)
    if n_rows is not None and in_order and n_rows != len(rows[0]):
        raise WrongValue(
            f"the value for {site!r} has {n_rows} positions, but {len(rows[0])} are selected; "
            "edits.patch takes the selected positions from a whole run"
        )
    if n_rows is not None and not in_order and change.strict and n_rows != total:
        hint = "; select the positions with positions=" if positions is None and not change.whole else ""
        raise WrongValue(f"the value for {site!r} has {n_rows} positions, but the sequence has {total}{hint}")
    end = total if n_rows is None or in_order else n_rows
    found = [
        [(present.index(p), n if in_order else p) for n, p in enumerate(row) if p in present and p < end]
        for row in rows
    ]
    width = max(map(len, found))
    filled = [row + [(-1, -1)] * (width - len(row)) for row in found]
    table = torch.tensor(filled, dtype=torch.long).view(len(rows), width, 2)
    return table if by_text else table[0]


def _rows_of(site: str, value: Tensor, shape: str, heads: Tensor | None, rows: Tensor) -> Tensor:
    """Selected heads and rows of an edit's value, which is shaped like its site; rows: n, or text n if texts differ."""
    if rows.dim() == 2:
        if value.shape[0] not in (1, len(rows)):
            raise WrongValue(
                f"the value for {site!r} has {value.shape[0]} texts, but there are positions for {len(rows)}"
            )
        value = value.expand(len(rows), *value.shape[1:])
    return value[index_into(value, shape, heads, rows)]


def _called(site: str, edit: Edit, selected: Tensor, value: Tensor | None) -> Tensor:
    """The result of the edit's function for `selected`, after checking its type, shape and dtype."""
    # Inference tensors have no version counter: the function gets a copy, which is compared with the original.
    argument = selected.clone() if selected.is_inference() else selected
    before = changes_of(argument)
    try:
        new = edit.function(argument) if value is None else edit.function(argument, value)
    except RuntimeError as error:
        if value is None or isinstance(error, torch.OutOfMemoryError):
            raise
        raise WrongValue(f"a value of shape {tuple(value.shape)} does not fit {site!r}: {error}") from error
    changed = not torch.equal(argument, selected) if before is None else changes_of(argument) != before
    if changed:
        raise WrongValue(f"an edit of {site!r} changed its argument in place; return a new tensor")
    if not isinstance(new, Tensor):
        raise WrongType(f"an edit of {site!r} returned {type(new).__name__}, not a tensor")
    if new.shape != selected.shape or new.dtype != selected.dtype:
        raise WrongValue(
            f"an edit of {site!r} returned {tuple(new.shape)} {new.dtype} instead of "
            f"{tuple(selected.shape)} {selected.dtype}, the shape and dtype of its argument"
        )
    return new
