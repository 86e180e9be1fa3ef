"""Series of checkpoints: the embedded one, local folders with one sub-folder a step, and revisions on the hub.

An id is `name@revision`. A series is sorted by stage, ingredient and step; its last entry is the end of the main run
(`main` on the hub), so branches with another data order come just before the checkpoint they compare with.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from workbench.checkpoints import hub
from workbench.checkpoints.files import INDEX_FILES, SINGLE_FILES, read_json
from workbench.checkpoints.names import Revision, parse, split_id
from workbench.checkpoints.published import PUBLISHED
from workbench.checkpoints.weights import family_of, read_settings
from workbench.errors import WorkbenchError

EMBEDDED = {"tiny-olmo": Path(__file__).parents[1] / "tiny_olmo" / "checkpoints"}
"""Series that ship with the workbench, and their folders."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a series. What its name does not say is None.

    `measured` holds the numbers that the series' own `series.json` gives for it, where there is one.
    """

    id: str
    step: int | None = None
    tokens: int | None = None
    stage: int | None = None
    revision: str | None = None
    family: str | None = None
    ingredient: int | None = None
    order: int | None = None
    measured: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The name of the series that this belongs to."""
        return split_id(self.id)[0]

    @property
    def is_branch(self) -> bool:
        """Whether this lies off the main run: another data order, or one ingredient of several."""
        return self.order is not None or self.ingredient is not None


class Series(list[Checkpoint]):
    """A sorted list of checkpoints that knows where it was read: "embedded", "folder", "hub" or "cache".

    `note` is a sentence for the reader where the list may be incomplete, else empty.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint], name: str, source: str, note: str = "") -> None:
        super().__init__(checkpoints)
        self.name, self.source, self.note = name, source, note


@dataclass(frozen=True)
class Gap:
    """Steps that a series leaves out: `missing` checkpoints between `after` and `before`, at its usual spacing."""

    after: Checkpoint
    before: Checkpoint
    missing: int


def series(name: str) -> Series:
    """All checkpoints of a series by name: an embedded one, a local folder, or a hub repository.

    Errors: WorkbenchError if nothing of that name is found, with the choices.
    """
    if name in EMBEDDED:
        return folder_series(EMBEDDED[name], name, "embedded")
    if Path(name).is_dir():
        return folder_series(Path(name), name)
    if hub.is_repository(name):
        return _hub_series(name)
    raise WorkbenchError(
        f"no series {name!r}: neither embedded ({', '.join(EMBEDDED)}), nor a folder here, nor a hub repository "
        f"such as {PUBLISHED[0].repository}"
    )


def folder_series(folder: Path, name: str, source: str = "folder") -> Series:
    """The series of a folder with one sub-folder a step; a folder that is itself a checkpoint is a series of one.

    Sub-folders whose name is no step or that hold no weights are left out, and the note says which hold none.
    Errors: WorkbenchError if there is no checkpoint at all.
    """
    if not folder.is_dir():
        raise WorkbenchError(f"the folder of {name} is not there: {folder}")
    told = _told(folder)
    read = [revision for path in sorted(folder.iterdir()) if path.is_dir() and (revision := parse(path.name))]
    whole = [revision for revision in read if has_weights(folder / revision.name)]
    if not whole and has_weights(folder):
        revision = parse(folder.name) or Revision(folder.name)
        return Series([_local(folder, name, revision, None, {})], name, source)
    if not whole:
        raise WorkbenchError(f"no checkpoints in {folder}: no sub-folder named after a step (step1000, …) has weights")
    whole.sort(key=lambda revision: revision.sort_key)
    empty = [revision.name for revision in read if revision not in whole]
    note = f"without weights, left out: {', '.join(empty)}" if empty else ""
    return Series([_local(folder / r.name, name, r, r.name, told.get(r.name, {})) for r in whole], name, source, note)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a file that weights are read from."""
    return any((folder / name).is_file() for name in INDEX_FILES + SINGLE_FILES)


def main_run(checkpoints: Sequence[Checkpoint], ingredient: int | None = None) -> list[Checkpoint]:
    """The checkpoints of one run from start to end: without other data orders, and with one ingredient at most.

    Entries without a step (`main`) are left out where others have one, since they stand for no point of the run.
    """
    kept = [c for c in checkpoints if c.order is None and c.ingredient in (None, ingredient)]
    return [c for c in kept if c.step is not None] or kept


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
    runs: dict[tuple, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        if checkpoint.step is not None and checkpoint.order is None:
            runs.setdefault((checkpoint.stage, checkpoint.ingredient), []).append(checkpoint)
    return [gap for run in runs.values() for gap in _gaps_of_run(run)]


def pick(checkpoints: Sequence[Checkpoint], count: int) -> list[Checkpoint]:
    """At most `count` checkpoints of a long run, spaced evenly in log(1 + step), the first and the last among them.

    Errors: WorkbenchError if count is below 2 or the run has entries without a step.
    """
    if count < 2:
        raise WorkbenchError(f"{count} checkpoints to pick; at least 2, the first and the last")
    if any(c.step is None for c in checkpoints):
        raise WorkbenchError("only checkpoints with a step can be picked from; take main_run(series)")
    if len(checkpoints) <= count:
        return list(checkpoints)
    places = [math.log1p(c.step) for c in checkpoints]
    targets = [places[0] + (places[-1] - places[0]) * i / (count - 1) for i in range(count)]
    chosen = {min(range(len(places)), key=lambda i: abs(places[i] - target)) for target in targets}
    return [checkpoints[i] for i in sorted(chosen | {0, len(places) - 1})]


def _local(folder: Path, name: str, revision: Revision, named: str | None, told: Mapping[str, Any]) -> Checkpoint:
    settings, _ = read_settings(folder)
    tokens = told.get("tokens", revision.tokens)
    return _checkpoint(name, revision, named, family_of(settings), tokens, told)


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


def _told(folder: Path) -> dict[str, dict[str, Any]]:
    """What `series.json` says, by revision: `{"checkpoints": [{"revision": "step50", "tokens": …, …}]}`."""
    path = folder / "series.json"
    if not path.is_file():
        return {}
    records = read_json(path).get("checkpoints")
    if not isinstance(records, list) or not all(isinstance(r, dict) and "revision" in r for r in records):
        raise WorkbenchError(f"{path} has no list `checkpoints` of records with a revision")
    return {record["revision"]: record for record in records}


def _hub_series(repository: str) -> Series:
    found = hub.revisions(repository)
    read = sorted((r for name in found.names if (r := parse(name))), key=lambda revision: revision.sort_key)
    if not read:
        raise WorkbenchError(f"{repository} has no revision that names a step; it has {', '.join(found.names[:8])}")
    family = next((known.family for known in PUBLISHED if known.repository == repository), None)
    checkpoints = [_checkpoint(repository, r, r.name, family, r.tokens, {}) for r in read]
    return Series(checkpoints, repository, "cache" if found.note else "hub", found.note)


def _gaps_of_run(run: Sequence[Checkpoint]) -> list[Gap]:
    pairs = list(pairwise(run))
    spacings = Counter(b.step - a.step for a, b in pairs)
    if not spacings:
        return []
    usual, times = spacings.most_common(1)[0]
    if usual <= 0 or 2 * times < len(pairs):
        return []
    return [Gap(a, b, (b.step - a.step) // usual - 1) for a, b in pairs if b.step - a.step >= 2 * usual]
