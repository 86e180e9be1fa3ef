"""When a place of the training text was read: the rows of all steps as a table of pieces, sorted by place.

A row is a piece of the text, or several: a row with repeats has a piece for each copy and each gap. Random tokens have
no place and are not in the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from workbench.corpus.replay import MAIN, Replay
from workbench.progress import Progress, report

PIECE = np.dtype(
    [("place", "<i4"), ("length", "<u2"), ("step", "<u2"), ("row", "<u2"), ("position", "<u2"), ("order", "u1")]
)
SHARED = 0  # data order of the steps before the branch, which the runs of all orders have read


@dataclass(frozen=True)
class RowMap:
    """The rows that hold each place of the training text.

    Attributes:
        pieces: one record of `PIECE` for each piece, sorted by place: the place of its first token, number of tokens,
            step, number of the row in the step, position of the piece in the row, and data order, `SHARED` for the
            steps that all orders have in common.
    """

    pieces: np.ndarray

    def rows_with(self, places: Sequence[int] | np.ndarray, length: int, order: int = MAIN) -> pd.DataFrame:
        """The rows that held an n-gram, by step: columns place, step, row, position; a line for each copy in a row.

        A row holds an n-gram if one of its pieces has all its tokens. A row has one token more than the stage's length:
        the first is not predicted and the last is not read.

        Args:
            places: places of the n-gram's first token.
            length: number of its tokens.
            order: the data order of the run.
        """
        wanted = np.unique(np.asarray(places, np.int64))
        lowest, highest = (wanted[0] - self._longest, wanted[-1]) if len(wanted) else (0, -1)
        begin, stop = np.searchsorted(self._places, lowest), np.searchsorted(self._places, highest, side="right")
        near = self.pieces[begin:stop]
        near = near[(near["order"] == order) | (near["order"] == SHARED)]
        first = np.searchsorted(wanted, near["place"])
        past = np.searchsorted(wanted, near["place"] + (near["length"].astype(np.int64) - length), side="right")
        times = np.maximum(past - first, 0)
        which = np.repeat(np.arange(len(near)), times)
        nth = np.arange(len(which)) - np.repeat(np.cumsum(times) - times, times)
        held, place = near[which], wanted[first[which] + nth]
        table = pd.DataFrame({"place": place} | {name: held[name].astype(np.int64) for name in ("step", "row")})
        table["position"] = held["position"].astype(np.int64) + place - held["place"]
        return table.sort_values(["step", "row", "position"], ignore_index=True)

    @cached_property
    def _places(self) -> np.ndarray:
        return np.ascontiguousarray(self.pieces["place"])

    @cached_property
    def _longest(self) -> int:
        return int(self.pieces["length"].max(initial=0))


def distinct_rows(held: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of `RowMap.rows_with`, each once, by step: columns step, row.

    A row that holds several copies of an n-gram has several lines in that table: a row with repeats, or one that took
    two places of the n-gram from the text.
    """
    return held[["step", "row"]].drop_duplicates(ignore_index=True)


def map_rows(replay: Replay, orders: Sequence[int], progress: Progress | None = None) -> RowMap:
    """The map of a run and of the runs of other data orders, from the replay of all their steps."""
    recipe = replay.recipe
    runs = [(SHARED, MAIN, range(recipe.branch))]
    runs += [(order, order, range(recipe.branch, recipe.steps)) for order in (MAIN, *orders)]
    total, done, found = sum(len(steps) for _, _, steps in runs), 0, []
    for label, order, steps in runs:
        for step in steps:
            if done % 100 == 0:
                report(progress, done / total, f"rows of step {step:,}")
            found.append(pieces_of(replay.place_rows(step, order), step, label))
            done += 1
    pieces = np.concatenate(found)
    return RowMap(pieces[np.argsort(pieces["place"], kind="stable")])


def pieces_of(places: np.ndarray, step: int, order: int) -> np.ndarray:
    """The pieces of a step's rows, from the places of their tokens (row pos, negative for random tokens)."""
    is_text = places >= 0
    goes_on = np.zeros_like(is_text)
    goes_on[:, 1:] = is_text[:, 1:] & is_text[:, :-1] & (np.diff(places, axis=1) == 1)
    row, position = np.nonzero(is_text & ~goes_on)
    stops = np.flatnonzero(np.pad(~goes_on, ((0, 0), (0, 1)), constant_values=True))  # a row stops at its end too
    begins = row * (places.shape[1] + 1) + position
    pieces = np.empty(len(row), PIECE)
    pieces["place"], pieces["step"], pieces["row"], pieces["position"] = places[row, position], step, row, position
    pieces["length"], pieces["order"] = stops[np.searchsorted(stops, begins, side="right")] - begins, order
    return pieces
