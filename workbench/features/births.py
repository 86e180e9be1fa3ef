"""`births`: when each feature of a crosscoder appears in a run, and when it disappears.

    born = features.births(features.load("tiny-olmo@step6000/crosscoder.blocks.2.resid_post"))
    born.table().sort_values("born")        # one row for each feature: its step of birth, its step of death, its norms
    born.curves([417]).plot()               # the norms of a feature along the run

A crosscoder has one activation of a feature at a token for all of its checkpoints, and one direction for each. The
norm of that direction says how strongly the checkpoint holds the feature (Lindsey et al. 2024; along a training run:
Bayazit et al., arXiv 2509.05291, Ge et al., arXiv 2509.17196). All of this is in the weights: no model runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from workbench.checkpoints import Checkpoint, Series, finals, main_run, parse
from workbench.checkpoints.names import split_id
from workbench.errors import WorkbenchError
from workbench.features.dictionary import Dictionary
from workbench.result_files import Storable
from workbench.results import Curves

SHARE = 0.5
"""A checkpoint holds a feature if the norm is at least this share of the largest norm along the run."""
FLOOR_QUANTILE = 0.99
"""For this share of the features, norms differ by less than the floor between ends."""


@dataclass(frozen=True, eq=False, repr=False)
class FeatureBirths(Storable):
    """When the features of a crosscoder are born and when they die.

    Norms are those of the decoder's directions, divided by the size of the activations of each checkpoint (the root of
    their mean squared deviation from the mean, per dimension), so that checkpoints can be compared. Arrays are indexed
    by feature and source; the sources are `checkpoints`, then `others`.

    - The run *holds* a feature at a checkpoint if the norm there is at least half of the feature's largest norm along
      the run, and above the `floor`.
    - It is *born* at the first checkpoint of the stretch of checkpoints that hold it and that includes its largest
      norm. It *dies* at the first checkpoint after this stretch.
    - The *ends* are finals of the run that differ in the order of data only: `others`, and the last checkpoint if it is
      as old. For 99 % of the features, norms differ by less than the `floor` between any two ends. Differences
      between checkpoints are to be compared with it.

    Attributes:
        dictionary: the crosscoder in words.
        checkpoints: the ids of the checkpoints of the run, in order.
        steps: their steps.
        others: the ids of the other ends; empty if there are none.
        norms: feature source, float32.
        at_end: whether the last checkpoint of the run is one of the ends.
        provenance: the origin of the numbers.

    Errors: ValueError for shapes that do not belong together.
    """

    dictionary: str
    checkpoints: tuple[str, ...]
    steps: tuple[int, ...]
    others: tuple[str, ...]
    norms: np.ndarray
    at_end: bool = True
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sources = len(self.checkpoints) + len(self.others)
        if self.norms.ndim != 2 or self.norms.shape[1] != sources or len(self.steps) != len(self.checkpoints):
            raise ValueError(
                f"norms are {self.norms.shape} but there are {len(self.checkpoints)} checkpoints, {len(self.steps)} "
                f"steps and {len(self.others)} other ends"
            )

    def __repr__(self) -> str:
        ends = f" and {len(self.others)} other ends" if self.others else ""
        return f"<FeatureBirths of {len(self):,} features in {len(self.checkpoints)} checkpoints{ends}>"

    def __len__(self) -> int:
        return len(self.norms)

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of all sources: the checkpoints of the run, then the other ends."""
        return self.checkpoints + self.others

    @property
    def run_norms(self) -> np.ndarray:
        """The norms along the run: feature checkpoint."""
        return self.norms[:, : len(self.checkpoints)]

    @property
    def ends(self) -> tuple[str, ...]:
        """The ids of the ends, which differ in the order of data only; fewer than two give no floor."""
        return (self.checkpoints[-1:] if self.at_end else ()) + self.others

    @property
    def end_norms(self) -> np.ndarray:
        """The norms at the ends: feature end."""
        return self.norms[:, self.norms.shape[1] - len(self.ends) :]

    @cached_property
    def floor(self) -> float:
        """For 99 % of the features, norms differ by less than this between any two ends; 0 with fewer than two ends."""
        pairs = list(combinations(range(len(self.ends)), 2))
        if not pairs:
            return 0.0
        apart = np.stack([abs(self.end_norms[:, one] - self.end_norms[:, other]) for one, other in pairs])
        return float(np.quantile(apart.max(0), FLOOR_QUANTILE))

    @cached_property
    def holds(self) -> np.ndarray:
        """Whether each checkpoint of the run holds the feature: feature checkpoint, boolean."""
        return held(self.run_norms, self.floor)

    @cached_property
    def born(self) -> np.ndarray:
        """The step of birth of each feature: feature, float64; NaN for one whose norm is nowhere above the floor."""
        return np.array([np.nan if first is None else self.steps[first] for first, _ in self._stretches])

    @cached_property
    def died(self) -> np.ndarray:
        """The step of death of each feature: feature, float64; NaN for one that lives at the last checkpoint."""
        after = [np.nan if last is None else [*self.steps, np.nan][last] for _, last in self._stretches]
        return np.array(after, dtype=np.float64)

    @cached_property
    def _stretches(self) -> list[tuple[int | None, int | None]]:
        """The indices of (the checkpoint of birth, the checkpoint after the last that holds it) of each feature."""
        return [stretch(row, int(at)) for row, at in zip(self.holds, self.run_norms.argmax(1), strict=True)]

    @cached_property
    def holding_ends(self) -> np.ndarray:
        """Whether each end holds the feature, by its largest norm among the ends: feature end, boolean."""
        return held(self.end_norms, 0.0)

    @cached_property
    def apart(self) -> np.ndarray:
        """How far the ends differ in a feature: (largest − smallest norm) / largest, feature: 0 for no difference, 1
        for a feature that one end does not have. NaN with fewer than two ends."""
        if len(self.ends) < 2:
            return np.full(len(self), np.nan)
        largest, smallest = self.end_norms.max(1), self.end_norms.min(1)
        return np.where(largest > 0, (largest - smallest) / np.where(largest > 0, largest, 1), 0.0)

    def curves(self, features: Sequence[int]) -> Curves:
        """The norms of some features along the run, one line for each. Errors: WorkbenchError for an unknown one."""
        chosen = [self.check_feature(feature) for feature in features]
        return Curves(
            self.run_norms[chosen],
            [f"feature {feature}" for feature in chosen],
            self.steps,
            x_name="step",
            title="Norms of features along the run",
            value_name="norm of the direction",
            unit="sizes of the activations",
            provenance=self.provenance,
        )

    def check_feature(self, feature: int) -> int:
        """The number of a feature. Errors: WorkbenchError if there is no such feature."""
        if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature < len(self):
            raise WorkbenchError(f"no feature {feature!r}; there are features 0 to {len(self) - 1:,}")
        return feature

    def table(self) -> pd.DataFrame:
        """One row for each feature, in their order; sort it by any column.

        - `feature`: its number.
        - `born`, `died`: the steps; empty for never.
        - `largest`: the step of its largest norm along the run.
        - `apart`: how far the ends differ, 0 to 1.
        - `ends`: the number of ends that hold it.
        - `norm REVISION`: its norm in each source.
        """
        columns: dict[str, Any] = {
            "feature": range(len(self)),
            "born": self.born,
            "died": self.died,
            "largest": np.array(self.steps)[self.run_norms.argmax(1)],
            "apart": self.apart,
            "ends": self.holding_ends.sum(1),
        }
        norms = {f"norm {revision_of(name)}": self.norms[:, n] for n, name in enumerate(self.sources)}
        return pd.DataFrame(columns | norms)

    def by_step(self) -> pd.DataFrame:
        """How many features are born and die at each checkpoint, and how many it holds: a row for each checkpoint.

        `born in all ends` counts the features born there that the last checkpoint and all ends hold.
        """
        survives = np.isnan(self.died) & self.holding_ends.all(1)
        rows = []
        for number, step in enumerate(self.steps):
            here = self.born == step
            rows.append(
                [step, here.sum(), (here & survives).sum(), (self.died == step).sum(), self.holds[:, number].sum()]
            )
        return pd.DataFrame(rows, columns=["step", "born", "born in all ends", "died", "held"])


def births(dictionary: Dictionary, *, sizes: Sequence[float] | None = None) -> FeatureBirths:
    """When each feature of a crosscoder is born, and when it dies, from its weights.

    Args:
        dictionary: a crosscoder over checkpoints of one run, whose ids contain their steps; it may include other ends
            of the run, which differ in the order of data (`step6000-order2`).
        sizes: the size of the activations of each source, in order: the root of their mean squared deviation from the
            mean, per dimension. Not needed for a crosscoder that `features.train` made, which knows them.

    Errors: WorkbenchError for a dictionary that is not a crosscoder, for sources without a step, or without sizes.
    """
    run, others, at_end = sources_along_run(dictionary)
    norms = dictionary.directions.norm(dim=-1) / sizes_of(dictionary, sizes)  # feature source
    order = [dictionary.source(one.id) for one in (*run, *others)]
    return FeatureBirths(
        dictionary=repr(dictionary),
        checkpoints=tuple(one.id for one in run),
        steps=tuple(step_in_run(one) for one in run),
        others=tuple(one.id for one in others),
        norms=norms[:, order].cpu().numpy(),
        at_end=at_end,
    )


def held(norms: np.ndarray, floor: float) -> np.ndarray:
    """Whether a feature is held: at least half of its largest norm, and above the floor. feature source, boolean."""
    return (norms >= SHARE * norms.max(1, keepdims=True, initial=0)) & (norms > floor)


def stretch(holds: np.ndarray, at: int) -> tuple[int | None, int | None]:
    """(first, one after the last) of the stretch of True around a place; (None, None) if it is False there."""
    if not holds[at]:
        return None, None
    before, after = np.flatnonzero(~holds[:at]), np.flatnonzero(~holds[at:])
    return (int(before[-1]) + 1 if len(before) else 0), (at + int(after[0]) if len(after) else len(holds))


def sources_along_run(dictionary: Dictionary) -> tuple[list[Checkpoint], list[Checkpoint], bool]:
    """(the checkpoints of the run in order, the other ends, whether the last checkpoint of the run is an end too).

    Errors: WorkbenchError for a dictionary that is not a crosscoder, or sources that do not say their steps.
    """
    if not dictionary.sources:
        raise WorkbenchError(
            f"a {dictionary.kind} is of one checkpoint; births need a crosscoder, which reads several of one run"
        )
    read = [(name, parse(revision_of(name))) for name in dictionary.sources]
    if unknown := [name for name, found in read if found is None or found.step is None]:
        raise WorkbenchError(
            f"the step of {', '.join(unknown)} is not known; name a source after its step, as step1000"
        )
    known = sorted(((name, found) for name, found in read if found is not None), key=lambda pair: pair[1].sort_key)
    series = Series(
        [
            Checkpoint(name, found.step, stage=found.stage, ingredient=found.ingredient, order=found.order)
            for name, found in known
        ],
        "",
        "",
    )
    run, ends = main_run(series), finals(series)
    if not run:
        raise WorkbenchError(
            f"{', '.join(dictionary.sources)} are all branches of a run; births need checkpoints of the run itself"
        )
    return run, [one for one in ends if one not in run], run[-1] in ends


def sizes_of(dictionary: Dictionary, sizes: Sequence[float] | None = None) -> torch.Tensor:
    """The size of the activations of each source of a crosscoder. Errors: WorkbenchError if they are not known."""
    given = dictionary.provenance.get("sizes") if sizes is None else sizes
    if given is None or len(given) != len(dictionary.sources) or not all(0 < size < float("inf") for size in given):
        found = "none" if given is None else list(given)
        raise WorkbenchError(
            f"births need the size of the activations of each of {len(dictionary.sources)} sources, a number above 0; "
            f"{'the crosscoder has' if sizes is None else 'sizes are'} {found}"
        )
    return torch.tensor(list(given), dtype=torch.float32, device=dictionary.decoder.device)


def step_in_run(checkpoint: Checkpoint) -> int:
    """The step of a checkpoint, counted over all stages of the run."""
    place = checkpoint.place("step")
    assert place is not None  # `sources_along_run` refuses checkpoints without a step
    return place


def revision_of(name: str) -> str:
    """The revision of a checkpoint's id; of an id without one, the last part of its path."""
    return split_id(name)[1] or Path(name).name
