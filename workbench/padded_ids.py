"""Token ids and masks of texts, batch pos: their checks, and padding on the right."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.errors import WorkbenchError

ID_DTYPES = (torch.int64, torch.int32)


def nested_rows(rows: Sequence[Any]) -> Sequence[Any]:
    """A list of rows; a flat list of ids becomes one row."""
    return [rows] if rows and isinstance(rows[0], int) else rows


def one_row(one: Tensor, number: int) -> Tensor:
    """The ids of text `number` of a sequence as pos; 1 pos is accepted too."""
    if not isinstance(one, Tensor):
        raise WorkbenchError(f"text {number} is {one!r:.60}; it should be a LongTensor of token ids")
    row = one[0] if one.ndim == 2 and len(one) == 1 else one
    if row.ndim != 1:
        raise WorkbenchError(f"text {number} has the shape {tuple(one.shape)}; it should be pos, the ids of one text")
    return row


def stacked(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of any lengths as (ids, mask), batch pos each, padded on the right."""
    if not rows:
        raise WorkbenchError("there are no texts")
    for row in rows:
        check_ids(row[None])
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([row.to(rows[0].device).long() for row in rows], batch_first=True)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def check_ids(ids: Tensor) -> None:
    if not isinstance(ids, Tensor) or ids.dtype not in ID_DTYPES:
        what = ids.dtype if isinstance(ids, Tensor) else repr(ids)[:60]
        raise WorkbenchError(f"tokens are {what}; they should be a LongTensor of token ids")
    if ids.ndim != 2:
        raise WorkbenchError(f"tokens have {ids.ndim} dimensions {tuple(ids.shape)}; they should be batch pos, or pos")
    if 0 in ids.shape:
        raise WorkbenchError(f"there are {ids.shape[1]} tokens in {ids.shape[0]} texts; give at least one text")


def as_mask(mask: Tensor, ids: Tensor) -> Tensor:
    """The mask as booleans. Errors: WorkbenchError if it has another shape than `ids`, or values other than 0 and 1."""
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        what = tuple(mask.shape) if isinstance(mask, Tensor) else repr(mask)[:60]
        raise WorkbenchError(f"the mask is {what}; it should have the shape of the ids, {tuple(ids.shape)}")
    return booleans(mask).to(ids.device)


def booleans(mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise WorkbenchError("the mask has values other than 1 (a token) and 0 (padding)")
    return mask.bool()


def padded_right(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask padded on the right: tokens first, then 0, with as many columns as the longest row has tokens."""
    counts = mask.sum(1)
    if not counts.all():
        raise WorkbenchError(f"text {int(counts.argmin())} has no tokens: its mask is 0 everywhere")
    starts = mask.int().argmax(1)  # the first token of each row
    width = int(counts.max())
    place = torch.arange(width, device=ids.device)
    there = place < counts[:, None]
    columns = (starts[:, None] + place).clamp_max(ids.shape[1] - 1)
    if not mask.gather(1, columns)[there].all():
        raise WorkbenchError(
            "the mask has padding between the tokens of a text; padding should come before or after a text"
        )
    return ids.gather(1, columns).where(there, 0), there
