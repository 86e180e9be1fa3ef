"""The pinned prompt: a second strip of tokens under that of the prompt."""

from collections.abc import Callable
from functools import partial

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from hooks import stoppable
from workbench.errors import WorkbenchError
from workbench.mendable import MENDABLE
from workbench.page import components
from workbench.page.build.slot import IN_MODEL_QUEUE, NOT_QUEUED, Bar, message
from workbench.page.build.stop_button import token_of
from workbench.page.session.bench import Bench
from workbench.page.session.cancellation import Cancellations, CancellationToken, arrival
from workbench.page.session.pins import Pin
from workbench.page.session.requests import Query, RunRequest

NO_PIN = {"empty": "", "pinned": True}
ATTRIBUTION = "() => workbench.turn('Attribution')"


class Pins:
    """The strip of the pinned prompt during construction; `text` holds the pin and is kept in the page's address."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.strip = components.token_strip(NO_PIN, elem_id="pinned", label="pinned prompt")
        self.problem = components.sentence(elem_classes="problem")
        self.text = gr.Textbox("", elem_id="pin", visible="hidden")

    def connect(
        self, bar: Bar, spine: Component, query: gr.State, second: Component, edits: Component
    ) -> list[Dependency]:
        """Connect the buttons of both strips. Returns the events that run a prompt.

        Args:
            query: the state with the page's `Query`.
            second: the text box that "Use as second prompt" fills in.
            edits: the interventions that are switched on, which "Swap" exchanges, too.
        """
        swap, use = partial(swapped_with_pin, bar.cancellations), partial(pin_as_second, bar.cancellations)

        def draw(text: str, http: gr.Request) -> list[object]:
            return drawn(self.bench, token_of(bar.cancellations, http), text)

        spine.pin(pin_of_prompt, query, self.text, **NOT_QUEUED)
        self.strip.unpin(lambda: "", None, self.text, **NOT_QUEUED)
        sources, run = [self.text, query], bar.run_request
        prompt = [bar.checkpoint, bar.prompt, bar.chat, edits]
        swapped = self.strip.swap(refusing(swap, 6), sources, [*prompt, self.text, run], **NOT_QUEUED)
        used = self.strip.second(refusing(use, 2), sources, [second, run], **NOT_QUEUED)
        used.then(None, js=ATTRIBUTION)
        self.text.change(
            draw,
            self.text,
            [self.problem, self.strip],
            show_progress="hidden",
            trigger_mode="always_last",
            **IN_MODEL_QUEUE,
        )
        return [swapped, used]


def pin_of_prompt(shown: Query) -> object:
    """The pin of the prompt that the page shows."""
    return Pin.of(shown).written() if shown.run else gr.skip()


def swapped_with_pin(cancellations: Cancellations, http: gr.Request, text: str, shown: Query) -> list[object]:
    """The pinned prompt for the bar, the prompt of the bar as the pin, and the request to run the first."""
    pinned = Pin.read(text)
    present = Pin.of(shown).written() if shown.run else ""
    run = run_request(cancellations, http, pinned)
    return [pinned.checkpoint, pinned.prompt, pinned.chat, pinned.edits, present, run]


def pin_as_second(cancellations: Cancellations, http: gr.Request, text: str, shown: Query) -> list[object]:
    """The text of the pinned prompt as the second prompt, and the request to run the prompt of the bar again."""
    return [Pin.read(text).prompt, run_request(cancellations, http, Pin.of(shown))]


def run_request(cancellations: Cancellations, http: gr.Request, of: Pin) -> RunRequest:
    """The request to run what a pin holds."""
    token = token_of(cancellations, http)
    return RunRequest(arrival(http.request), token, of.checkpoint, of.prompt, of.chat, of.edits)


def drawn(bench: Bench, token: CancellationToken, text: str) -> list[object]:
    """A notice for errors, and the strip of the pin in `text`."""
    if not text:
        return ["", NO_PIN]
    try:
        with stoppable(token.check), bench.lock.held():
            return ["", Pin.read(text).strip(bench)]
    except MENDABLE as error:
        return [message(error), gr.skip()]


def refusing(handle: Callable[..., list[object]], outputs: int) -> Callable[..., list[object]]:
    """The handler, without updates if it raises a WorkbenchError: `draw` has shown the error's sentence."""

    def handled(http: gr.Request, text: str, shown: Query) -> list[object]:
        try:
            return handle(http, text, shown)
        except WorkbenchError:
            return [gr.skip()] * outputs

    return handled
