"""`Capture` and `Edit`: what a caller asks one call to record and to change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .errors import WrongValue
from .where import Chosen, Field, Places

Value: TypeAlias = Tensor | Mapping[str, Tensor] | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Capture:
    """A site (or glob) to record, and which part of it: only the selected part is kept.

    Scores, patterns and per-head results are also computed for this part only, unless they are edited or the run keeps
    gradients.

    Args:
        site: a site name or a glob.
        heads: heads to record, at sites with a head axis (key/value heads at `attn.k`, `.v` and `.rot_k`): numbers
            (negative ones count from the last head), a mask with one bool for each head, or a slice. None means all.
        positions: positions to record, counted in the whole sequence, in the same forms. Numbers [batch, n] select
            different positions for each text; the captured tensor is then batch n … None means all.
        queries: query rows to record at `attn.scores` and `attn.pattern`; the same as `positions` at these sites.
        dtype: dtype of the captured tensor; None keeps its dtype.
        device: device of the captured tensor; None keeps its device.
        reduce: for `attn.pattern` only: a function of (pattern: batch head query key, queries: query, keys: key) that
            returns stat batch head query, where queries and keys are positions in the whole sequence. It is called
            for one chunk of query rows at a time, so that the whole pattern is never in memory (unless the pattern is
            edited or the run keeps gradients); a chunk may leave out the keys after its last query. See
            `HeadStatistics`.

    Raises:
        WrongValue: both `queries` and `positions` are given, or the positions are a mask for each text.
    """

    site: str
    heads: Field = Field()
    positions: Field = Field()
    queries: Field = Field()
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    reduce: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.queries is not None and self.positions is not None:
            raise WrongValue("queries and positions both select query positions; give only one of them")
        if isinstance(self.rows, Places) and self.rows.mask and self.rows.by_text:
            raise WrongValue("a mask for each text may select unequal numbers of positions; use numbers, [batch, n]")

    @property
    def rows(self) -> Chosen:
        """The selected positions: `queries` if given, else `positions`."""
        return self.positions if self.queries is None else self.queries


@dataclass(frozen=True, eq=False)
class Edit:
    """A change at a site (or glob): the selected heads and positions are replaced by `function(selected)`.

    Edits are usually built with `hooks.edits`.

    Args:
        site: a site name or a glob.
        function: returns a new tensor of the same shape and dtype as its first argument, and must not change this
            argument in place. It is called as `function(selected)`, or as `function(selected, value)` with a `value`.
        heads: numbers (negative ones count from the last head), a mask with one bool for each head, or a slice. None
            means all.
        positions: positions in the whole sequence, in the same forms, or for each text: numbers [batch, n] or a mask
            [batch, pos]. With positions for each text, `selected` is batch n … If the masks select different numbers
            of positions, `selected` is padded to the largest number; the function's results for padding are discarded.
            None means all.
        value: the second argument of `function`. A tensor is converted to the dtype and device of `selected` and cut to
            the positions of this forward pass. A mapping from site names to captured tensors (for instance a `Run`)
            supplies the same site, heads and positions. A function gives the tensor of the whole site for the token
            ids of the sequence so far (batch pos); it is called in each forward pass.
        reads: another site, which the forward pass reaches before this one; not a glob. `function` is then called as
            `function(selected, read)`, with the activation of that site at the same positions, after its own edits.
            Such an edit has no heads and no value.

    Raises:
        WrongValue: `reads` is given with heads or a value.
    """

    site: str
    function: Callable[..., Tensor]
    heads: Field = Field()
    positions: Field = Field()
    value: Value = None
    reads: str | None = None

    def __post_init__(self) -> None:
        if self.reads is not None and (self.heads is not None or self.value is not None):
            raise WrongValue(f"an edit that reads {self.reads!r} takes neither heads nor a value; leave them out")
