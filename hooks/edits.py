"""Builders of edits: what to change at a site during one call.

    model.run(ids, edits=[edits.zero("blocks.3.attn.z", heads=[1, 4]), edits.scale("blocks.*.mlp_out", 0.5)])

Each builder takes a site name or glob and optionally `heads=` and `positions=`: whole numbers, a mask (one bool for
each head, or for each position of the whole sequence), or a slice. The functions below change only the selected heads
and positions of the activation. Positions are counted in the whole sequence, including the cached part; negative
positions count back from the end of the sequence at the time of the forward pass. Positions may differ between the
texts of a batch: numbers [batch, n], or a mask [batch, pos]. Edits compose in the order given.

A tensor argument has the shape of the selected activation, or one that broadcasts to it. If its position axis is longer
than 1, its rows belong to the selected positions in order. Without `positions=`, or with a mask for each text, its rows
belong to positions 0, 1, 2, … of the sequence.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .capture_and_edit import Edit
from .errors import WrongValue
from .where import Where

__all__ = ["add", "apply", "clamp", "patch", "replace", "scale", "zero"]


def zero(site: str, heads: Where = None, positions: Where = None) -> Edit:
    """Set the selected activation to zero."""
    return Edit(site, torch.zeros_like, heads, positions)


def scale(site: str, factor: float | Tensor, heads: Where = None, positions: Where = None) -> Edit:
    """Multiply the selected activation by `factor`."""
    if isinstance(factor, Tensor):
        return Edit(site, lambda x, factor: x * factor, heads, positions, value=factor)
    return Edit(site, lambda x: x * factor, heads, positions)


def add(site: str, vector: Tensor | Callable[[Tensor], Tensor], heads: Where = None, positions: Where = None) -> Edit:
    """Add `vector` (for instance a steering direction, [d_model]) to the selected activation.

    `vector` may also be a function: it is called in each forward pass with the token ids of the sequence so far (batch
    pos), and returns what is added to the whole site. A pass that does not know its token ids is then an error: one
    that starts from a stored residual stream without `input_ids`, texts with padding before a token, or several texts
    that continue from a cache.
    """
    return Edit(site, lambda x, vector: x + vector, heads, positions, value=vector)


def replace(site: str, value: Tensor | float, heads: Where = None, positions: Where = None) -> Edit:
    """Replace the selected activation by `value`. To take the value from another run, use `patch`."""
    if not isinstance(value, Tensor):
        return Edit(site, lambda x: torch.full_like(x, value), heads, positions)
    return Edit(site, lambda x, value: value.expand_as(x), heads, positions, value=value)


def patch(site: str, run: Mapping[str, Tensor], heads: Where = None, positions: Where = None) -> Edit:
    """Replace the selected activation by the one that another run captured at the same site, heads and positions.

        clean = model.run(ids, capture="blocks.3.attn.z")
        model.run(corrupted, edits=[edits.patch("blocks.3.attn.z", clean, heads=[1], positions=-1)])

    Args:
        run: a `Run`, or any mapping from site names to tensors. It must hold the whole site (all heads and positions)
            for as many texts as this batch, or for one text, which is then used for all. The texts must have the same
            length. In `generate` and `tapped` the lengths may differ; positions after the captured ones stay unchanged.
    """
    return Edit(site, lambda x, value: value.expand_as(x), heads, positions, value=run)


def clamp(
    site: str, low: float | None = None, high: float | None = None, heads: Where = None, positions: Where = None
) -> Edit:
    """Limit the values of the selected activation to the range low … high; one bound may be left out."""
    if low is None and high is None:
        raise WrongValue("clamp needs a lower or an upper bound")
    return Edit(site, lambda x: x.clamp(low, high), heads, positions)


def apply(
    site: str,
    function: Callable[..., Tensor],
    heads: Where = None,
    positions: Where = None,
    *,
    reads: str | None = None,
) -> Edit:
    """Replace the selected activation by `function` of it: a new tensor of the same shape and dtype.

    With `reads`, the name of a site that the forward pass reaches earlier, `function` has a second argument: the
    activation of that site at the same positions. For example,
    `edits.apply("blocks.2.mlp_out", lambda out, read: out - read, reads="blocks.2.mlp_in")`.
    """
    return Edit(site, function, heads, positions, reads=reads)
