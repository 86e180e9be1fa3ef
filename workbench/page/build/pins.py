"""The pinned prompt: a second strip of tokens under that of the prompt."""

from collections.abc import Callable

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
from workbench.page.session.cancellation import arrival
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
        cancellations = bar.cancellations

        def request(http: gr.Request, of: Pin) -> RunRequest:
            token = token_of(cancellations, http)
            return RunRequest(arrival(http.request), token, of.checkpoint, of.prompt, of.chat, of.edits)

        def pin(shown: Query) -> object:
            return Pin.of(shown).written() if shown.run else gr.skip()

        def swap(http: gr.Request, text: str, shown: Query) -> list[object]:
            pinned = Pin.read(text)
            present = Pin.of(shown).written() if shown.run else ""
            return [pinned.checkpoint, pinned.prompt, pinned.chat, pinned.edits, present, request(http, pinned)]

        def use(http: gr.Request, text: str, shown: Query) -> list[object]:
            return [Pin.read(text).prompt, request(http, Pin.of(shown))]

        def draw(text: str, http: gr.Request) -> list[object]:
            token = token_of(cancellations, http)
            if not text:
                return ["", NO_PIN]
            try:
                with stoppable(token.check), self.bench.lock.held():
                    return ["", Pin.read(text).strip(self.bench)]
            except MENDABLE as error:
                return [message(error), gr.skip()]

        spine.pin(pin, query, self.text, **NOT_QUEUED)
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


def refusing(handle: Callable[..., list[object]], outputs: int) -> Callable[..., list[object]]:
    """The handler, without updates if it raises a WorkbenchError: `draw` has shown the error's sentence."""

    def handled(http: gr.Request, text: str, shown: Query) -> list[object]:
        try:
            return handle(http, text, shown)
        except WorkbenchError:
            return [gr.skip()] * outputs

    return handled
