"""How large a difference is between checkpoints that should not differ."""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from workbench.checkpoints import Checkpoint
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Measures, Result

Comparison = Callable[[Checkpoint, Checkpoint], Result | Measures]
ALIKE = ("cosine", "overlap", "similarity")
"""Measures that are small where checkpoints differ."""


def noise_floor(
    finals: Sequence[Checkpoint], compare: Comparison, *, progress: Progress | None = None
) -> Result | Measures:
    """The most that checkpoints differ, cell by cell, of all pairs that differ only by seed or data order.

        floor = noise_floor(checkpoints.finals(series), compare_weights)

    The result has the shape and labels of the comparison's own; each value is the largest in size of all pairs, or
    the smallest for the measures in `ALIKE`. A pair of other checkpoints that differs by no more differs by nothing
    that matters. Three finals give three pairs: a rough bound, of the right size.
    Errors: WorkbenchError with fewer than two checkpoints.
    """
    if len(finals) < 2:
        raise WorkbenchError(f"a noise floor needs two checkpoints that differ by data order; there are {len(finals)}")
    found = [compare(a, b) for a, b in steps(list(combinations(finals, 2)), progress, "noise floor")]
    if isinstance(found[0], Measures):
        return Measures(**{name: _most([pair[name] for pair in found], name in ALIKE) for name in found[0]})
    return _most(found, alike=False)


def _most(results: Sequence[Result], alike: bool) -> Result:
    """One result with, of several, the values that differ most; undefined where one of them is."""
    values = np.stack([result.values for result in results])
    most = values.min(0) if alike else np.abs(values).max(0)
    return dataclasses.replace(results[0], values=most, title=f"Noise floor. {results[0].title}")
