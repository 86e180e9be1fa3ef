"""Maps as bytes: the cells of each pixel, and no large weight is lost when a map is reduced."""

import numpy as np
import pytest

from workbench.views import pixels
from workbench.views.pixels import encode


def causal(side: int, signed: bool) -> np.ndarray:
    maps = np.tril(np.random.default_rng(side).random((side, side), dtype=np.float32))
    return np.tril(maps - 0.5) if signed else maps


def shown(picture: pixels.Picture) -> tuple[np.ndarray, np.ndarray]:
    """A picture's numbers, side side, and those of its first column without the first key, if they follow."""
    levels = np.frombuffer(picture.pixels, np.uint8).astype(float)
    root = (levels - 128) / 127 if picture.signed else levels / 255
    numbers = np.sign(root) * root**2 * picture.scale
    return numbers[: picture.side**2].reshape(picture.side, picture.side), numbers[picture.side**2 :]


def strongest(cells: np.ndarray) -> float:
    return max(cells.ravel(), key=abs, default=0.0)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("side", "cells"), [(8, 1), (9, 2), (16, 2), (31, 4), (33, 8)])
def test_a_pixel_is_the_strongest_weight_under_it(monkeypatch, side, cells, signed):
    monkeypatch.setattr(pixels, "MOST", 8)
    whole, least = causal(side, signed), 1.5 / (127 if signed else 255)  # of a level, and half
    picture = encode(whole, signed=signed)
    found, second = shown(picture)
    blocks = [
        [whole[row : row + cells, key : key + cells] for key in range(0, side, cells)] for row in range(0, side, cells)
    ]
    expected = np.array([[strongest(block) for block in row] for row in blocks])
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= least
    assert picture.second == (cells > 1)
    if cells == 1:
        assert second.size == 0
    else:
        assert np.abs(second - [strongest(row[0][:, 1:]) for row in blocks]).max() <= least
    assert picture.scale == np.abs(whole).max()
    assert picture.rest == np.abs(whole[:, 1:]).max()


@pytest.mark.parametrize("signed", [False, True])
def test_small_maps_carry_the_column_they_are_given(signed):
    """A difference of columns may be larger than the maps' values, so the scale covers both."""
    maps = np.stack([causal(4, signed), causal(5, signed)[1:, 1:]]) / 8
    second = np.arange(8, dtype=np.float32).reshape(2, 4, 1) / 8 - (0.5 if signed else 0)
    picture = encode(maps, second=second, signed=signed)
    root = np.frombuffer(picture.pixels, np.uint8).astype(float)
    root = (root - 128) / 127 if signed else root / 255
    numbers = np.sign(root) * root**2 * picture.scale
    assert picture.second and picture.scale == picture.rest == np.abs(second).max()
    assert np.abs(numbers[:32].reshape(maps.shape) - maps).max() < 0.01
    assert np.abs(numbers[32:].reshape(second.shape) - second).max() < 0.01


def test_a_map_of_one_token():
    picture = encode(np.ones((1, 1), np.float32))
    assert (picture.pixels, picture.scale, picture.rest) == (b"\xff", 1.0, 0.0)
