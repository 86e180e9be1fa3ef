"""Numbers as bytes for a canvas: the square root of each magnitude, so that small attention weights keep their shades.

Unsigned: byte = 255 · √(x / scale). Signed: byte = 128 + 127 · sign(x) · √(|x| / scale). `scale` is the largest
magnitude and travels beside the bytes; maps.js reads them back. The error is at most √(x · scale) / 255: enough for a
colour, not for a number, so what is written as a number is fetched as such.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 64  # pixels of a thumbnail


@dataclass(frozen=True)
class Picture:
    """Square maps of bytes, one after another. `rest` is the largest magnitude outside the first column."""

    pixels: bytes
    side: int
    scale: float
    rest: float
    signed: bool


def encode(maps: Tensor, *, signed: bool = False) -> Picture:
    """Maps (… side side) as bytes; what is not signed is not negative."""
    size = maps.abs() if signed else maps
    scale = size.max().item() or 1.0
    rest = size[..., 1:].max().item() if maps.shape[-1] > 1 else 0.0
    levels = size.div(scale).sqrt_()
    levels = levels.mul_(127).copysign_(maps).add_(128) if signed else levels.mul_(255)
    return Picture(levels.round_().to(torch.uint8).cpu().numpy().tobytes(), maps.shape[-1], scale, rest, signed)


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
