"""Numbers as bytes for a canvas: the square root of each magnitude, so that small attention weights keep their shades.

Unsigned: byte = 255 · √(x / scale). Signed: byte = 128 + 127 · sign(x) · √(|x| / scale). `scale` is the largest
magnitude and travels beside the bytes; maps.js reads them back. The error is at most √(x · scale) / 255: enough for a
colour, not for a number, so what is written as a number is fetched as such.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 64  # pixels of a thumbnail
ROWS = 64  # encoded at a time, in the processor's cache


@dataclass(frozen=True)
class Picture:
    """Square maps of bytes, one after another. `rest` is the largest magnitude outside the first column."""

    pixels: bytes
    side: int
    scale: float
    rest: float
    signed: bool


def encode(maps: Tensor, *, signed: bool = False) -> Picture:
    """Causal maps (… side side) as bytes; what is not signed is not negative."""
    side, size = maps.shape[-1], maps.abs() if signed else maps
    scale = size.max().item() or 1.0
    rest = size[..., 1:].max().item() if side > 1 else 0.0
    levels = torch.full(maps.shape, 128 if signed else 0, dtype=torch.uint8, device=maps.device)
    for start in range(0, side, ROWS):
        rows, keys = slice(start, start + ROWS), slice(start + ROWS)  # nothing lies above the diagonal
        level = size[..., rows, keys].div(scale).sqrt_()
        level = level.mul_(127).copysign_(maps[..., rows, keys]).add_(128) if signed else level.mul_(255)
        levels[..., rows, keys] = level.round_()
    return Picture(levels.cpu().numpy().tobytes(), side, scale, rest, signed)


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
