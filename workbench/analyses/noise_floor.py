"""How large a difference is between checkpoints that should not differ."""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TypeVar

import numpy as np

from workbench.checkpoints import Checkpoint
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Curves, Grid, Maps, Measures, Points, Result, Scores, Shape

Found = TypeVar("Found", Grid, Maps, Scores, Curves, Points, Measures)


def noise_floor(
    finals: Sequence[Checkpoint],
    compare: Callable[[Checkpoint, Checkpoint], Found],
    *,
    progress: Progress | None = None,
) -> Found:
    """The most that checkpoints differ, cell by cell, of all pairs that differ only by seed or data order.

        floor = noise_floor(checkpoints.finals(series), compare_weights)
        in_floors(compare_weights(a, b), floor)["relative_change"]

    The result has the shape and labels of the comparison's own. A value is the one furthest from `value_when_equal` of
    all pairs, differences without their sign. It is undefined where the value of a pair is, and for numbers that
    compare nothing, such as the loss of one checkpoint. Three finals give three pairs: a rough bound.
    Errors: WorkbenchError with fewer than two checkpoints.
    """
    if len(finals) < 2:
        raise WorkbenchError(f"a noise floor needs two checkpoints that differ by data order; there are {len(finals)}")
    found = [compare(a, b) for a, b in steps(list(combinations(finals, 2)), progress, "noise floor")]
    if isinstance(found[0], Measures):
        return Measures(**{name: _most([pair[name] for pair in found]) for name in found[0]})
    return _most(found)


def in_floors(pair: Found, floor: Found) -> Found:
    """A comparison in units of its noise floor: how many times further apart two checkpoints are than those that
    differ by seed or data order. What is not above 1 says nothing.

    |value − equal| / |floor − equal|, where equal is the result's `value_when_equal`. Undefined where the floor is,
    infinite where it is zero.
    """
    if isinstance(pair, Measures):
        return Measures(**{name: _ratio(pair[name], floor[name]) for name in pair})
    return _ratio(pair, floor)


def _most(results: Sequence[Shape]) -> Shape:
    """One result with the values of several that are furthest from those of equal checkpoints."""
    equal = _when_equal(results[0])
    found = np.stack([np.where(equal == 0, np.abs(result.values), result.values) for result in results])
    furthest = np.abs(found - equal).argmax(0)  # an undefined one, if there is any
    values = np.where(np.isnan(equal), np.nan, np.take_along_axis(found, furthest[None], 0)[0])
    return dataclasses.replace(results[0], values=values, title=f"Noise floor. {results[0].title}", signed=False)


def _ratio(pair: Shape, floor: Shape) -> Shape:
    equal = _when_equal(pair)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.abs(pair.values - equal) / np.abs(floor.values - equal)
    about = f"{pair.title}: {pair.value_name}" if pair.value_name not in pair.title else pair.title
    return dataclasses.replace(pair, values=values, title=about, value_name="noise floors", unit="", signed=False)


def _when_equal(result: Result) -> np.ndarray:
    """The value of each number of a comparison of equal checkpoints."""
    return np.broadcast_to(np.array(result.value_when_equal, dtype=np.float32), result.values.shape)
