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
from workbench.tabs.place import DOWNLOADS, MODEL, QUEUE, Place, message
from workbench.tabs.stopping import Permits, stops
from workbench.tabs.strips import surprisal_strip

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
    demo.state_session_capacity = 64
    return demo


class Page:
    """The bar, the strip and the states of one page while it is being built."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.linked: dict[str, Component] = {}
        self.places: dict[str, Place] = {}
        self.permits = Permits()
        self.subject, self.selection, self.active = (
            gr.State(Subject(bench.default, "")),
            gr.State(Selection()),
            gr.State(""),
        )
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
                self.count = gr.Markdown("", elem_id="count")
                self.stop = gr.Button("Stop", size="sm", elem_id="stop")
            self.examples = gr.Dropdown(list(EXAMPLES), value=None, label="Examples", elem_id="examples", min_width=120)
        self.problem = gr.Markdown("", elem_id="problem", elem_classes="problem")
        self.spine = views.token_strip(
            {"empty": "Run a prompt to see its tokens.", "spine": True}, elem_id="spine", label="prompt"
        )

    def place(self, title: str) -> Place:
        """The place of one more tab."""
        self.places[title] = Place(self.bench, self.checkpoint, self.prompt, self.linked, self.permits)
        return self.places[title]

    def wire(self, demo: gr.Blocks, tabs: gr.Tabs) -> None:
        """Connect bar, strip and tabs, once all tabs are built."""
        dues = [place.due for place in self.places.values()]
        states = [self.subject, self.selection, self.active]
        asking = {
            "fn": self._ask,
            "inputs": [self.checkpoint, self.prompt, *states],
            "outputs": [self.problem, self.count, self.spine, self.subject, *dues],
            "show_progress": "minimal",
            "show_progress_on": self.count,
            "trigger_mode": "always_last",
            **MODEL,
        }
        quiet = {"show_progress": "hidden", "show_progress_on": self.count}
        controls = {"checkpoint": self.checkpoint, "prompt": self.prompt, **self.linked}
        remember = {
            "fn": None,
            "inputs": list(controls.values()),
            "js": f"(...values) => workbench.remember({list(controls)!r}, values)",
        }
        opened = demo.load(self._open, None, [self.active, self.selection, tabs, *controls.values()], **quiet)
        opened.then(**asking).then(None, js=READY)
        gr.on([self.run.click, self.checkpoint.select, self.prompt.submit], **asking).then(**remember)
        exampled = self.examples.input(lambda text: text, self.examples, self.prompt)
        for changed in (exampled, *[event for place in self.places.values() for event in place.asks]):
            changed.then(**asking).then(**remember)
        stops(self.stop, demo, self.permits, (QUEUE, DOWNLOADS))
        gr.on([control.change for control in self.linked.values()], **remember)
        counted = {"fn": self._count, "inputs": [self.checkpoint, self.prompt], "outputs": self.count}
        gr.on(
            [self.prompt.change, self.checkpoint.change], **counted, show_progress="hidden", trigger_mode="always_last"
        )
        turned = tabs.select(self._turn, [*states, *dues], [self.active, *dues], **quiet)
        turned.then(None, js=TURNED)
        self.spine.select(self._select, [*states, *dues], [self.selection, *dues], **quiet)

    def _open(self, request: gr.Request) -> list[object]:
        """The page as its address describes it."""
        query = dict(request.query_params)
        title = query["tab"] if query.get("tab") in self.places else next(iter(self.places))
        chosen = {name: int(query[name]) for name in ("token", "layer", "head") if is_whole(query.get(name, ""))}
        controls = {"checkpoint": self.checkpoint, "prompt": self.prompt, **self.linked}
        values = [from_address(query[name], part) if name in query else gr.skip() for name, part in controls.items()]
        return [title, Selection(**chosen), gr.Tabs(selected=title), *values]

    def _ask(
        self, checkpoint: object, prompt: object, subject: Subject, selection: Selection, active: str
    ) -> list[object]:
        """Read the prompt, colour the strip, and make the tab in sight due."""
        try:
            with self.bench.turn():
                opened = self.bench.read(checkpoint, prompt)
                if selection.token is not None and selection.token >= opened.ids.shape[1]:
                    selection = replace(selection, token=None)
                strip = surprisal_strip(opened, selection)
        except MENDABLE as error:
            return [message(error), *[gr.skip()] * (3 + len(self.places))]
        subject = Subject(opened.checkpoint, opened.prompt, subject.run + 1)
        return ["", counted(opened.ids.shape[1]), strip, subject, *self._dues(active, subject, selection)]

    def _dues(self, active: str, subject: Subject, selection: Selection, *before: object) -> list[object]:
        """The tabs' states: a new one for the tab in sight if it has something new to show."""
        due = self.places[active].due_for(subject, selection)
        old = dict(zip(self.places, before, strict=True)) if before else {}
        return [due if title == active and old.get(title) != due else gr.skip() for title in self.places]

    def _turn(
        self, event: gr.SelectData, subject: Subject, selection: Selection, _: str, *before: object
    ) -> list[object]:
        """Another tab comes into sight."""
        return [event.value, *self._dues(event.value, subject, selection, *before)]

    def _select(
        self, event: gr.EventData, subject: Subject, selection: Selection, active: str, *before: object
    ) -> list[object]:
        """A token, layer or head was chosen somewhere."""
        found = {name: event._data.get(name) for name in ("token", "layer", "head")}
        selection = replace(selection, **{name: value for name, value in found.items() if isinstance(value, int)})
        return [selection, *self._dues(active, subject, selection, *before)]

    def _count(self, checkpoint: object, prompt: object) -> str:
        """How many tokens the prompt has."""
        try:
            return counted(self.bench.count(checkpoint, prompt))
        except MENDABLE as error:
            return message(error)


def counted(tokens: int) -> str:
    """A number of tokens in words."""
    return f"{tokens:,} token{'' if tokens == 1 else 's'}"


def is_whole(text: str) -> bool:
    """Whether a text is a whole number of a size that a page may mean."""
    return text.isascii() and text.isdecimal() and len(text) < 17


def from_address(text: str, component: Component) -> object:
    """A control's value from the text in an address; what cannot be read leaves the control alone."""
    if isinstance(component, gr.Checkbox):
        return text == "true"
    if isinstance(component, gr.Slider | gr.Number):
        return float(text) if is_whole(text.replace(".", "", 1)) else gr.skip()
    if isinstance(component, gr.Dropdown) and text not in [value for _, value in component.choices]:
        return gr.skip()
    return text
