"""A tab's slot on the page: which functions draw its views, when they run, and where errors are shown."""

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr
import torch
from gradio.components import Component
from gradio.events import Dependency

from hooks import stoppable
from workbench.errors import WorkbenchError
from workbench.mendable import MENDABLE
from workbench.page import components
from workbench.page.build.stop_button import token_of
from workbench.page.compat import event_data, quiet_state
from workbench.page.session.bench import Bench
from workbench.page.session.cancellation import Cancellations, CancellationToken
from workbench.page.session.freed_memory import give_back_memory
from workbench.page.session.prices import Price
from workbench.page.session.requests import Query, RunRequest, Selection, TabRequest, ViewRequest

log = logging.getLogger("workbench")

PROGRESS_BAR = gr.Progress()  # for an argument with this default, Gradio passes the event's own bar
MODEL_QUEUE, DOWNLOADS = "model", "downloads"
LONG = 0.5  # seconds of an event, from which on the memory that it freed is given back at its end
END = object()  # marks the end of an iterator of frames
IN_MODEL_QUEUE = {"concurrency_limit": 1, "concurrency_id": MODEL_QUEUE}  # for every event that runs a model
NOT_QUEUED = {"show_progress": "hidden", "trigger_mode": "always_last", "concurrency_limit": None}  # no model is run


@dataclass(frozen=True)
class Bar:
    """Components and states that all tabs share during construction of the page.

    Attributes:
        run_request: setting this state to a `RunRequest` makes the page run its prompt.
        active: a state with the title of the visible tab. It is empty if the server no longer keeps the page's states,
            since Gradio keeps the states of a limited number of sessions.
        chat: whether the prompt is the turns of a conversation. It is visible if the tokenizer has a chat template.
        details: the details of the selected token, in the inspector.
        linked: the controls whose values are kept in the page's address, by name.
        reopened: gives the `TabRequest` of a tab, by its title, from the address of the page that sent an event; None
            if the tab is not visible.
    """

    checkpoint: Component
    prompt: Component
    chat: Component
    details: Component
    run_request: gr.State
    active: gr.State
    linked: dict[str, Component]
    cancellations: Cancellations
    reopened: Callable[[str, gr.Request], TabRequest | None]


class Slot:
    """A tab during construction. Its state `request` holds a `TabRequest`; a change of the state draws the tab."""

    def __init__(self, bench: Bench, title: str, bar: Bar) -> None:
        self.bench, self.title, self.bar = bench, title, bar
        self.run_events: list[Dependency] = []  # events after which the prompt is run
        self.request = quiet_state()
        self._follows = tuple[str, ...]()
        self.notice = components.sentence(elem_classes=["problem", "whole"])

    @property
    def checkpoint(self) -> Component:
        """The menu of checkpoints in the bar."""
        return self.bar.checkpoint

    @property
    def prompt(self) -> Component:
        """The prompt in the bar."""
        return self.bar.prompt

    @property
    def details(self) -> Component:
        """The details of the selected token, in the inspector."""
        return self.bar.details

    def link(self, name: str, component: Component) -> Component:
        """Keep a control's value in the page's address, so that a link opens the same view."""
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
        agreement: gr.Button | None = None,
        with_progress: bool = False,
    ) -> Dependency:
        """Register a view, which is drawn when the tab's request or one of the view's controls changes, and when the
        user agrees to its price.

        Args:
            render: called as `render(bench, request, *inputs)` with a `TabRequest`; returns or yields the value of the
                output, or a list of the values of several outputs.
            redraws: the inputs whose change draws the view again; None means all.
            follows: parts of the selection that the view depends on: "token", "layer", "head". Changes of other
                parts do not redraw it.
            notice: where errors are shown; the tab's own notice by default.
            agreement: a button of `agreement_button`. A click on it draws the view with a request that is `agreed`.
            with_progress: `render` also takes `progress=`, a callback that draws a progress bar.
        """
        self._follows = (*self._follows, *follows)
        controls = inputs if redraws is None else redraws
        changes = [self.request.change, *[event for control in controls for event in settled(control)]]
        view_request = quiet_state()  # changes only when there is something new to draw

        def request_view(
            http: gr.Request, request: TabRequest | None, active: str, before: ViewRequest | None, *values: object
        ) -> object:
            known = self._known(request, active, http)
            return gr.skip() if known is None else self._new_view(known.only(follows), before, values, http)

        def agree(
            http: gr.Request, request: TabRequest | None, active: str, before: ViewRequest | None, *values: object
        ) -> object:
            known = before.tab if before is not None else self._known(request, active, http)
            if known is None:
                return gr.skip()
            token = token_of(self.bar.cancellations, http)
            return ViewRequest(replace(known.only(follows), agreed=True), values, token, time.monotonic_ns())

        sources = [self.request, self.bar.active, view_request, *controls]
        gr.on(changes, request_view, sources, view_request, **NOT_QUEUED)
        if agreement is not None:
            agreement.click(agree, sources, view_request, **NOT_QUEUED)
        work = guarded(
            lambda view, _, *values, **more: render(self.bench, view.tab, *values, **more),
            len(outputs),
            with_progress,
            lambda view, _: view.cancellation,
            [asked(None) if output is agreement else gr.skip() for output in outputs],
        )
        waiting = "full" if with_progress else "minimal" if outputs else "hidden"
        return view_request.change(work, **self._wiring(view_request, inputs, outputs, waiting, notice or self.notice))

    def _new_view(
        self, tab: TabRequest, before: ViewRequest | None, values: tuple[object, ...], http: gr.Request
    ) -> object:
        """The request of a view after a change of the tab's request or of a control; no update if nothing is new."""
        if before is None or replace(before.tab, agreed=False) != tab:
            return ViewRequest(tab, values, tab.cause)
        if before.controls == values:  # a late event: an earlier one brought the same values
            return gr.skip()
        return ViewRequest(tab, values, token_of(self.bar.cancellations, http))

    def on(
        self,
        event: Callable[..., Dependency],
        render: Callable[..., object],
        *,
        inputs: Sequence[Component] = (),
        outputs: Sequence[Component],
    ) -> Dependency:
        """Call `render(bench, request, data, *inputs)` at an event and set the outputs; `data` is the event's data."""
        work = guarded(
            lambda request, data, _, *values: render(self.bench, request, data, *values),
            len(outputs),
            False,
            lambda request, _: request.cause,
        )

        def handle(
            event: gr.EventData,
            http: gr.Request,
            bar: gr.Progress = PROGRESS_BAR,
            request: TabRequest | None = None,
            active: str = "",
            *values: object,
        ) -> Iterator[Any]:
            known = self._known(request, active, http)
            own = None if known is None else replace(known, cause=token_of(self.bar.cancellations, http))
            yield from work(event, http, bar, own, active, *values)

        inputs = [self.bar.active, *inputs]
        return event(handle, **self._wiring(self.request, inputs, outputs, "minimal", self.notice))

    def runs(
        self,
        event: Callable[..., Dependency],
        render: Callable[..., object],
        *,
        inputs: Sequence[Component] = (),
        outputs: Sequence[Component],
    ) -> None:
        """Like `on`; then run the prompt, unless Stop was pressed.

        The run uses the checkpoint and prompt that `render` returned, where they are among the outputs, else the bar's.
        """

        def rendered(
            bench: Bench,
            request: TabRequest,
            data: object,
            checkpoint: object,
            prompt: object,
            chat: object,
            edits: object,
            shown: object,
            *values: object,
        ) -> object:
            found = render(bench, request, data, *values)
            found = found if isinstance(found, list) else [found]
            changed = dict(zip(outputs, found, strict=True))
            bar = changed.get(self.checkpoint, checkpoint), changed.get(self.prompt, prompt)
            return [*found, RunRequest(time.monotonic_ns(), request.cause, *bar, chat, edits, shown)]

        linked = self.bar.linked
        bar = [self.checkpoint, self.prompt, self.bar.chat, linked["edits"], linked["shown"]]
        outputs_and_run = [*outputs, self.bar.run_request]
        self.run_events.append(self.on(event, rendered, inputs=[*bar, *inputs], outputs=outputs_and_run))

    def request_for(self, query: Query, selection: Selection, cause: CancellationToken) -> TabRequest | None:
        """The request to show this tab; None before the first run."""
        return TabRequest(query, selection, cause).only(self._follows) if query.run else None

    def token_of(self, _: TabRequest, http: gr.Request) -> CancellationToken:
        """The cancellation token of an event."""
        return token_of(self.bar.cancellations, http)

    def _known(self, request: TabRequest | None, active: str, http: gr.Request) -> TabRequest | None:
        """The tab's request; made from the page's address if the server no longer keeps the page's states."""
        return request if request is not None or active else self.bar.reopened(self.title, http)

    def _wiring(
        self,
        request: gr.State,
        inputs: Sequence[Component],
        outputs: Sequence[Component],
        waiting: str,
        notice: Component,
    ) -> dict[str, Any]:
        return {
            "inputs": [request, *inputs],
            "outputs": [notice, *outputs],
            "trigger_mode": "always_last",
            "show_progress": waiting,
            "show_progress_on": notice,  # a small one: the browser copies this component at each step
            **IN_MODEL_QUEUE,
        }


def agreement_button(elem_id: str) -> gr.Button:
    """A button, hidden at first, that agrees to the price of a view; see `asked` and `Slot.shows`."""
    return gr.Button("Compute", size="sm", variant="secondary", visible=False, elem_id=elem_id, elem_classes="price")


def asked(price: Price | None, what: str = "Compute") -> dict[str, Any]:
    """The update of an agreement button: it offers to compute for this price; hidden if None."""
    return gr.update(visible=False) if price is None else gr.update(value=f"{what} ({price})", visible=True)


def settled(control: Component) -> list[Callable[..., Dependency]]:
    """The events after which a control's value is final: for a text box, when it is submitted or loses focus."""
    return [control.submit, control.blur] if isinstance(control, gr.Textbox) else [control.change]


def guarded(
    render: Callable[..., Any],
    outputs: int,
    with_progress: bool,
    token_for: Callable[[Any, Any], CancellationToken] = lambda request, http: CancellationToken(),
    refused: Sequence[object] | None = None,
) -> Callable[..., Iterator[Any]]:
    """An event handler that calls `render`; it yields a notice for errors, then the values of the outputs.

    After an error the outputs keep their values. Without a request, nothing changes. Once the request's token is
    cancelled, the handler ends before the next block of a model that `render` runs, or when it next reports progress or
    yields a frame. After an event that took long, freed memory is given back to the operating system.

    Args:
        render: called as `render(request, data, *inputs)`, where `data` is the event's data; returns or yields the
            values of the outputs.
        outputs: number of values that `render` returns.
        with_progress: `render` also takes `progress=`.
        token_for: called as `token_for(request, http)`; returns the cancellation token.
        refused: the values of the outputs after an error; by default they keep theirs.
    """

    def handle(
        event: gr.EventData,
        http: gr.Request | None = None,
        bar: gr.Progress = PROGRESS_BAR,
        request: TabRequest | ViewRequest | None = None,
        *inputs: object,
    ) -> Iterator[Any]:
        if request is None:
            yield of_outputs(gr.skip(), *[gr.skip()] * outputs)
            return
        token, began = token_for(request, http), time.monotonic()

        def step(fraction: float, text: str) -> None:
            token.check()
            bar(fraction, desc=text)

        try:
            token.check()
            start = partial(
                render, request, event_data(event), *inputs, **({"progress": step} if with_progress else {})
            )
            for values in frames(start, token.check):
                token.check()
                yield of_outputs("", *([values] if outputs == 1 else values))
        except MENDABLE as error:
            if not isinstance(error, WorkbenchError):
                log.exception("a view failed")
            yield of_outputs(message(error), *(refused or [gr.skip()] * outputs))
        finally:
            if time.monotonic() - began > LONG:
                give_back_memory()

    return handle


def of_outputs(notice: object, *values: object) -> object:
    """The values of a handler's outputs as Gradio takes them: a list, but the bare value of a single output."""
    return [notice, *values] if values else notice


def frames(start: Callable[[], Any], check: Callable[[], None]) -> Iterator[Any]:
    """What `start()` returns, or yields one by one, computed in blocks of `hooks.stoppable` with this check.

    There is one block for each frame, because Gradio may request each frame in another thread.
    """
    with stoppable(check):
        found = start()
    while inspect.isgenerator(found):
        with stoppable(check):
            frame = next(found, END)
        if frame is END:
            return
        yield frame
    yield found


def message(error: Exception) -> str:
    """An error's message, as a sentence for the page."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the device is out of memory: use a shorter prompt, or start with a smaller --memory or with --quantize"
    return str(error.args[0]) if error.args else type(error).__name__
