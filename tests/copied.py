"""Runs the Python that the page copies, and keeps what it shows instead of opening a browser."""

from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
from plotly.graph_objects import Figure

from workbench import checkpoints
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.code import code
from workbench.results import Measures
from workbench.views.standalone import StandalonePage

load_once = cache(checkpoints.load)
"""Loads a checkpoint for all programs of this process: they read the same few, and change none."""


def run_copied(source: str, name: str = "copied") -> dict[str, Any]:
    """The variables of a program after its end; "shown" holds the figures and pages that it showed."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown: list[Figure | StandalonePage] = []
    with (
        patch.object(Figure, "show", lambda figure: shown.append(figure)),
        patch.object(StandalonePage, "show", lambda page: shown.append(page)),
        patch.object(checkpoints, "load", load_once),
    ):
        exec(compile(source, name, "exec"), names)
    return names | {"shown": shown}


def check_copied(call: Call, bench: Bench, name: str = "copied") -> tuple[Any, dict[str, Any]]:
    """Check that a call's copied Python gives the numbers that the page shows; returns (the result that is shown, the
    variables of the program).
    """
    shown = result(call, bench)
    names = run_copied(code(call, bench), name)
    copied = names["result"]
    assert type(copied) is type(shown) and not isinstance(shown, Measures), name
    assert np.allclose(copied.values, shown.values, atol=1e-6, equal_nan=True), name
    return shown, names
