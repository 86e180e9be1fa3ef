"""One tab's place on the page: how it draws itself when it comes into sight, and where its errors stand."""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from workbench.errors import WorkbenchError
from workbench.tabs.bench import Bench, Selection, Subject

log = logging.getLogger("workbench")

MENDABLE = (WorkbenchError, ValueError, KeyError, IndexError)  # hooks/ raises the last three, with good sentences
BAR = gr.Progress()  # as the default of an argument it makes Gradio hand in the event's own bar
MODEL = {"concurrency_limit": 1, "concurrency_id": "model"}  # for every event that runs a model


@dataclass(frozen=True)
class Due:
    """What a tab should show now; of the selection, only what the tab follows."""

    subject: Subject
    selection: Selection


class Place:
    """A tab being built. Its `due` state says what it should show; changing it makes the tab draw."""

    def __init__(self, bench: Bench, checkpoint: Component, prompt: Component, linked: dict[str, Component]) -> None:
        self.bench, self.checkpoint, self.prompt = bench, checkpoint, prompt
        self.asks: list[Dependency] = []  # events after which the bar's checkpoint and prompt are run
        self.due = gr.State(None)
        self._linked, self._follows = linked, ()
        self.notice = gr.Markdown("", elem_classes="problem")

    def link(self, name: str, component: Component) -> Component:
        """Keep a control in the page's address, so that a link reopens the view as it is."""
        self._linked[name] = component
        return component

    def shows(
        self,
        render: Callable[..., object],
        *,
        inputs: Sequence[Component] = (),
        outputs: Sequence[Component],
        redraws: Sequence[Component] | None = None,
        follows: Sequence[str] = (),
    ) -> Dependency:
        """Draw the tab when what it should show changes, or a control of `redraws` does (all inputs if None).

        `render(bench, due, *inputs)` returns or yields the outputs' values; one that takes `progress=` is given a
        callback that draws a bar. `follows` names what of the selection it
        depends on: "token", "layer", "head".
        """
        self._follows = (*self._follows, *follows)
        controls = inputs if redraws is None else redraws
        changes = [self.due.change, *[control.change for control in controls]]
        work = guarded(
            lambda due, _, *values, **more: render(self.bench, due, *values, **more), len(outputs), tells(render)
        )
        return gr.on(changes, work, **self._wiring(inputs, outputs, "full" if tells(render) else "minimal"))

    def on(
        self,
        event: Callable[..., Dependency],
        render: Callable[..., object],
        *,
        inputs: Sequence[Component] = (),
        outputs: Sequence[Component],
    ) -> Dependency:
        """Do something at an event: `render(bench, due, told, *inputs)`, where `told` is what the event carries."""
        work = guarded(lambda due, told, *values: render(self.bench, due, told, *values), len(outputs), False)
        return event(work, **self._wiring(inputs, outputs, "minimal"))

    def due_for(self, subject: Subject, selection: Selection) -> Due | None:
        """What the tab should show; None before anything was run."""
        chosen = {name: value for name, value in asdict(selection).items() if name in self._follows}
        return Due(subject, Selection(**chosen)) if subject.run else None

    def _wiring(self, inputs: Sequence[Component], outputs: Sequence[Component], waiting: str) -> dict[str, Any]:
        return {
            "inputs": [self.due, *inputs],
            "outputs": [self.notice, *outputs],
            "trigger_mode": "always_last",
            "show_progress": waiting,
            "show_progress_on": list(outputs[:1]),
            **MODEL,
        }


def tells(render: Callable[..., object]) -> bool:
    """Whether a function says how far it is."""
    return "progress" in inspect.signature(render).parameters


def guarded(render: Callable[..., object], outputs: int, says_how_far: bool) -> Callable[..., Iterator[list[Any]]]:
    """`render` with its errors shown where the result would be, the last result left; idle while nothing is due."""

    def work(
        event: gr.EventData, bar: gr.Progress = BAR, due: Due | None = None, *inputs: object
    ) -> Iterator[list[Any]]:
        if due is None:
            yield [gr.skip()] * (outputs + 1)
            return
        try:
            more = {"progress": lambda fraction, text: bar(fraction, desc=text)} if says_how_far else {}
            found = render(due, event._data or {}, *inputs, **more)
            for values in found if inspect.isgenerator(found) else [found]:
                yield ["", *(values if outputs > 1 else [values])]
        except MENDABLE as error:
            if not isinstance(error, WorkbenchError):
                log.exception("a view failed")
            yield [message(error), *[gr.skip()] * outputs]

    return work


def message(error: Exception) -> str:
    """An error as a sentence; the words themselves, since KeyError's own text comes in quotes."""
    return str(error.args[0]) if error.args else type(error).__name__
