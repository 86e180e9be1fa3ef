"""Runs the Python that the page copies, and keeps what it shows instead of opening a browser."""

from typing import Any
from unittest.mock import patch

from plotly.graph_objects import Figure

from workbench.views.standalone import StandalonePage


def run_copied(source: str, name: str = "copied") -> dict[str, Any]:
    """The variables of a program after its end; "shown" holds the figures and pages that it showed."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown: list[Figure | StandalonePage] = []
    with (
        patch.object(Figure, "show", lambda figure: shown.append(figure)),
        patch.object(StandalonePage, "show", lambda page: shown.append(page)),
    ):
        exec(compile(source, name, "exec"), names)
    return names | {"shown": shown}
