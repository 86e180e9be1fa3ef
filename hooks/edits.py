"""Builders of edits: what to change at a site during one call.

    model.run(ids, edits=[edits.zero("blocks.3.attn.z", heads=[1, 4]), edits.scale("blocks.*.mlp_out", 0.5)])

Each names a site or glob and optionally `heads=` and `positions=`: whole numbers, a mask (one bool for each head, or
for each position of the whole sequence), or a slice. Positions count in the whole sequence, the cached part included,
and negative ones from its end at the moment of the call. They may also differ between the texts of a batch: numbers
[batch, n], or a mask [batch, pos]. Edits compose in the order given.

A tensor argument has the shape of what is selected or one that broadcasts to it; where it has a position axis of
its own, its rows belong to the selected positions in order (without `positions=`, or with a mask for each text: to
positions 0, 1, 2, …).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .errors import WrongValue
from .taps import Edit
from .where import Where

__all__ = ["add", "apply", "clamp", "patch", "replace", "scale", "zero"]


def zero(site: str, heads: Where = None, positions: Where = None) -> Edit:
    """Set what is selected to zero."""
    return Edit(site, torch.zeros_like, heads, positions)


def scale(site: str, factor: float | Tensor, heads: Where = None, positions: Where = None) -> Edit:
    """Multiply what is selected by `factor`."""
    if isinstance(factor, Tensor):
        return Edit(site, lambda x, factor: x * factor, heads, positions, value=factor)
    return Edit(site, lambda x: x * factor, heads, positions)


def add(site: str, vector: Tensor, heads: Where = None, positions: Where = None) -> Edit:
    """Add `vector` (for instance a steering direction, [d_model]) to what is selected."""
    return Edit(site, lambda x, vector: x + vector, heads, positions, value=vector)


def replace(site: str, value: Tensor | float, heads: Where = None, positions: Where = None) -> Edit:
    """Put `value` in the place of what is selected. To take that from another run, see `patch`."""
    if not isinstance(value, Tensor):
        return Edit(site, lambda x: torch.full_like(x, value), heads, positions)
    return Edit(site, lambda x, value: value.expand_as(x), heads, positions, value=value)


def patch(site: str, run: Mapping[str, Tensor], heads: Where = None, positions: Where = None) -> Edit:
    """Put what another run captured at the site in the place of what is selected, heads and positions alike.

        clean = model.run(ids, capture="blocks.3.attn.z")
        model.run(corrupted, edits=[edits.patch("blocks.3.attn.z", clean, heads=[1], positions=-1)])

    `run` is a `Run`, or any mapping from site names to tensors; it must hold the whole site, for texts of the same
    length (in `generate` and `tapped`, positions beyond it stay as they are), and as many of them, or one for all.
    """
    return Edit(site, lambda x, value: value.expand_as(x), heads, positions, value=run)


def clamp(
    site: str, low: float | None = None, high: float | None = None, heads: Where = None, positions: Where = None
) -> Edit:
    """Limit what is selected to low … high."""
    if low is None and high is None:
        raise WrongValue("clamp needs a lower or an upper bound")
    return Edit(site, lambda x: x.clamp(low, high), heads, positions)


def apply(site: str, function: Callable[[Tensor], Tensor], heads: Where = None, positions: Where = None) -> Edit:
    """Put `function` of what is selected in its place. It returns a new tensor of the same shape and dtype."""
    return Edit(site, function, heads, positions)
