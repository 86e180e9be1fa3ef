"""Series of checkpoints: the embedded one, local folders with one sub-folder a step, and revisions on the hub.

An id is `name@revision`. A series is sorted by stage, ingredient and step; its last entry is the end of the main run
(`main` on the hub), so branches with another data order come just before the checkpoint they compare with.
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
"""What a run can be followed along."""

MOST_NAMED = 4  # gaps, and folders left out, that a note names


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a series. What its name does not say is None.

    `step` and `tokens` are those of its name, which begin anew in every stage; `before` are the steps and tokens of the
    stages before its own. `measured` holds what the series' own `series.json` says about it, where there is one.
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
        """The name of the series that this belongs to."""
        return split_id(self.id)[0]

    @property
    def is_branch(self) -> bool:
        """Whether this lies off the main run: another data order, or one ingredient of several."""
        return self.order is not None or self.ingredient is not None

    def place(self, axis: str) -> int | None:
        """Steps ("step") or tokens ("tokens") since the beginning of training, all stages together; None if unknown.

        Errors: WorkbenchError for another axis.
        """
        if axis not in AXES:
            raise WorkbenchError(f"axis={axis!r}; choices: {', '.join(AXES)}")
        within, before = getattr(self, axis), self.before[AXES.index(axis)]
        return None if within is None or before is None else before + within


class Series(list[Checkpoint]):
    """A sorted list of checkpoints that knows where it was read: "embedded", "folder", "hub" or "cache".

    `note` is a sentence for the reader where the list may be incomplete or leaves out steps, else empty.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint], name: str, source: str, notes: Iterable[str] = ()) -> None:
        super().__init__(_counted(checkpoints))
        self.name, self.source = name, source
        missing = [f"{gap.missing} between {gap.after.revision} and {gap.before.revision}" for gap in gaps(self)]
        more = [f"and {len(missing) - MOST_NAMED} more gaps"] if len(missing) > MOST_NAMED else []
        told = [f"missing at the usual spacing: {', '.join(missing[:MOST_NAMED] + more)}"] if missing else []
        self.note = "; ".join([*notes, *told])

    def table(self) -> pd.DataFrame:
        """A row a checkpoint: its id, step, tokens, stage, ingredient, data order and family; `missing` says how many
        are left out before it, at its run's usual spacing."""
        names = ["id", "step", "tokens", "stage", "ingredient", "order"]
        table = pd.DataFrame([[getattr(c, name) for name in names] for c in self], columns=names)
        table = table.astype(dict.fromkeys(names[1:], "Int64")).assign(family=[c.family for c in self])
        missing = {gap.before.id: gap.missing for gap in gaps(self)}
        return table.assign(missing=[missing.get(c.id, 0) for c in self])


@dataclass(frozen=True)
class Gap:
    """Steps that a series leaves out: `missing` checkpoints between `after` and `before`, at its usual spacing."""

    after: Checkpoint
    before: Checkpoint
    missing: int


def series(name: str) -> Series:
    """All checkpoints of a series by name: an embedded one, a local folder, a published model ("OLMo 2 1B") or a hub
    repository.

    Errors: WorkbenchError if nothing of that name is found, with the choices.
    """
    name = repository_of(name)
    if name in EMBEDDED:
        return folder_series(EMBEDDED[name], name, "embedded")
    if Path(name).is_dir():
        return folder_series(Path(name), name)
    if hub.is_repository(name):
        return _hub_series(name)
    raise WorkbenchError(
        f"no series {name!r}: neither embedded ({', '.join(EMBEDDED)}), nor a folder here, nor a hub repository such "
        f"as {PUBLISHED[0].repository}, nor a published model: {', '.join(known.name for known in PUBLISHED)}"
    )


def folder_series(folder: Path, name: str, source: str = "folder") -> Series:
    """The series of a folder with one sub-folder a step; a folder that is itself a checkpoint is a series of one.

    Sub-folders whose name is no step are left out; those that hold no weights, or a config that cannot be read, are
    left out and named in the note.
    Errors: WorkbenchError if there is no checkpoint at all.
    """
    if not folder.is_dir():
        raise WorkbenchError(f"the folder of {name} is not there: {folder}")
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
    """The checkpoints of one run from start to end: without other data orders, and with one ingredient at most.

    Entries without a step (`main`) are left out where others have one, since they stand for no point of the run.
    """
    kept = [c for c in checkpoints if c.order is None and c.ingredient in (None, ingredient)]
    return [c for c in kept if c.step is not None] or kept


def last(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The end of training: the last checkpoint of a sorted series that lies on no branch, if there is one."""
    return next((c for c in reversed(checkpoints) if not c.is_branch), checkpoints[-1])


def finals(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The last checkpoint of the main run, and those that differ from it by data order only, main run first.

    Where a stage has several ingredients and no data orders are told apart, the last of each ingredient.
    """
    orders = [c for c in checkpoints if c.order is not None]
    if orders:
        last = max(c.step for c in orders if c.step is not None)
        return [c for c in main_run(checkpoints) if c.step == last] + [c for c in orders if c.step == last]
    return list({c.ingredient: c for c in checkpoints if c.ingredient is not None}.values())


def gaps(checkpoints: Sequence[Checkpoint]) -> list[Gap]:
    """Where a series leaves out steps, by run (stage, ingredient, data order).

    The usual spacing of a run is the one that at least half of its neighbours have; without one (a series spaced by
    logarithm) there is nothing to miss.
    """
    runs: dict[tuple[int | None, int | None], list[tuple[int, Checkpoint]]] = {}
    for checkpoint in checkpoints:
        if checkpoint.step is not None and checkpoint.order is None:
            runs.setdefault((checkpoint.stage, checkpoint.ingredient), []).append((checkpoint.step, checkpoint))
    return [gap for run in runs.values() for gap in _gaps_of_run(run)]


def pick(checkpoints: Sequence[Checkpoint], count: int) -> list[Checkpoint]:
    """`count` checkpoints of a long run, as evenly spaced in log(1 + step) as they are, the first and the last among
    them; all of them where there are no more. Those whose neighbours are closest to each other are dropped first.

    Errors: WorkbenchError if count is below 2 or the run has entries without a step.
    """
    if count < 2:
        raise WorkbenchError(f"{count} checkpoints to pick; at least 2, the first and the last")
    kept = [(math.log1p(place), c) for c in checkpoints if (place := c.place("step")) is not None]
    if len(kept) < len(checkpoints):
        raise WorkbenchError("only checkpoints with a step can be picked from; take main_run(series)")
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


def _counted(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Sorted checkpoints, each with what the stages before its own took: as far as the furthest of each goes."""
    counted: list[Checkpoint] = []
    before: tuple[int, int | None] = (0, 0)
    for _, group in groupby(checkpoints, key=lambda checkpoint: (checkpoint.stage, checkpoint.step is None)):
        stage = [replace(checkpoint, before=before) for checkpoint in group]
        counted += stage
        steps, tokens = ([place for c in stage if (place := c.place(axis)) is not None] for axis in AXES)
        before = (max(steps, default=before[0]), max(tokens) if len(tokens) == len(stage) else None)
    return counted


def _told(folder: Path) -> dict[str, dict[str, Any]]:
    """What `series.json` says, by revision: `{"checkpoints": [{"revision": "step50", "tokens": …, …}]}`."""
    path = folder / "series.json"
    if not is_there(path):
        return {}
    records = read_json(path).get("checkpoints")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise WorkbenchError(f"{path} has no list `checkpoints` of records with a revision")
    for record in records:
        revision, tokens = record.get("revision"), record.get("tokens")
        if not isinstance(revision, str):
            raise WorkbenchError(f"{path} has no list `checkpoints` of records with a revision: {shown(record)}")
        if tokens is not None and (type(tokens) is not int or tokens < 0):
            raise WorkbenchError(f"{path}: {shown(revision)} has tokens: {shown(tokens)}, which is no count")
    return {record["revision"]: record for record in records}


def _hub_series(repository: str) -> Series:
    found = hub.revisions(repository)
    read = sorted((r for name in found.names if (r := parse(name))), key=lambda revision: revision.sort_key)
    if not read:
        raise WorkbenchError(f"{repository} has no revision that names a step; it has {', '.join(found.names[:8])}")
    family = next((known.family for known in PUBLISHED if known.repository == repository), None)
    checkpoints = [_checkpoint(repository, r, r.name, family, r.tokens, {}) for r in read]
    return Series(checkpoints, repository, "cache" if found.note else "hub", [found.note] if found.note else [])


def _gaps_of_run(run: Sequence[tuple[int, Checkpoint]]) -> list[Gap]:
    """The gaps of one run, given as steps with their checkpoints, in order."""
    pairs = list(pairwise(run))
    spacings = Counter(b - a for (a, _), (b, _) in pairs)
    if not spacings:
        return []
    usual, times = spacings.most_common(1)[0]
    if usual <= 0 or 2 * times < len(pairs):
        return []
    return [Gap(one, other, (b - a) // usual - 1) for (a, one), (b, other) in pairs if b - a >= 2 * usual]
