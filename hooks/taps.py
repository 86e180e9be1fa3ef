"""The captures and edits of one call.

A `Taps` is made for one call and passed down to the layers. At each site the forward pass runs
`x = tap("attn.q", x)`, which applies the edits in the order given and then records what a `Capture` selects.
A layer without captures and edits uses an `Untapped`, whose call returns its argument.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .after_edit import after_edit
from .call_taps import Taps
from .capture_and_edit import Capture, Edit
from .errors import WrongValue
from .sites import position_axis
from .where import head_numbers, heads_of, index_into, is_by_text

__all__ = ["UNTAPPED", "AllSeen", "Capture", "Edit", "Tap", "Taps", "Untapped", "tap_at"]


class AllSeen(Exception):
    """Ends a forward pass made with `captures_only` once every captured site is recorded."""


class Untapped:
    """The tap where nothing is captured or edited."""

    grad = False

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return x

    def wants(self, *names: str) -> bool:
        """False: no site is captured or edited."""
        return False

    changes = wants


class Tap:
    """The taps of one call at one block (or, with an empty prefix, outside the blocks)."""

    def __init__(self, taps: Taps, prefix: str = "") -> None:
        self.taps, self.prefix = taps, prefix
        self.grad, self.shards = taps.grad, taps.shards

    def wants(self, *names: str) -> bool:
        """Whether any of these sites is captured or edited."""
        kept = (self.taps.captures, self.taps.read)
        return self.changes(*names) or any(self.prefix + name in sites for name in names for sites in kept)

    def changes(self, *names: str) -> bool:
        """Whether any of these sites is edited."""
        return any(self.prefix + name in self.taps.edits for name in names)

    def __call__(self, name: str, x: Tensor, present: Sequence[int] | None = None) -> Tensor:
        """`x`, the tensor at site `name`, after its edits; the capture of this site, if any, is recorded.

        Args:
            present: the positions that x holds; None means all new positions.
        """
        site = self.prefix + name
        changes, capture = self.taps.edits.get(site), self.taps.captures.get(site)
        if changes is None and capture is None and site not in self.taps.read:
            return x
        present = self.taps.present if present is None else present
        whole = x if self.shards is None else self.shards.whole(x, self.taps.sites[site])
        for change in changes or ():
            whole = after_edit(self.taps, site, whole, change, present)
        starts_graph = self.grad and capture is not None and not whole.requires_grad  # only frozen weights before it
        if starts_graph:
            whole = whole.detach().requires_grad_()
        if starts_graph or changes is not None:
            x = whole if self.shards is None else self.shards.share(whole, like=x)
        if site in self.taps.read:
            self.taps.read[site] = whole
        if capture is not None:
            self._keep(site, self._selected(site, whole, capture, present), capture)
        return x

    def capture(self, name: str) -> Capture:
        """The capture at site `name`, which must be captured."""
        return self.taps.captures[self.prefix + name]

    def rows(self, capture: Capture, present: Sequence[int] | None = None) -> list[int]:
        """Indices into `present` (None: all new positions) of the positions that a capture selects in any text."""
        present = self.taps.present if present is None else present
        rows = self.taps.numbers(capture.rows, self.taps.strict)
        named = sorted({position for row in rows for position in row}) if is_by_text(capture.rows) else rows[0]
        return [present.index(position) for position in named if position in present]

    def heads(self, capture: Capture, n_heads: int, device: torch.device) -> Tensor:
        """The heads to compute for a capture: the selected heads, or all heads of this process if heads are sharded."""
        numbers = None if self.shards is not None else head_numbers(capture.heads, n_heads, device)
        return torch.arange(n_heads, device=device) if numbers is None else numbers

    def reduced(self, capture: Capture, n_keys: int, pattern: Tensor, rows: Sequence[int]) -> Tensor:
        """`capture.reduce` of one chunk of pattern rows: stat batch head query. The whole pattern has `n_keys` keys."""
        assert capture.reduce is not None
        present = self.taps.present
        # A sliding-window cache may have dropped its first keys; a static cache has unused entries at its end.
        first_key = max(0, present.stop - n_keys)
        keys = torch.arange(first_key, first_key + pattern.shape[-1], device=pattern.device)
        queries = torch.tensor([present[row] for row in rows], dtype=torch.long, device=pattern.device)
        return capture.reduce(pattern, queries, keys)

    def record(self, name: str, x: Tensor, head_axis: int) -> None:
        """Keep `x`, which holds only the captured rows and heads; if heads are sharded, all heads of this process."""
        capture, site = self.capture(name), self.prefix + name
        if self.shards is not None:
            n_heads = self.taps.sites.sizes["head"]
            x = self.shards.gathered(x, head_axis, n_heads)
            if (heads := head_numbers(capture.heads, n_heads, x.device)) is not None:
                x = x.index_select(head_axis, heads)
        self._keep(site, self._of_each_text(site, x, capture, self.taps.present), capture)

    def _keep(self, site: str, x: Tensor, capture: Capture) -> None:
        x = x if self.grad else x.detach()
        self.taps.recorded[site] = x.to(device=capture.device or x.device, dtype=capture.dtype or x.dtype)
        if self.taps.captures_only and len(self.taps.recorded) == len(self.taps.captures):
            raise AllSeen

    def _selected(self, site: str, x: Tensor, capture: Capture, present: Sequence[int]) -> Tensor:
        """The selected heads and positions of x, the whole tensor at a site, reduced if the capture has `reduce`."""
        shape = self.taps.sites[site]
        rows = None if capture.rows is None else torch.tensor(self.rows(capture, present), device=x.device).long()
        index = index_into(x, shape, heads_of(x, shape, capture.heads), rows)
        x = x if index is None else x[index]
        if capture.reduce is not None:
            x = self.reduced(capture, x.shape[-1], x, self.rows(capture))
        return self._of_each_text(site, x, capture, present)

    def _of_each_text(self, site: str, x: Tensor, capture: Capture, present: Sequence[int]) -> Tensor:
        """The positions that a capture selects in each text, out of x, which holds those of all texts together."""
        if not is_by_text(capture.rows):
            return x
        shape = self.taps.sites[site] if capture.reduce is None else "stat batch head query"
        held = {present[row]: n for n, row in enumerate(self.rows(capture, present))}
        rows = self.taps.numbers(capture.rows, self.taps.strict)
        found = [[held[position] for position in row if position in held] for row in rows]
        if len({len(row) for row in found}) > 1:
            raise WrongValue(
                f"at {site!r} this forward pass contains more of the selected positions for some texts than for others"
            )
        spread = [1] * x.dim()
        axis = position_axis(shape)
        spread[shape.split().index("batch")], spread[axis] = len(found), len(found[0])
        return x.take_along_dim(torch.tensor(found, dtype=torch.long, device=x.device).view(spread), axis)


def tap_at(taps: Taps | None, layer: int | None = None) -> Tap | Untapped:
    """The tap at one block, or outside the blocks (None); `UNTAPPED` if nothing is captured or edited there."""
    if taps is None or layer not in taps.looked_at:
        return UNTAPPED
    return Tap(taps, "" if layer is None else f"blocks.{layer}.")


UNTAPPED = Untapped()
