"""What all tabs share: the bar on top, the token strip that carries the selection, and the page's address.

A tab is a module with `TITLE`, `HOW` (one line: what is drawn and how to read it) and `build(place)`, which makes its
components and says what draws them. Only the tab in sight computes; the others when they are turned to.
"""

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import gradio as gr
from gradio.components import Component

from workbench import views
from workbench.mendable import MENDABLE
from workbench.tabs.bench import Bench, Selection, Subject
from workbench.tabs.place import (
    AT_ONCE,
    DOWNLOADS,
    MODEL,
    QUEUE,
    Asked,
    Bar,
    Due,
    Place,
    message,
    quiet_state,
    told,
)
from workbench.tabs.stopping import Permit, Permits, arrived, drops_late, stops
from workbench.tabs.strips import surprisal_strip
from workbench.text import is_whole

EXAMPLES = (
    "Old Marta lives in Lisbon and sells oranges. Young Pedro lives in Porto and sells lemons. Old Marta lives in",
    "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the",
    "def add(first, second):\n    return first + second\n\n\ndef multiply(first, second):\n    return",
    "How to bake a loaf of bread: First, mix the flour with water and salt. Then",
)
BRAND = '<div class="brand"><h1>OLMo workbench</h1><p id="status" role="status"></p></div>'
TURNED = "() => workbench.remember(['tab'], [document.querySelector('#tabs [role=tab][aria-selected=true]').innerText])"
READY = "() => { document.body.dataset.ready = 'yes'; }"


def build(bench: Bench, tabs: Sequence[ModuleType]) -> gr.Blocks:
    """The whole page: the bar, the strip and one tab a module."""
    with gr.Blocks(title="OLMo workbench", fill_width=True, delete_cache=(600, 3600)) as demo:
        page = Page(bench)
        with gr.Tabs(elem_id="tabs") as strip:
            for tab in tabs:
                with gr.Tab(tab.TITLE, id=tab.TITLE):
                    gr.Markdown(tab.HOW, elem_classes="how")
                    place = page.place(tab.TITLE)
                    tab.build(place)
        page.wire(demo, strip)
    demo.queue(api_open=False, max_size=128)  # with the API open, events could go round the queue and its limits
    drops_late(demo, page.permits, (QUEUE, DOWNLOADS))
    demo.state_session_capacity = 64
    return demo


class Page:
    """The bar, the strip and the states of one page while it is being built."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.places: dict[str, Place] = {}
        self.permits = Permits()
        self.subject, self.selection = gr.State(Subject(bench.default, "")), gr.State(Selection())
        gr.HTML(BRAND, elem_id="brand", apply_default_css=False)
        with gr.Row(elem_id="bar", equal_height=True):
            self.checkpoint = gr.Dropdown(
                bench.choices(), value=bench.default, label="Checkpoint", elem_id="checkpoint", scale=3, min_width=290
            )
            self.prompt = gr.Textbox(
                EXAMPLES[0], label="Prompt", lines=2, max_lines=6, elem_id="prompt", scale=5, min_width=280
            )
            with gr.Column(scale=1, min_width=132, elem_id="go"):
                self.run = gr.Button("Run", variant="primary", size="sm", elem_id="run")
                self.count = views.sentence(elem_id="count")
                self.stop = gr.Button("Stop", size="sm", elem_id="stop")
            self.examples = gr.Dropdown(list(EXAMPLES), value=None, label="Examples", elem_id="examples", min_width=120)
        self.problem = views.sentence(elem_id="problem", elem_classes="problem")
        self.spine = views.token_strip(
            {"empty": "Run a prompt to see its tokens.", "spine": True}, elem_id="spine", label="prompt"
        )
        self.bar = Bar(self.checkpoint, self.prompt, quiet_state(), gr.State(""), {}, self.permits, self._reopened)

    def place(self, title: str) -> Place:
        """The place of one more tab."""
        self.places[title] = Place(self.bench, title, self.bar)
        return self.places[title]

    def wire(self, demo: gr.Blocks, tabs: gr.Tabs) -> None:
        """Connect bar, strip and tabs, once all tabs are built."""
        dues = [place.due for place in self.places.values()]
        asked, states = self.bar.asked, [self.subject, self.selection, self.bar.active]
        quiet = {"show_progress": "hidden", "show_progress_on": self.count}
        controls = {"checkpoint": self.checkpoint, "prompt": self.prompt, **self.bar.linked}
        remember = {
            "fn": None,
            "inputs": list(controls.values()),
            "js": f"(...values) => workbench.remember({list(controls)!r}, values)",
        }
        demo.load(self._open, None, [asked, self.bar.active, self.selection, tabs, *controls.values()], **quiet)
        given = [self.checkpoint, self.prompt]
        run = gr.on([self.run.click, self.prompt.submit], self._run, given, asked, **AT_ONCE)
        opened = self.checkpoint.input(self._opened, [*given, asked], asked, **AT_ONCE)
        menus = [self.checkpoint, self.examples]
        exampled = self.examples.change(self._exampled, menus, [self.prompt, self.examples, asked], **AT_ONCE)
        for changed in (run, opened, exampled, *[event for place in self.places.values() for event in place.asks]):
            changed.then(**remember)
        asked.change(
            self._ask,
            [asked, *given, *states],
            [self.problem, self.count, self.spine, *states, *dues],
            show_progress="minimal",
            show_progress_on=self.count,
            trigger_mode="always_last",
            **MODEL,
        ).then(None, js=READY)
        stops(self.stop, demo, self.permits, (QUEUE, DOWNLOADS))
        gr.on([control.change for control in self.bar.linked.values()], **remember)
        counted = {"fn": self._count, "inputs": given, "outputs": self.count}
        gr.on(
            [self.prompt.change, self.checkpoint.change], **counted, show_progress="hidden", trigger_mode="always_last"
        )
        selecting = {"fn": self._select, "inputs": [*states, *dues], "outputs": [*states, *dues], **quiet}
        tabs.select(**selecting).then(None, js=TURNED)
        self.spine.select(**selecting)

    def _open(self, request: gr.Request) -> list[object]:
        """The page as its address describes it."""
        query = dict(request.query_params)
        subject, selection, title = self._addressed(request)
        controls = {"checkpoint": self.checkpoint, "prompt": self.prompt, **self.bar.linked}
        values = [from_address(query[name], part) if name in query else gr.skip() for name, part in controls.items()]
        return [
            self._run(subject.checkpoint, subject.prompt, request),
            title,
            selection,
            gr.Tabs(selected=title),
            *values,
        ]

    def _addressed(self, request: gr.Request) -> tuple[Subject, Selection, str]:
        """What the page shows by its address: its prompt as it was run, what is selected, and the tab in sight."""
        query = dict(request.query_params)
        checkpoint = query.get("checkpoint", "")
        subject = Subject(
            checkpoint if checkpoint in self.bench.known else self.bench.default, query.get("prompt", EXAMPLES[0]), 1
        )
        chosen = {name: int(query[name]) for name in ("token", "layer", "head") if is_whole(query.get(name, ""))}
        title = query["tab"] if query.get("tab") in self.places else next(iter(self.places))
        return subject, Selection(**chosen), title

    def _known(
        self, request: gr.Request, subject: Subject, selection: Selection, active: str
    ) -> tuple[Subject, Selection, str]:
        """The states of a page, by its address where the server does not have them any more."""
        return (subject, selection, active) if active else self._addressed(request)

    def _reopened(self, title: str, request: gr.Request) -> Due | None:
        """What a tab should show by the page's address; None if it is not in sight."""
        subject, selection, active = self._addressed(request)
        permit = self.permits.of_request(request)
        return self.places[title].due_for(subject, selection, permit) if active == title else None

    def _run(self, checkpoint: object, prompt: object, request: gr.Request) -> Asked:
        """A prompt is asked for."""
        return Asked(arrived(request.request), self.permits.of_request(request), checkpoint, prompt)

    def _opened(self, checkpoint: object, prompt: object, asked: Asked | None, request: gr.Request) -> object:
        """Ask for the prompt where another checkpoint is chosen; its menu tells of being left, too."""
        before = self._addressed(request)[0].checkpoint if asked is None else asked.checkpoint
        return gr.skip() if checkpoint == before else self._run(checkpoint, prompt, request)

    def _exampled(self, checkpoint: object, example: object, request: gr.Request) -> list[object]:
        """Ask for an example and empty the menu; nothing where none was chosen."""
        return [example, None, self._run(checkpoint, example, request)] if example in EXAMPLES else [gr.skip()] * 3

    def _ask(
        self,
        asked: Asked | None,
        checkpoint: object,
        prompt: object,
        subject: Subject,
        selection: Selection,
        active: str,
        request: gr.Request,
    ) -> list[object]:
        """Read the prompt, colour the strip, and make the tab in sight due, unless it is stopped before."""
        asked = self._run(checkpoint, prompt, request) if asked is None else asked
        permit = asked.permit
        subject, selection, active = self._known(request, subject, selection, active)
        try:
            permit.check()
            with self.bench.turn():
                opened = self.bench.read(asked.checkpoint, asked.prompt, progress=lambda *_: permit.check())
                if selection.token is not None and selection.token >= opened.ids.shape[1]:
                    selection = replace(selection, token=None)
                strip = surprisal_strip(opened, selection)
            permit.check()
        except MENDABLE as error:
            return [message(error), *[gr.skip()] * (5 + len(self.places))]
        subject = Subject(opened.checkpoint, opened.prompt, subject.run + 1)
        dues = self._dues(active, subject, selection, permit)
        return ["", counted(opened.ids.shape[1]), strip, subject, selection, active, *dues]

    def _dues(
        self, active: str, subject: Subject, selection: Selection, permit: Permit, *before: object
    ) -> list[object]:
        """The tabs' states: a new one for the tab in sight if it has something new to show."""
        due = self.places[active].due_for(subject, selection, permit)
        old = dict(zip(self.places, before, strict=True)) if before else {}
        return [due if title == active and old.get(title) != due else gr.skip() for title in self.places]

    def _select(
        self,
        event: gr.EventData,
        request: gr.Request,
        subject: Subject,
        selection: Selection,
        active: str,
        *before: object,
    ) -> list[object]:
        """Another tab comes into sight (the event's value), or a token, layer or head was chosen somewhere."""
        subject, selection, active = self._known(request, subject, selection, active)
        chosen, title = told(event), told(event).get("value")
        active = title if isinstance(title, str) and title in self.places else active
        found = {name: chosen.get(name) for name in ("token", "layer", "head")}
        selection = replace(selection, **{name: value for name, value in found.items() if isinstance(value, int)})
        permit = self.permits.of_request(request)
        return [subject, selection, active, *self._dues(active, subject, selection, permit, *before)]

    def _count(self, checkpoint: object, prompt: object, request: gr.Request) -> str:
        """How many tokens the prompt has."""
        permit = self.permits.of_request(request)
        try:
            return counted(self.bench.count(checkpoint, prompt, progress=lambda *_: permit.check()))
        except MENDABLE as error:
            return message(error)


def counted(tokens: int) -> str:
    """A number of tokens in words."""
    return f"{tokens:,} token{'' if tokens == 1 else 's'}"


def from_address(text: str, component: Component) -> object:
    """A control's value from the text in an address; what cannot be read leaves the control alone."""
    if isinstance(component, gr.Checkbox):
        return text == "true"
    if isinstance(component, gr.Slider | gr.Number):
        return float(text) if is_whole(text.replace(".", "", 1)) else gr.skip()
    if isinstance(component, gr.Dropdown) and text not in [value for _, value in component.choices]:
        return gr.skip()
    return text
