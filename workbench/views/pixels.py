"""Numbers as bytes for a canvas: the square root of each magnitude, so that small attention weights keep their shades.

Unsigned: byte = 255 · √(x / scale). Signed: byte = 128 + 127 · sign(x) · √(|x| / scale). `scale` is the largest
magnitude and is sent with the bytes; maps.js decodes them. The error is at most √(x · scale) / 255, small enough for a
colour. Values that are displayed as numbers are fetched separately, in float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SIDE = 64  # pixels of a thumbnail
MOST = 1024  # pixels of a map's side, which no screen exceeds


@dataclass(frozen=True)
class Picture:
    """Square maps as bytes, one after another.

    In a map of more than `MOST` tokens, and in a thumbnail of more than `SIDE`, a pixel covers several cells and shows
    the one furthest from zero. The first column then covers other keys besides the first one.

    Attributes:
        pixels: the bytes of the maps; if `second`, followed by the bytes of one more column for each map.
        side: pixels of a map's side.
        scale: the largest magnitude.
        rest: the largest magnitude without the first key.
        signed: whether values can be negative.
        second: whether the first column of each map, without the first key, follows after the maps.
    """

    pixels: bytes
    side: int
    scale: float
    rest: float
    signed: bool
    second: bool


def encode(maps: np.ndarray, *, second: np.ndarray | None = None, signed: bool = False) -> Picture:
    """Maps (… side side) as a `Picture`; unsigned maps have no negative values.

    `second` (… side 1) is the maps' first column without the first key; None if that column covers only the first key.
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
    """The largest magnitude in several arrays."""
    return max(float(np.abs(part).max(initial=0.0)) for part in parts)


def levels(values: np.ndarray, scale: float, signed: bool) -> bytes:
    """Numbers as bytes, by the formulas above."""
    level = np.sqrt(np.abs(values) / scale)
    level = 128 + 127 * np.copysign(level, values) if signed else 255 * level
    return np.rint(level).astype(np.uint8).tobytes()


def stronger(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The elementwise choice of the number further from zero."""
    return np.where(np.abs(other) > np.abs(one), other, one)


def halved(values: np.ndarray, axis: int, chosen: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Pairs of neighbours along an axis, each reduced to one by `chosen`; an odd last element stays."""
    values = np.moveaxis(values, axis, 0)
    pairs = len(values) // 2
    both = chosen(values[: 2 * pairs : 2], values[1::2])
    return np.moveaxis(both if len(values) == 2 * pairs else np.concatenate([both, values[-1:]]), 0, axis)


def pool_last(values: Tensor, side: int = SIDE) -> Tensor:
    """The last axis pooled into `side` bins by the value furthest from zero: … n -> … side (… n if n ≤ side)."""
    length = values.shape[-1]
    if length <= side:
        return values
    bins = (torch.arange(length, device=values.device) * side // length).expand(values.shape)
    empty = torch.zeros(*values.shape[:-1], side, dtype=values.dtype, device=values.device)
    high = empty.scatter_reduce(-1, bins, values, "amax")
    low = empty.scatter_reduce(-1, bins, values, "amin")
    return torch.where(-low > high, low, high)
