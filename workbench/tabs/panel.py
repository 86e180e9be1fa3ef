"""A plot with everything that belongs to a view: its Python, its data, its picture, a page of its own, and a link."""

import hashlib
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components import Component

from workbench import views
from workbench.plots import plot
from workbench.progress import Progress
from workbench.results import Measures, Result
from workbench.tabs.bench import Bench
from workbench.tabs.calls import Call, code, result
from workbench.tabs.place import Due


class Panel:
    """One plot and its tools. `chooses` says what of the selection a click on the plot sets: {"x": "head", …}."""

    def __init__(self, elem_id: str, chooses: dict[str, str] | None = None) -> None:
        self._about = {"panel": elem_id, "chooses": chooses or {}}
        with gr.Column(elem_id=elem_id, min_width=300):
            self.plot = gr.Plot(show_label=False, elem_classes="figure")
            self.tools = views.tools(self._about, elem_id=f"{elem_id}-tools")

    @property
    def outputs(self) -> list[Component]:
        return [self.plot, self.tools]

    def drawing(self, call_of: Callable[..., Call]) -> Callable[..., list[Any]]:
        """What draws the panel, given what says which call it shows: `call_of(bench, due, *controls)`."""

        def draw(bench: Bench, due: Due, *controls: object, progress: Progress) -> list[Any]:
            return self.show(bench, call_of(bench, due, *controls), progress)

        return draw

    def show(self, bench: Bench, call: Call, progress: Progress | None = None) -> list[Any]:
        """The outputs' values: the call's result as a figure, and what the tools need to know of it."""
        found = result(call, bench, progress)
        return [plot(found), self._about | {"key": keep(bench, call), "code": code(call, bench)}]


def keep(bench: Bench, call: Call) -> str:
    """Remember a call for its downloads, under a key that names nothing."""
    key = hashlib.sha256(code(call, bench).encode()).hexdigest()[:20]
    bench.offered[key] = call
    bench.offered.move_to_end(key)
    while len(bench.offered) > 256:
        bench.offered.popitem(last=False)
    return key


def as_csv(found: Result | Measures) -> str:
    """A result's table with exact floats, after lines that say where it comes from."""
    lines = [f"# {name}: {' '.join(str(value).split())}" for name, value in found.provenance.items()]
    head = f"# read with pandas.read_csv(file, skiprows={len(lines) + 1})"
    return "\n".join([head, *lines]) + "\n" + found.table().to_csv(index=False, float_format="%.9g")
