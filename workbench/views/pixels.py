"""Numbers as bytes for a canvas: the square root of each magnitude, so that small attention weights keep their shades.

Unsigned: byte = 255 · √(x / scale). Signed: byte = 128 + 127 · sign(x) · √(|x| / scale). `scale` is the largest
magnitude and travels beside the bytes; maps.js reads them back. The error is at most √(x · scale) / 255: enough for a
colour, not for a number, so what is written as a number is fetched as such.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SIDE = 64  # pixels of a thumbnail
MOST = 1024  # pixels of a map's side: no screen shows it larger


@dataclass(frozen=True)
class Picture:
    """Square maps of bytes, one after another; `rest` is the largest magnitude of what is not of the first key.

    A pixel of a map of more than `MOST` tokens, and of a thumbnail of more than `SIDE`, stands for several cells and is
    the one furthest from zero. The first key is then not alone in its column: with `second`, that column of each map
    follows behind the maps once more, without the first key.
    """

    pixels: bytes
    side: int
    scale: float
    rest: float
    signed: bool
    second: bool


def encode(maps: np.ndarray, *, second: np.ndarray | None = None, signed: bool = False) -> Picture:
    """Maps (… side side) as bytes; what is not signed is not negative.

    `second` (… side 1) is the maps' first column without the first key, where it stands for more keys than that one.
    """
    strongest = stronger if signed else np.maximum
    small = maps
    while small.shape[-1] > MOST:
        beside = small[..., 1:2] if second is None else strongest(second, small[..., 1:2])
        second = halved(beside, -2, strongest)
        small = halved(halved(small, -2, strongest), -1, strongest)
    columns = [] if second is None else [second]
    scale, rest = largest([small, *columns]) or 1.0, largest([small[..., 1:], *columns])
    pixels = b"".join(levels(part, scale, signed) for part in (small, *columns))
    return Picture(pixels, small.shape[-1], scale, rest, signed, second is not None)


def largest(parts: Sequence[np.ndarray]) -> float:
    """The largest magnitude in any of some arrays."""
    return max(float(np.abs(part).max(initial=0.0)) for part in parts)


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
