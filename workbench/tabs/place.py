"""One tab's place on the page: how it draws itself when it comes into sight, and where its errors stand."""

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import gradio as gr
import torch
from gradio.components import Component
from gradio.events import Dependency

from workbench import views
from workbench.errors import WorkbenchError
from workbench.mendable import MENDABLE
from workbench.tabs.bench import Bench, Selection, Subject
from workbench.tabs.stopping import Permit, Permits

log = logging.getLogger("workbench")

BAR = gr.Progress()  # as the default of an argument it makes Gradio hand in the event's own bar
QUEUE, DOWNLOADS = "model", "downloads"
MODEL = {"concurrency_limit": 1, "concurrency_id": QUEUE}  # for every event that runs a model
AT_ONCE = {"show_progress": "hidden", "trigger_mode": "always_last", "concurrency_limit": None}  # for the others


@dataclass(frozen=True)
class Due:
    """What a tab should show now; of the selection, only what the tab follows.

    `cause` is the permit of the request that made it due; it is no part of what is shown.
    """

    subject: Subject
    selection: Selection
    cause: Permit = field(default=Permit(), compare=False)

    def only(self, follows: Sequence[str]) -> "Due":
        """The same without what of the selection is not followed."""
        return replace(self, selection=Selection(**{name: getattr(self.selection, name) for name in follows}))


@dataclass(frozen=True)
class Asked:
    """A prompt was asked for: when, so that each Run differs from the last; its permit; and what is to be run.

    The bar's components may still hold what stood there before when a change of this is told.
    """

    at: int
    permit: Permit
    checkpoint: object
    prompt: object


class Wanted(NamedTuple):
    """What a view should show, by which controls, and its permit; only when the first two change it is drawn."""

    due: Due
    controls: tuple[object, ...]
    permit: Permit


@dataclass(frozen=True)
class Bar:
    """What all tabs share while the page is built.

    Attributes:
        asked: set to an `Asked`, it makes the page run its prompt.
        active: the title of the tab in sight; empty where the server knows nothing of the page, since Gradio keeps the
            states of the last sessions only.
        linked: the controls that the page's address holds, by name.
        reopened: what a tab should show by the address of the page that sends an event; None if it is not in sight.
    """

    checkpoint: Component
    prompt: Component
    asked: gr.State
    active: gr.State
    linked: dict[str, Component]
    permits: Permits
    reopened: Callable[[str, gr.Request], Due | None]


class Place:
    """A tab being built. Its `due` state says what it should show; changing it makes the tab draw."""

    def __init__(self, bench: Bench, title: str, bar: Bar) -> None:
        self.bench, self.title, self.bar = bench, title, bar
        self.asks: list[Dependency] = []  # events that run the prompt
        self.due = quiet_state()
        self._follows = tuple[str, ...]()
        self.notice = views.sentence(elem_classes=["problem", "whole"])

    @property
    def checkpoint(self) -> Component:
        """The menu of checkpoints in the bar."""
        return self.bar.checkpoint

    @property
    def prompt(self) -> Component:
        """The prompt in the bar."""
        return self.bar.prompt

    def link(self, name: str, component: Component) -> Component:
        """Keep a control in the page's address, so that a link reopens the view as it is."""
        self.bar.linked[name] = component
        return component

    def shows(
        self,
        render: Callable[..., object],
        *,
        inputs: Sequence[Component] = (),
        outputs: Sequence[Component],
        redraws: Sequence[Component] | None = None,
        follows: Sequence[str] = (),
        notice: Component | None = None,
    ) -> Dependency:
        """Draw the tab when what it should show changes, or a control of `redraws` does (all inputs if None).

        `render(bench, due, *inputs)` returns or yields the outputs' values; one that takes `progress=` is given a
        callback that draws a bar. `follows` names what of the selection it depends on: "token", "layer", "head";
        nothing is drawn anew when another part of it changes. Errors stand in `notice`, the tab's own unless given.
        """
        self._follows = (*self._follows, *follows)
        controls = inputs if redraws is None else redraws
        changes = [self.due.change, *[event for control in controls for event in settled(control)]]
        wanted = quiet_state()  # only when what to draw changes is there work for the model

        def want(request: gr.Request, due: Due | None, active: str, before: Wanted | None, *values: object) -> object:
            due = self._due(due, active, request)
            if due is None:
                return gr.skip()
            due = due.only(follows)
            is_new = before is None or before.due != due  # else a control has changed
            return Wanted(due, values, due.cause if is_new else self.bar.permits.of_request(request))

        gr.on(changes, want, [self.due, self.bar.active, wanted, *controls], wanted, **AT_ONCE)
        work = guarded(
            lambda wanted, _, *values, **more: render(self.bench, wanted.due, *values, **more),
            len(outputs),
            tells(render),
            lambda wanted, _: wanted.permit,
        )
        waiting = "full" if tells(render) else "minimal"
        return wanted.change(work, **self._wiring(wanted, inputs, outputs, waiting, notice or self.notice))

    def on(
        self,
        event: Callable[..., Dependency],
        render: Callable[..., object],
        *,
        inputs: Sequence[Component] = (),
        outputs: Sequence[Component],
    ) -> Dependency:
        """Do something at an event: `render(bench, due, told, *inputs)`, where `told` is what the event carries."""
        work = guarded(
            lambda due, told, _, *values: render(self.bench, due, told, *values), len(outputs), False, self.permit
        )

        def at_once(
            event: gr.EventData,
            request: gr.Request,
            bar: gr.Progress = BAR,
            due: Due | None = None,
            active: str = "",
            *values: object,
        ) -> Iterator[list[Any]]:
            due = self._due(due, active, request)
            due = None if due is None else replace(due, cause=self.permit(due, request))
            yield from work(event, request, bar, due, active, *values)

        return event(at_once, **self._wiring(self.due, [self.bar.active, *inputs], outputs, "minimal", self.notice))

    def runs(
        self,
        event: Callable[..., Dependency],
        render: Callable[..., object],
        *,
        inputs: Sequence[Component] = (),
        outputs: Sequence[Component],
    ) -> None:
        """Like `on`, for what changes the bar's checkpoint or prompt: they are run then, unless it was stopped."""

        def rendered(
            bench: Bench, due: Due, told: object, checkpoint: object, prompt: object, *values: object
        ) -> object:
            found = render(bench, due, told, *values)
            found = found if isinstance(found, list) else [found]
            changed = dict(zip(outputs, found, strict=True))
            run = changed.get(self.checkpoint, checkpoint), changed.get(self.prompt, prompt)
            return [*found, Asked(time.monotonic_ns(), due.cause, *run)]

        bar = [self.checkpoint, self.prompt]
        self.asks.append(self.on(event, rendered, inputs=[*bar, *inputs], outputs=[*outputs, self.bar.asked]))

    def due_for(self, subject: Subject, selection: Selection, cause: Permit) -> Due | None:
        """What the tab should show; None before anything was run."""
        return Due(subject, selection, cause).only(self._follows) if subject.run else None

    def permit(self, _: Due, request: gr.Request) -> Permit:
        """What an event of a page may compute by, until it is stopped."""
        return self.bar.permits.of_request(request)

    def _due(self, due: Due | None, active: str, request: gr.Request) -> Due | None:
        """What the tab should show, by the page's address where the server knows nothing of the page."""
        return due if due is not None or active else self.bar.reopened(self.title, request)

    def _wiring(
        self, due: gr.State, inputs: Sequence[Component], outputs: Sequence[Component], waiting: str, notice: Component
    ) -> dict[str, Any]:
        return {
            "inputs": [due, *inputs],
            "outputs": [notice, *outputs],
            "trigger_mode": "always_last",
            "show_progress": waiting,
            "show_progress_on": notice,  # which is small: the browser copies what shows progress at every step
            **MODEL,
        }


def quiet_state() -> gr.State:
    """An empty state that has not changed when an event leaves it as it is.

    Gradio tells the browser null for a state, but leaves an empty one out of what it tells at first; so the first event
    that may set it would count as a change of it, and each new page would ask for every view of every tab.
    """
    state = gr.State(None)
    told = state.get_config
    state.get_config = lambda: told() | {"value": float("nan")}  # null in JSON, and not left out
    return state


def settled(control: Component) -> list[Callable[..., Dependency]]:
    """The events after which a control's value is meant: a text when it is entered or left, not at every letter."""
    return [control.submit, control.blur] if isinstance(control, gr.Textbox) else [control.change]


def told(event: gr.EventData) -> dict[str, Any]:
    """What an event carries, if it is of the kind that the page's own components send."""
    return event._data if isinstance(event._data, dict) else {}


def tells(render: Callable[..., object]) -> bool:
    """Whether a function says how far it is."""
    return "progress" in inspect.signature(render).parameters


def guarded(
    render: Callable[..., Any],
    outputs: int,
    says_how_far: bool,
    permit_for: Callable[[Any, Any], Permit] = lambda due, request: Permit(),
) -> Callable[..., Iterator[list[Any]]]:
    """`render` with its errors shown where the result would be, the last result left; idle while nothing is due.

    It ends at the next step that it tells of, or the next frame that it yields, once the permit for what is due has.
    """

    def work(
        event: gr.EventData,
        request: gr.Request | None = None,
        bar: gr.Progress = BAR,
        due: Due | Wanted | None = None,
        *inputs: object,
    ) -> Iterator[list[Any]]:
        if due is None:
            yield [gr.skip()] * (outputs + 1)
            return
        permit = permit_for(due, request)

        def step(fraction: float, text: str) -> None:
            permit.check()
            bar(fraction, desc=text)

        try:
            permit.check()
            found = render(due, told(event), *inputs, **({"progress": step} if says_how_far else {}))
            for values in found if inspect.isgenerator(found) else [found]:
                permit.check()
                yield ["", *(values if outputs > 1 else [values])]
        except MENDABLE as error:
            if not isinstance(error, WorkbenchError):
                log.exception("a view failed")
            yield [message(error), *[gr.skip()] * outputs]

    return work


def message(error: Exception) -> str:
    """An error as a sentence."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the device is out of memory: take a shorter prompt, or start with a smaller --memory or with --quantize"
    return str(error.args[0]) if error.args else type(error).__name__
