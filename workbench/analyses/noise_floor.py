"""The size of the differences between checkpoints that differ only by seed or data order."""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TypeVar

import numpy as np

from workbench.analyses.support.cost import Work, is_planned, planned, work_of
from workbench.checkpoints import Checkpoint
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Curves, Grid, Maps, Measures, Points, Result, Scores, Shape, without_errors

Found = TypeVar("Found", Grid, Maps, Scores, Curves, Points, Measures)


def noise_floor(
    finals: Sequence[Checkpoint],
    compare: Callable[[Checkpoint, Checkpoint], Found],
    *,
    progress: Progress | None = None,
) -> Found:
    """The largest difference, cell by cell, between any two checkpoints that differ only by seed or data order.

        floor = noise_floor(checkpoints.finals(series), compare_weights)
        in_floors(compare_weights(a, b), floor)["relative_change"]

    `compare` is applied to all pairs of `finals`. The result has the shape and labels of one comparison. Each cell
    holds the value, of all pairs, that is furthest from the result's `value_when_equal`; if `value_when_equal` is 0, it
    holds the largest absolute value. It is undefined (NaN) where any pair is undefined, and for numbers that are not
    comparisons, such as the loss of one checkpoint. Three checkpoints give three pairs, so the floor is then only a
    rough bound.

    Errors: WorkbenchError with fewer than two checkpoints.
    """
    if len(finals) < 2:
        raise WorkbenchError(f"a noise floor needs two checkpoints that differ by data order; there are {len(finals)}")
    found = [compare(a, b) for a, b in steps(list(combinations(finals, 2)), progress, "noise floor")]
    if isinstance(found[0], Measures):
        return Measures(**{name: _most([pair[name] for pair in found]) for name in found[0]})
    return _most(found)


@work_of(noise_floor)
def _work(finals: Sequence[Checkpoint], compare: Callable[..., object], **_: object) -> Work:
    pairs = combinations(finals, 2)
    return sum((planned(compare, a, b) for a, b in pairs if is_planned(compare)), start=Work(0))


def in_floors(pair: Found, floor: Found) -> Found:
    """A comparison of two checkpoints in units of its noise floor.

    Each value is |value − equal| / |floor − equal|, where equal is the result's `value_when_equal`. Values of 1 or less
    are not above the noise. A value is undefined (NaN) where the floor is undefined, and infinite where the floor is
    zero.
    """
    if isinstance(pair, Measures):
        return Measures(**{name: _ratio(pair[name], floor[name]) for name in pair})
    return _ratio(pair, floor)


def _most(results: Sequence[Shape]) -> Shape:
    """One result with, cell by cell, the value furthest from the value of equal checkpoints."""
    equal = _when_equal(results[0])
    found = np.stack([np.where(equal == 0, np.abs(result.values), result.values) for result in results])
    furthest = np.abs(found - equal).argmax(0)  # argmax picks NaN, if there is one
    values = np.where(np.isnan(equal), np.nan, np.take_along_axis(found, furthest[None], 0)[0])
    first = without_errors(results[0])
    name = f"|{first.value_name}|" if first.signed else first.value_name
    return dataclasses.replace(first, values=values, title=f"Noise floor. {first.title}", value_name=name, signed=False)


def _ratio(pair: Shape, floor: Shape) -> Shape:
    equal = _when_equal(pair)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.abs(pair.values - equal) / np.abs(floor.values - equal)
    about = f"{pair.title}: {pair.value_name}" if pair.value_name not in pair.title else pair.title
    return dataclasses.replace(
        without_errors(pair),
        values=values,
        title=about,
        value_name="noise floors",
        unit="",
        signed=False,
        as_percent=False,
    )


def _when_equal(result: Result) -> np.ndarray:
    """The value of each cell in a comparison of two equal checkpoints."""
    return np.broadcast_to(np.array(result.value_when_equal, dtype=np.float32), result.values.shape)
