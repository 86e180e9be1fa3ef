"""Numbers as bytes for a canvas: the square root of each magnitude, so that small attention weights keep their shades.

Unsigned: byte = 255 · √(x / scale). Signed: byte = 128 + 127 · sign(x) · √(|x| / scale). `scale` is the largest
magnitude and travels beside the bytes; maps.js reads them back. The error is at most √(x · scale) / 255: enough for a
colour, not for a number, so what is written as a number is fetched as such.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SIDE = 64  # pixels of a thumbnail
MOST = 1024  # pixels of a map's side: no screen shows it larger


@dataclass(frozen=True)
class Picture:
    """Square maps of bytes, one after another; `rest` is the largest magnitude outside the first key's column.

    A pixel of a map of more than `MOST` tokens stands for several cells and is the one furthest from zero. The first
    key is then not alone in its column: behind the map follows that column once more, without it.
    """

    pixels: bytes
    side: int
    scale: float
    rest: float
    signed: bool


def encode(maps: np.ndarray, *, signed: bool = False) -> Picture:
    """Maps (… side side) as bytes; what is not signed is not negative."""
    strongest = stronger if signed else np.maximum
    small, second = maps, np.zeros_like(maps[..., :1])
    while small.shape[-1] > MOST:
        second = halved(strongest(second, small[..., 1:2]), -2, strongest)
        small = halved(halved(small, -2, strongest), -1, strongest)
    scale = float(np.abs(small).max()) or 1.0
    rest = max(float(np.abs(part).max(initial=0.0)) for part in (second, small[..., 1:]))
    pixels = b"".join(levels(part, scale, signed) for part in ([small] if small is maps else [small, second]))
    return Picture(pixels, small.shape[-1], scale, rest, signed)


def levels(values: np.ndarray, scale: float, signed: bool) -> bytes:
    """Numbers as bytes."""
    level = np.sqrt(np.abs(values) / scale)
    level = 128 + 127 * np.copysign(level, values) if signed else 255 * level
    return np.rint(level).astype(np.uint8).tobytes()


def stronger(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each two numbers the one further from zero."""
    return np.where(np.abs(other) > np.abs(one), other, one)


def halved(values: np.ndarray, axis: int, chosen: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Of each two neighbours along an axis the chosen one; an odd last one stays."""
    values = np.moveaxis(values, axis, 0)
    pairs = len(values) // 2
    both = chosen(values[: 2 * pairs : 2], values[1::2])
    return np.moveaxis(both if len(values) == 2 * pairs else np.concatenate([both, values[-1:]]), 0, axis)


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
