"""Series of checkpoints: embedded ones, local folders with one sub-folder for each step, and revisions on the hub.

An id is `name@revision`. A series is sorted by stage, ingredient and step. Its last entry is the end of the main run
(`main` on the hub); branches with another data order come before the checkpoint of the main run at the same step.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.checkpoints import hub
from workbench.checkpoints.files import has_weights, is_there, read_json, why_no_weights
from workbench.checkpoints.names import Revision, parse, split_id
from workbench.checkpoints.published import PUBLISHED, repository_of
from workbench.checkpoints.settings import family_name, read_settings
from workbench.errors import WorkbenchError, shown

EMBEDDED = {"tiny-olmo": Path(__file__).parents[1] / "tiny_olmo" / "checkpoints"}
"""Series that ship with the workbench, and their folders."""

AXES = ("step", "tokens")
"""Axes for the progress of a training run."""

MOST_NAMED = 4  # gaps, and skipped folders, that a note lists


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a series. A field that is not in the checkpoint's name is None.

    Attributes:
        id: `name@revision`.
        step, tokens: counts within the stage, which start at 0 in each stage; see `place` for the whole run. Tokens may
            also come from `series.json`.
        stage, ingredient, order: numbers of the training stage, the ingredient and the data order.
        revision: revision on the hub, or name of the sub-folder.
        family: name of the model family, for example "OLMo 2"; None if unknown.
        before: (steps, tokens) of all earlier stages.
        measured: the record of this checkpoint in the `series.json` of its series; empty without one.
    """

    id: str
    step: int | None = None
    tokens: int | None = None
    stage: int | None = None
    revision: str | None = None
    family: str | None = None
    ingredient: int | None = None
    order: int | None = None
    before: tuple[int, int | None] = field(default=(0, 0), compare=False, repr=False)
    measured: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The name of the checkpoint's series."""
        return split_id(self.id)[0]

    @property
    def is_branch(self) -> bool:
        """Whether the checkpoint is not on the main run: it has another data order, or is one ingredient of several."""
        return self.order is not None or self.ingredient is not None

    def place(self, axis: str) -> int | None:
        """Steps (`axis="step"`) or tokens (`axis="tokens"`) since the start of training, over all stages.

        None if unknown. Errors: WorkbenchError for another axis.
        """
        if axis not in AXES:
            raise WorkbenchError(f"axis={axis!r}; choices: {', '.join(AXES)}")
        within, before = getattr(self, axis), self.before[AXES.index(axis)]
        return None if within is None or before is None else before + within


CheckpointLike = str | Path | Checkpoint
"""A checkpoint: an id `name@revision`, a folder, or an entry of a series."""


def id_of(checkpoint: CheckpointLike) -> str:
    """The id of a checkpoint. Errors: WorkbenchError for a value of another type."""
    if isinstance(checkpoint, Checkpoint):
        return checkpoint.id
    if isinstance(checkpoint, str | Path):
        return str(checkpoint)
    raise WorkbenchError(
        f"{shown(checkpoint)} is not a checkpoint; give an id such as 'tiny-olmo@step4000', a folder, or an entry of a "
        "series"
    )


class Series(list[Checkpoint]):
    """A sorted list of the checkpoints of a series.

    Attributes:
        name: name of the series.
        source: origin of the list: "embedded", "folder", "hub" or "cache".
        note: a sentence for the user if the list may be incomplete or has missing steps, else "".
    """

    def __init__(self, checkpoints: Iterable[Checkpoint], name: str, source: str, notes: Iterable[str] = ()) -> None:
        super().__init__(_after_earlier_stages(checkpoints))
        self.name, self.source = name, source
        missing = [f"{gap.missing} between {gap.after.revision} and {gap.before.revision}" for gap in gaps(self)]
        more = [f"and {len(missing) - MOST_NAMED} more gaps"] if len(missing) > MOST_NAMED else []
        told = [f"missing at the usual spacing: {', '.join(missing[:MOST_NAMED] + more)}"] if missing else []
        self.note = "; ".join([*notes, *told])

    def table(self) -> pd.DataFrame:
        """One row for each checkpoint: id, step, tokens, stage, ingredient, order, family, `missing`.

        `missing` is the number of checkpoints missing before this one, at the usual spacing of the run (see `gaps`).
        """
        names = ["id", "step", "tokens", "stage", "ingredient", "order"]
        table = pd.DataFrame([[getattr(c, name) for name in names] for c in self], columns=names)
        table = table.astype(dict.fromkeys(names[1:], "Int64")).assign(family=[c.family for c in self])
        missing = {gap.before.id: gap.missing for gap in gaps(self)}
        return table.assign(missing=[missing.get(c.id, 0) for c in self])


@dataclass(frozen=True)
class Gap:
    """A gap in a series: at its usual spacing, `missing` checkpoints are absent between `after` and `before`."""

    after: Checkpoint
    before: Checkpoint
    missing: int


def series(name: str | Path) -> Series:
    """All checkpoints of a series.

    Args:
        name: an embedded series, a local folder, a published model ("OLMo 2 1B") or a hub repository.

    Errors: WorkbenchError with the choices if there is no series of this name.
    """
    name = repository_of(str(name))
    if name in EMBEDDED:
        return folder_series(EMBEDDED[name], name, "embedded")
    if Path(name).is_dir():
        return folder_series(Path(name), name)
    if hub.is_repository(name):
        return _hub_series(name)
    raise WorkbenchError(
        f"no series {name!r}; choose an embedded series ({', '.join(EMBEDDED)}), a local folder, a hub repository such "
        f"as {PUBLISHED[0].repository}, or a published model: {', '.join(known.name for known in PUBLISHED)}"
    )


def folder_series(folder: Path, name: str, source: str = "folder") -> Series:
    """The series of a folder with one sub-folder for each step; a folder that is a checkpoint is a series of one.

    Sub-folders whose name has no step are skipped. Sub-folders without weights or with an unreadable config are skipped
    too, and listed in the note.
    Errors: WorkbenchError if there is no checkpoint at all.
    """
    if not folder.is_dir():
        raise WorkbenchError(f"the folder of {name} does not exist: {folder}")
    told, found, left_out = _told(folder), [], []
    read = [revision for path in folder.iterdir() if path.is_dir() and (revision := parse(path.name))]
    for revision in sorted(read, key=lambda revision: revision.sort_key):
        try:
            found.append(_local(folder / revision.name, name, revision, revision.name, told.get(revision.name, {})))
        except WorkbenchError as error:
            left_out.append(str(error))
    if not found and has_weights(folder):
        return Series([_local(folder, name, parse(folder.name) or Revision(folder.name), None, {})], name, source)
    if not found:
        reason = left_out[0] if left_out else "no sub-folder is named after a step (step1000, …)"
        raise WorkbenchError(f"no checkpoints in {folder}: {reason}")
    more = [f"and {len(left_out) - MOST_NAMED} more"] if len(left_out) > MOST_NAMED else []
    notes = [f"left out: {'; '.join(left_out[:MOST_NAMED] + more)}"] if left_out else []
    return Series(found, name, source, notes)


def main_run(checkpoints: Sequence[Checkpoint], ingredient: int | None = None) -> list[Checkpoint]:
    """The checkpoints of one run from start to end: without other data orders, and with at most one ingredient.

    Entries without a step (`main`) have no place on the axis; they are skipped if other entries have a step.
    """
    kept = [c for c in checkpoints if c.order is None and c.ingredient in (None, ingredient)]
    return [c for c in kept if c.step is not None] or kept


def last(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The end of training: the last checkpoint of a sorted series that is not on a branch; if all are, the last one."""
    return next((c for c in reversed(checkpoints) if not c.is_branch), checkpoints[-1])


def finals(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The last checkpoints of runs that can be compared with each other.

    If the series has other data orders than the main run's: the checkpoints of all orders at the last step of those
    orders, main run first. Otherwise the last checkpoint of each ingredient; empty if there are no ingredients.
    """
    orders = [c for c in checkpoints if c.order is not None]
    if orders:
        last = max(c.step for c in orders if c.step is not None)
        return [c for c in main_run(checkpoints) if c.step == last] + [c for c in orders if c.step == last]
    return list({c.ingredient: c for c in checkpoints if c.ingredient is not None}.values())


def gaps(checkpoints: Sequence[Checkpoint]) -> list[Gap]:
    """The gaps of a series, for each run (stage and ingredient; other data orders are ignored).

    The usual spacing of a run is the step difference that at least half of its neighbouring checkpoints have. A run
    without one (for example, with logarithmic spacing) has no gaps.
    """
    runs: dict[tuple[int | None, int | None], list[tuple[int, Checkpoint]]] = {}
    for checkpoint in checkpoints:
        if checkpoint.step is not None and checkpoint.order is None:
            runs.setdefault((checkpoint.stage, checkpoint.ingredient), []).append((checkpoint.step, checkpoint))
    return [gap for run in runs.values() for gap in _gaps_of_run(run)]


def pick(checkpoints: Sequence[Checkpoint], count: int) -> list[Checkpoint]:
    """`count` checkpoints of a long run, about evenly spaced in log(1 + step), with the first and the last.

    Method: repeatedly drop the checkpoint whose two neighbours are closest to each other. Returns all checkpoints if
    there are at most `count`.
    Errors: WorkbenchError if `count` is below 2 or an entry has no step.
    """
    if count < 2:
        raise WorkbenchError(f"count is {count}; it should be at least 2, for the first and the last checkpoint")
    kept = [(math.log1p(place), c) for c in checkpoints if (place := c.place("step")) is not None]
    if len(kept) < len(checkpoints):
        raise WorkbenchError("every checkpoint to pick from needs a step; use main_run(series)")
    while len(kept) > count:
        del kept[min(range(1, len(kept) - 1), key=lambda i: kept[i + 1][0] - kept[i - 1][0])]
    return [checkpoint for _, checkpoint in kept]


def _local(folder: Path, name: str, revision: Revision, named: str | None, told: Mapping[str, Any]) -> Checkpoint:
    if not has_weights(folder):
        raise WorkbenchError(why_no_weights(folder))
    settings, _ = read_settings(folder)
    tokens = told.get("tokens", revision.tokens)
    return _checkpoint(name, revision, named, family_name(settings), tokens, told)


def _checkpoint(
    name: str,
    revision: Revision,
    named: str | None,
    family: str | None,
    tokens: int | None,
    measured: Mapping[str, Any],
) -> Checkpoint:
    return Checkpoint(
        id=f"{name}@{named}" if named else name,
        step=revision.step,
        tokens=tokens,
        stage=revision.stage,
        revision=named,
        family=family,
        ingredient=revision.ingredient,
        order=revision.order,
        measured=measured,
    )


def _after_earlier_stages(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Sorted checkpoints with `before` set: the sums of the largest step and token counts of all earlier stages.

    The sum of tokens is None if a token count is unknown.
    """
    counted: list[Checkpoint] = []
    before: tuple[int, int | None] = (0, 0)
    for _, group in groupby(checkpoints, key=lambda checkpoint: (checkpoint.stage, checkpoint.step is None)):
        stage = [replace(checkpoint, before=before) for checkpoint in group]
        counted += stage
        steps, tokens = ([place for c in stage if (place := c.place(axis)) is not None] for axis in AXES)
        before = (max(steps, default=before[0]), max(tokens) if len(tokens) == len(stage) else None)
    return counted


def _told(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of `series.json` by revision; empty without the file.

    Its form is `{"checkpoints": [{"revision": "step50", "tokens": …, …}]}`.
    Errors: WorkbenchError if it has another form.
    """
    path = folder / "series.json"
    if not is_there(path):
        return {}
    records = read_json(path).get("checkpoints")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise WorkbenchError(f"{path} needs a list `checkpoints` of records, each with a revision")
    for record in records:
        revision, tokens = record.get("revision"), record.get("tokens")
        if not isinstance(revision, str):
            raise WorkbenchError(f"{path} has a record in `checkpoints` without a revision: {shown(record)}")
        if tokens is not None and (type(tokens) is not int or tokens < 0):
            raise WorkbenchError(f"{path}: {shown(revision)} has tokens: {shown(tokens)}; it should be a whole number")
    return {record["revision"]: record for record in records}


def _hub_series(repository: str) -> Series:
    found = hub.revisions(repository)
    read = sorted((r for name in found.names if (r := parse(name))), key=lambda revision: revision.sort_key)
    if not read:
        raise WorkbenchError(f"{repository} has no revision named after a step; it has {', '.join(found.names[:8])}")
    family = next((known.family for known in PUBLISHED if known.repository == repository), None)
    checkpoints = [_checkpoint(repository, r, r.name, family, r.tokens, {}) for r in read]
    return Series(checkpoints, repository, "cache" if found.note else "hub", [found.note] if found.note else [])


def _gaps_of_run(run: Sequence[tuple[int, Checkpoint]]) -> list[Gap]:
    """The gaps of one run, which is given as (step, checkpoint) in order."""
    pairs = list(pairwise(run))
    spacings = Counter(b - a for (a, _), (b, _) in pairs)
    if not spacings:
        return []
    usual, times = spacings.most_common(1)[0]
    if usual <= 0 or 2 * times < len(pairs):
        return []
    return [Gap(one, other, (b - a) // usual - 1) for (a, one), (b, other) in pairs if b - a >= 2 * usual]
