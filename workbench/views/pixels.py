"""Numbers as bytes for a canvas: the square root of each magnitude, so that small attention weights keep three digits.

Unsigned: byte = 255 · √(x / scale). Signed: byte = 128 + 127 · sign(x) · √(|x| / scale). `scale` is the largest
magnitude and travels beside the bytes; common.js reads them back. The error is at most √(x · scale) / 255.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 64  # pixels of a thumbnail


@dataclass(frozen=True)
class Picture:
    """Square maps of bytes, one after another."""

    pixels: bytes
    side: int
    scale: float
    signed: bool


def encode(maps: Tensor, *, signed: bool = False) -> Picture:
    """Maps (… side side) as bytes."""
    scale = maps.abs().max().item() or 1.0
    root = maps.abs().div(scale).sqrt_()
    levels = (root * maps.sign() * 127 + 128) if signed else root * 255
    return Picture(levels.round_().to(torch.uint8).cpu().numpy().tobytes(), maps.shape[-1], scale, signed)


def pool_last(values: Tensor, side: int = SIDE) -> Tensor:
    """The last axis in `side` bins, each the value furthest from zero in it: … n -> … side (… n if n ≤ side)."""
    length = values.shape[-1]
    if length <= side:
        return values
    bins = (torch.arange(length, device=values.device) * side // length).expand(values.shape)
    empty = torch.zeros(*values.shape[:-1], side, dtype=values.dtype, device=values.device)
    high = empty.scatter_reduce(-1, bins, values, "amax")
    low = empty.scatter_reduce(-1, bins, values, "amin")
    return torch.where(-low > high, low, high)
