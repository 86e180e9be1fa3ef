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
ALIKE = ("cosine", "overlap", "debiased linear CKA")
"""Numbers that are 1 where checkpoints do not differ."""

OWN = (
    "loss_a",
    "loss_b",
    "norm_a",
    "norm_b",
    "loss of B",
    "loss with the part of A",
    "target in B",
    "target with the part of A",
)
"""Numbers that comparisons give of one checkpoint, of which there is no noise floor."""


def noise_floor(
    finals: Sequence[Checkpoint],
    compare: Callable[[Checkpoint, Checkpoint], Found],
    *,
    progress: Progress | None = None,
) -> Found:
    """The most that checkpoints differ, cell by cell, of all pairs that differ only by seed or data order.

        floor = noise_floor(checkpoints.finals(series), compare_weights)
        in_floors(compare_weights(a, b), floor)["relative_change"]

    The result has the shape and labels of the comparison's own. A value is the largest in size of all pairs, of what is
    in `ALIKE` the smallest; undefined for what is in `OWN`, and where one of the pairs is. Three finals give three
    pairs: a rough bound, of the right size.
    Errors: WorkbenchError with fewer than two checkpoints.
    """
    if len(finals) < 2:
        raise WorkbenchError(f"a noise floor needs two checkpoints that differ by data order; there are {len(finals)}")
    found = [compare(a, b) for a, b in steps(list(combinations(finals, 2)), progress, "noise floor")]
    if isinstance(found[0], Measures):
        return Measures(**{name: _most([pair[name] for pair in found], name) for name in found[0]})
    return _most(found)


def in_floors(pair: Found, floor: Found) -> Found:
    """A comparison in units of its noise floor: how many times further apart two checkpoints are than those that
    differ by seed or data order. What is not above 1 says nothing.

    |value| / |floor|; of what is in `ALIKE`, (1 − value) / (1 − floor). Undefined where the floor is, infinite where it
    is zero.
    """
    if isinstance(pair, Measures):
        return Measures(**{name: _ratio(pair[name], floor[name], name) for name in pair})
    return _ratio(pair, floor)


def _most(results: Sequence[Shape], name: str = "") -> Shape:
    """One result with, of several, the values that differ most."""
    names = _names(results[0], name)
    alike, own = np.isin(names, ALIKE), np.isin(names, OWN)
    found = np.stack([result.values for result in results])
    values = np.where(own, np.nan, np.where(alike, found.min(0), np.abs(found).max(0)))
    return dataclasses.replace(results[0], values=values, title=f"Noise floor. {results[0].title}", signed=False)


def _ratio(pair: Shape, floor: Shape, name: str = "") -> Shape:
    alike = np.isin(_names(pair, name), ALIKE)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = _distance(pair, alike) / _distance(floor, alike)
    about = f"{pair.title}: {pair.value_name}" if pair.value_name not in pair.title else pair.title
    return dataclasses.replace(pair, values=values, title=about, value_name="noise floors", unit="", signed=False)


def _names(result: Result, name: str) -> np.ndarray:
    """What the numbers are called that decide how they are read: each by itself in `Scores`, else all alike."""
    if isinstance(result, Scores):
        return np.array([name or each for each in result.names])
    return np.array(name or result.value_name)


def _distance(result: Result, alike: np.ndarray) -> np.ndarray:
    """How far apart the checkpoints are: 0 where they do not differ."""
    return np.where(alike, 1 - result.values, np.abs(result.values))
