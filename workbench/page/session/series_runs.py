"""The main run of a series as the page has it: its checkpoints on this machine, and how they are loaded."""

from collections.abc import Sequence

from workbench.analyses.trajectory import Loading
from workbench.checkpoints import Checkpoint
from workbench.page.session.arguments import SeriesRun
from workbench.page.session.bench import Bench
from workbench.page.session.calls import Call


def series_run(bench: Bench, run: Sequence[Checkpoint]) -> SeriesRun:
    """The checkpoints of a run as an argument: without ids if they are the whole main run."""
    name = run[-1].name
    return SeriesRun(name, () if run == bench.main_run(name) else tuple(one.id for one in run))


def too_few(bench: Bench, checkpoint: str) -> str:
    """A sentence that says why the main run of a checkpoint's series cannot be shown: fewer than two checkpoints."""
    why = absent(bench.run_of(checkpoint), bench.run_here(checkpoint)) or "it has only one checkpoint."
    return f"There are no checkpoints to compare in {bench.series_of(checkpoint)}: {why}"


def absent(whole: list[Checkpoint], here: list[Checkpoint]) -> str:
    """A sentence on the number of checkpoints that are on this machine; empty if all are."""
    if len(here) == len(whole):
        return ""
    return f"{len(here)} of its {len(whole)} checkpoints are on this machine; “Fetch the others” downloads the rest."


def loading_of(bench: Bench) -> dict[str, Call]:
    """The option that makes `trajectory` load checkpoints as the page does."""
    return {"loading": Call.quick(Loading, **bench.options)} if bench.options else {}
