"""The page around the tabs: the bar on top, the token strip, the selection that all tabs share, the page's address.

A tab is a module with `TITLE`, `HOW` (one line: what is drawn and how to read it) and `build(slot)`, which makes its
components and connects the functions that draw them. Only the visible tab computes. Another tab computes when it is
selected.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import gradio as gr
from gradio.components import Component

from hooks import stoppable
from workbench.chat import has_template
from workbench.errors import WorkbenchError
from workbench.mendable import MENDABLE
from workbench.page import components
from workbench.page.build.desk import DESK, Desk
from workbench.page.build.pins import Pins
from workbench.page.build.slot import DOWNLOADS, IN_MODEL_QUEUE, MODEL_QUEUE, NOT_QUEUED, Bar, Slot, message
from workbench.page.build.stop_button import connect_stop, token_of
from workbench.page.compat import (
    after_queueing,
    before_leaving,
    event_data,
    hide_progress_in,
    keep_stream,
    poll_less,
    quiet_state,
    undescribed,
    without_heartbeat,
)
from workbench.page.session.bench import Bench
from workbench.page.session.cancellation import Cancellations, CancellationToken, arrival
from workbench.page.session.edit_lines import SHOWN, in_force, refused_stack, stack_value
from workbench.page.session.prompts import typed_prompt, typed_text
from workbench.page.session.requests import NUMBERS, Query, RunRequest, Selection, TabRequest
from workbench.page.session.strips import surprisal_strip
from workbench.tokens import counted, is_whole

EXAMPLES = (
    "Old Marta lives in Lisbon and sells oranges. Young Pedro lives in Porto and sells lemons. Old Marta lives in",
    "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the",
    "def add(first, second):\n    return first + second\n\n\ndef multiply(first, second):\n    return",
    "How to bake a loaf of bread: First, mix the flour with water and salt. Then",
)
BRAND = '<div class="brand"><h1>OLMo workbench</h1><p id="status" role="status"></p></div>'
TURNED = "() => { workbench.remember(['tab'], [workbench.tab()]); workbench.say('tab', workbench.tab()); }"
NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,2})?", re.IGNORECASE)  # in an address
READY = "() => { document.body.dataset.ready = 'yes'; }"


def build(bench: Bench, tabs: Sequence[ModuleType]) -> gr.Blocks:
    """The whole page: header, token strip, and below them the rail of heads, one tab for each module, the inspector."""
    with gr.Blocks(title="OLMo workbench", fill_width=True, delete_cache=(600, 3600)) as demo:
        page = Page(bench)
        with gr.Row(elem_id="desk"):
            desk = page.add_desk()
            with gr.Column(elem_id="stage", min_width=300), gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as strip:
                for tab in tabs:
                    with gr.Tab(tab.TITLE, id=tab.TITLE):
                        components.hint(tab.HOW)
                        tab.build(page.slot(tab.TITLE))
            desk.add_inspector()
        page.connect_runs(demo, strip)
        page.connect_selection(strip)
        remove_cancelled = connect_stop(page.stop, demo, page.cancellations, (MODEL_QUEUE, DOWNLOADS))
    demo.queue(api_open=False, max_size=128)  # an open API would let events bypass the queue and its limits
    after_queueing(demo, remove_cancelled)
    before_leaving(demo, page.cancellations.stop)
    without_heartbeat(demo)
    hide_progress_in(demo, page.query)
    undescribed(demo)
    keep_stream(demo)
    poll_less(demo)
    demo.state_session_capacity = 64
    return demo


class Page:
    """The page's bar, token strip and states during construction, and the handlers of their events."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.slots: dict[str, Slot] = {}
        self.cancellations = Cancellations()
        self.query, self.selection = gr.State(Query(bench.default, "")), gr.State(Selection())
        self._add_header()
        self.problem = components.sentence(elem_id="problem", elem_classes="problem")
        self._add_strip()
        details = components.token_details(elem_id="details", render=False)
        linked = {"chat": self.chat, "edits": self.edits, "shown": self.shown, "pin": self.pins.text}
        self.bar = Bar(
            self.checkpoint,
            self.prompt,
            self.chat,
            details,
            quiet_state(),
            gr.State(""),
            linked,
            self.cancellations,
            self._reopened,
        )
        self._quiet = {"show_progress": "hidden", "show_progress_on": self.count, "trigger_mode": "always_last"}

    def _add_header(self) -> None:
        """Add the bar: checkpoint, prompt, Run and Stop, and the menus of sets, examples and history."""
        with gr.Row(elem_id="header"):
            gr.HTML(BRAND, elem_id="brand", apply_default_css=False, min_width=120)
            self.checkpoint = gr.Dropdown(
                self.bench.choices(),
                value=self.bench.default,
                label="Checkpoint",
                elem_id="checkpoint",
                container=False,
                min_width=120,
            )
            self.prompt = gr.Textbox(
                EXAMPLES[0],
                label="Prompt (Enter runs it, Shift + Enter starts a new line)",
                max_lines=8,  # from one line up: with `lines` above 1, Gradio lets Enter start a new line
                elem_id="prompt",
                container=False,
                min_width=120,
            )
            self.chat = gr.Checkbox(False, label="Chat", elem_id="chat", container=False, min_width=60, visible=False)
            self.count = components.sentence(elem_id="count")
            self.run = gr.Button("Run", variant="primary", size="sm", elem_id="run", min_width=60)
            self.stop = gr.Button("Stop", size="sm", elem_id="stop", min_width=60)
            self.sets = components.text_set_menu(
                {"groups": self.bench.sets.choices(), "chosen": self.bench.sets.default}, elem_id="sets"
            )
            self.examples = gr.Dropdown(
                [("Examples", ""), *((text, text) for text in EXAMPLES)],
                value="",
                label="Examples",
                elem_id="examples",
                container=False,
                min_width=100,
            )
            components.history(elem_id="history")

    def _add_strip(self) -> None:
        """Add what is below the bar: the strip of the prompt's tokens, the stack of edits, the pinned prompt."""
        self.spine = components.token_strip(
            {"empty": "Run a prompt to see its tokens.", "spine": True}, elem_id="spine", label="prompt"
        )
        self.stack = components.interventions(elem_id="interventions")
        self.edits = gr.Textbox("", elem_id="edits", visible="hidden")
        self.shown = gr.Textbox(SHOWN[0], elem_id="shown", visible="hidden")
        self.pins = Pins(self.bench)
        self.chosen = components.selection()

    def add_desk(self) -> Desk:
        """Add the rail of heads, and prepare the inspector."""
        desk = Desk(self.bench, self.bar)
        self._desk = desk.slot
        return desk

    def slot(self, title: str) -> Slot:
        """Add a tab with this title; returns its slot."""
        self.slots[title] = Slot(self.bench, title, self.bar)
        return self.slots[title]

    @property
    def _drawn(self) -> dict[str, Slot]:
        """The slots of all tabs, and last that of the desk, whose views are drawn after those of the visible tab."""
        return self.slots | {DESK: self._desk}

    def connect_runs(self, demo: gr.Blocks, tabs: gr.Tabs) -> None:
        """Connect the events that run the prompt: opening the page, the bar's controls, and buttons of the tabs."""
        requests = [slot.request for slot in self._drawn.values()]
        run_request, states = self.bar.run_request, [self.query, self.selection, self.bar.active]
        controls = {"checkpoint": self.checkpoint, "prompt": self.prompt, **self.bar.linked}
        remember = remembered(controls)
        opening = [run_request, self.bar.active, self.selection, tabs, *controls.values()]
        demo.load(self._open, None, opening, **self._quiet)
        bar, edits = [self.checkpoint, self.prompt, self.chat], [self.edits, self.shown]
        asking = [self.run.click, self.prompt.submit, self.chat.input]
        run = gr.on(asking, self._run, [*bar, *edits], run_request, **NOT_QUEUED)
        chosen = self.checkpoint.input(self._choose_checkpoint, [*bar, *edits, run_request], run_request, **NOT_QUEUED)
        edited = self.stack.edit(self._edit, bar, [*edits, run_request], **NOT_QUEUED)
        menus = [self.checkpoint, self.examples, self.chat, *edits]
        example = self.examples.change(
            self._choose_example, menus, [self.prompt, self.examples, run_request], **NOT_QUEUED
        )
        pins = self.pins.connect(self.bar, self.spine, self.query, self.bar.linked["second"], self.edits)
        of_tabs = [event for slot in self.slots.values() for event in slot.run_events]
        for event in (run, chosen, edited, example, *pins, *of_tabs):
            event.then(**remember)
        gr.on([control.change for control in self.bar.linked.values()], **remembered(self.bar.linked))
        run_request.change(
            self._read_prompt,
            [run_request, *bar, *edits, *states],
            [self.problem, self.count, self.spine, self.chat, self.stack, *states, *requests],
            show_progress="minimal",
            show_progress_on=self.count,
            trigger_mode="always_last",
            **IN_MODEL_QUEUE,
        ).then(None, js=READY)
        counting = {"fn": self._count, "inputs": bar, "outputs": self.count}
        changes = [self.prompt.change, self.checkpoint.change, self.chat.change]
        gr.on(changes, **counting, show_progress="hidden", trigger_mode="always_last")

    def connect_selection(self, tabs: gr.Tabs) -> None:
        """Connect the events that select a tab, or a token, layer or head for all tabs."""
        states = [self.query, self.selection, self.bar.active, *[slot.request for slot in self._drawn.values()]]
        selecting = {"fn": self._select, "inputs": states, "outputs": states, **self._quiet}
        tabs.select(**selecting).then(None, js=TURNED)
        self.chosen.select(**selecting)
        self.sets.choose(**selecting)

    def _open(self, http: gr.Request) -> list[object]:
        """The run request, states and control values that the page's address describes."""
        address = dict(http.query_params)
        query, selection, title = self._addressed(http)
        controls = {"checkpoint": self.checkpoint, "prompt": self.prompt, **self.bar.linked}
        is_chat = not isinstance(query.prompt, str)
        values = {
            name: from_address(address[name], part) if name in address else gr.skip() for name, part in controls.items()
        }
        values["chat"] = gr.Checkbox(value=is_chat, visible=is_chat)
        return [
            self._run(query.checkpoint, typed_text(query.prompt), is_chat, *edits_in_address(address), http),
            title,
            selection,
            gr.Tabs(selected=title),
            *values.values(),
        ]

    def _addressed(self, http: gr.Request) -> tuple[Query, Selection, str]:
        """The query, the selection and the title of the visible tab, from the page's address."""
        address = dict(http.query_params)
        checkpoint = address.get("checkpoint", "")
        prompt = typed_prompt(address.get("prompt", EXAMPLES[0]), address.get("chat") == "true")
        checkpoint = checkpoint if checkpoint in self.bench.known else self.bench.default
        edits, shown = edits_in_address(address)
        query = Query(checkpoint, prompt, 1, in_force([edits], shown), shown == "change")
        chosen: dict[str, Any] = {name: int(address[name]) for name in NUMBERS if is_whole(address.get(name, ""))}
        chosen |= {"texts": address["set"]} if address.get("set") else {}
        title = address["tab"] if address.get("tab") in self.slots else next(iter(self.slots))
        return query, Selection(**chosen), title

    def _known(self, http: gr.Request, query: Query, selection: Selection, active: str) -> tuple[Query, Selection, str]:
        """A page's states; taken from its address if the server no longer keeps them."""
        return (query, selection, active) if active else self._addressed(http)

    def _reopened(self, title: str, http: gr.Request) -> TabRequest | None:
        """The request of a tab, from the page's address; None if the tab is not visible."""
        query, selection, active = self._addressed(http)
        token = token_of(self.cancellations, http)
        return self._drawn[title].request_for(query, selection, token) if title in (active, DESK) else None

    def _run(
        self, checkpoint: object, prompt: object, chat: object, edits: object, shown: object, http: gr.Request
    ) -> RunRequest:
        """A request to run a prompt, with the arrival time and the cancellation token of an event."""
        token = token_of(self.cancellations, http)
        return RunRequest(arrival(http.request), token, checkpoint, prompt, chat, edits, shown)

    def _edit(
        self, event: gr.EventData, checkpoint: object, prompt: object, chat: object, http: gr.Request
    ) -> list[object]:
        """The edits after a change of the stack, what is shown of them, and a request to run the prompt with them."""
        edits, shown = (event_data(event).get(name) for name in ("edits", "shown"))
        if not isinstance(edits, str) or shown not in SHOWN:
            return [gr.skip()] * 3
        return [edits, shown, self._run(checkpoint, prompt, chat, edits, shown, http)]

    def _choose_checkpoint(
        self,
        checkpoint: object,
        prompt: object,
        chat: object,
        edits: object,
        showing: object,
        before: RunRequest | None,
        http: gr.Request,
    ) -> object:
        """A request to run the prompt on the chosen checkpoint; no update if the checkpoint is the same, since the
        menu's event also fires when the menu loses focus."""
        shown = self._addressed(http)[0].checkpoint if before is None else before.checkpoint
        return gr.skip() if checkpoint == shown else self._run(checkpoint, prompt, chat, edits, showing, http)

    def _choose_example(
        self, checkpoint: object, example: object, chat: object, edits: object, shown: object, http: gr.Request
    ) -> list[object]:
        """The example as prompt, the menu reset, and a request to run it; no updates if no example was chosen."""
        if example not in EXAMPLES:
            return [gr.skip()] * 3
        return [example, "", self._run(checkpoint, example, chat, edits, shown, http)]

    def _read_prompt(
        self,
        request: RunRequest | None,
        checkpoint: object,
        prompt: object,
        chat: object,
        edits: object,
        shown: object,
        query: Query,
        selection: Selection,
        active: str,
        http: gr.Request,
    ) -> list[object]:
        """Tokenise the prompt, colour the token strip, and request the visible tab.

        An error, or Stop, is shown as a message and leaves the other outputs unchanged; an error in the edits is shown
        at the stack.
        """
        request = self._run(checkpoint, prompt, chat, edits, shown, http) if request is None else request
        token = request.cancellation
        query, selection, active = self._known(http, query, selection, active)
        try:
            token.check()
            with stoppable(token.check), self.bench.lock.held():
                asked = typed_prompt(request.prompt, request.chat)
                opened = self.bench.read(request.checkpoint, asked, progress=lambda *_: token.check())
                if selection.token is not None and selection.token >= opened.ids.shape[1]:
                    selection = replace(selection, token=None)
                try:
                    stack = stack_value(self.bench, opened, request.edits, request.shown)
                except WorkbenchError as error:
                    refused = refused_stack(request.edits, message(error))
                    return ["", gr.skip(), gr.skip(), gr.skip(), refused, *[gr.skip()] * (3 + len(self._drawn))]
                changes = in_force(stack["lines"], stack["shown"])
                is_change = bool(changes) and stack["shown"] == "change"
                strip = surprisal_strip(self.bench, opened, selection, changes, is_change)
            token.check()
        except MENDABLE as error:
            return [message(error), *[gr.skip()] * (7 + len(self._drawn))]
        query = Query(opened.checkpoint, opened.prompt, query.run + 1, changes, is_change)
        requests = self._requests(active, query, selection, token)
        offered = gr.Checkbox(visible=has_template(opened.tokenizer))
        return ["", counted(opened.ids.shape[1]), strip, offered, stack, query, selection, active, *requests]

    def _requests(
        self, active: str, query: Query, selection: Selection, token: CancellationToken, *before: object
    ) -> list[object]:
        """The slots' states: new requests for the visible tab and the desk where they differ from those before."""
        old = before or [None] * len(self._drawn)
        states = []
        for (title, slot), shown in zip(self._drawn.items(), old, strict=True):
            request = slot.request_for(query, selection, token) if title in (active, DESK) else None
            states.append(gr.skip() if request is None or request == shown else request)
        return states

    def _select(
        self,
        event: gr.EventData,
        http: gr.Request,
        query: Query,
        selection: Selection,
        active: str,
        *before: object,
    ) -> list[object]:
        """The states after an event that selects a tab (its `value`), a token, layer or head, or a set of texts."""
        query, selection, active = self._known(http, query, selection, active)
        chosen, title = event_data(event), event_data(event).get("value")
        active = title if isinstance(title, str) and title in self.slots else active
        found = {name: chosen.get(name) for name in NUMBERS}
        known: dict[str, Any] = {name: value for name, value in found.items() if isinstance(value, int)}
        known |= {"texts": chosen["texts"]} if isinstance(chosen.get("texts"), str) else {}
        selection = replace(selection, **known)
        token = token_of(self.cancellations, http)
        return [query, selection, active, *self._requests(active, query, selection, token, *before)]

    def _count(self, checkpoint: object, prompt: object, chat: object, http: gr.Request) -> str:
        """The number of tokens of the prompt, in words; empty for a prompt or a checkpoint that Run would refuse."""
        token = token_of(self.cancellations, http)
        try:
            return counted(self.bench.count(checkpoint, typed_prompt(prompt, chat), progress=lambda *_: token.check()))
        except MENDABLE:
            return ""


def edits_in_address(address: Mapping[str, str]) -> tuple[str, str]:
    """The edits in an address, and what is shown of them (one of `SHOWN`)."""
    return address.get("edits", ""), address.get("shown", SHOWN[0])


def remembered(controls: Mapping[str, Component]) -> dict[str, Any]:
    """The arguments of an event that writes the values of controls into the page's address."""
    names = f"(...values) => workbench.remember({list(controls)!r}, values)"
    return {"fn": None, "inputs": list(controls.values()), "js": names}


def from_address(text: str, component: Component) -> object:
    """A control's value from its text in an address.

    A text that cannot be read empties a number box, whose check then says which numbers it takes; other controls keep
    their value. A slider takes the nearest number that it has.
    """
    if isinstance(component, gr.Checkbox):
        return text == "true"
    if isinstance(component, gr.Slider | gr.Number):
        number = float(text) if NUMBER.fullmatch(text) else None
        if isinstance(component, gr.Number):
            return number
        return gr.skip() if number is None else min(max(number, component.minimum), component.maximum)
    if isinstance(component, gr.Dropdown) and text not in [value for _, value in component.choices]:
        return gr.skip()
    return text
