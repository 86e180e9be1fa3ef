"""Results of calls, kept in the result cache, with their provenance."""

import time
from typing import Any

import pandas as pd

from workbench.page.session.arguments import (
    IdsOf,
    ModelOf,
    ModelsOf,
    PairsOf,
    Placeholder,
    SeriesRun,
    TextsOf,
    TokensOf,
)
from workbench.page.session.bench import Bench
from workbench.page.session.calls import Call, run
from workbench.page.session.code import Variables
from workbench.page.session.prices import Planner
from workbench.page.session.saved import is_saved
from workbench.progress import Progress, report
from workbench.report import Report, Section, dtype_name, report_of
from workbench.results import Result
from workbench.versions import packages


def result(call: Call, bench: Bench, progress: Progress | None = None) -> Any:  # noqa: ANN401 - a result of any shape
    """A call's result with its provenance; taken from the result cache if it is there."""

    waited = [0.0]

    def step(fraction: float, text: str) -> None:
        waited.append(bench.lock.give_way())
        report(progress, fraction, text)

    def make() -> Result:
        names = [needed.name for needed in call.needs() if isinstance(needed, ModelOf)]
        began, were_loaded = time.monotonic(), bool(names) and {*names} <= {*bench.residents.ids}
        found = run(call, bench, step)
        if were_loaded:
            count_time(call, bench, names[0], time.monotonic() - began - sum(waited))
        return found if is_saved(call) else found.with_provenance(origin(call, bench))

    return bench.once(call, make)


def cached_value(call: Call, bench: Bench, progress: Progress | None = None) -> Any:  # noqa: ANN401 - a table, or a probe
    """The value of a call that has no provenance of its own, such as a table; from the result cache if it is there."""
    return bench.once(call, lambda: run(call, bench, progress))


def report_of_call(call: Call, bench: Bench) -> Report:
    """The report of a call's value, for downloads."""
    if not call.returns(pd.DataFrame):
        return report_of(result(call, bench))
    title = call.function.__name__
    return Report(title, [Section(title, cached_value(call, bench))], origin(call, bench))


def count_time(call: Call, bench: Bench, checkpoint: str, seconds: float) -> None:
    """Count a call and the seconds that it took in the measured speed of runs, if the call states its work."""
    work = Planner(bench).work(call)
    if work.at_most == work.flops and not work.read:
        bench.speed_of(checkpoint).runs.measured(work.flops, seconds)


def origin(call: Call, bench: Bench) -> dict[str, str]:
    """The provenance of a call's numbers: its checkpoints and how they were loaded, the call with all its settings, its
    texts, and versions of packages."""
    needs = list(call.needs())
    texts = dict.fromkeys(needed.shown for needed in needs if isinstance(needed, TokensOf | IdsOf))
    about = {"checkpoints": ", ".join(dict.fromkeys(needed.name for needed in needs)), **bench.options}
    about |= dtype_of(call, bench)
    about |= {"call": " ".join(Variables(bench, call).write(call).split())}
    about |= {"edits": "; ".join(call.edits.split("\n"))} if call.edits else {}
    about |= {("tokens" if place == 0 else f"tokens_{place + 1}"): text for place, text in enumerate(texts)}
    sets = [bench.sets.get(needed.chosen).counted for needed in needs if isinstance(needed, TextsOf)]
    about |= {"texts": ", ".join(dict.fromkeys(sets))} if sets else {}
    pairs = dict.fromkeys(needed.chosen for needed in needs if isinstance(needed, PairsOf))
    about |= {"pairs": ", ".join(pairs)} if pairs else {}
    return about | packages()


def dtype_of(call: Call, bench: Bench) -> dict[str, str]:
    """The dtype of a call's models, as an entry of `origin`; empty if the call loads no model."""
    parts = [part for each in call.calls() for part in each.parts]
    models = [part for part in parts if isinstance(part, ModelOf)]
    if models:
        return {"dtype": dtype_name(bench.load(models[-1].name)[0].dtype)}
    by_name = any(isinstance(part, SeriesRun | ModelsOf) or type(part) is Placeholder for part in parts)
    return {"dtype": bench.dtype} if by_name else {}
