"""A text box of a tab with its errors below it. An error is shown once, even if several views read the text box."""

from collections.abc import Callable

import gradio as gr
from gradio.components import Component

from workbench.errors import WorkbenchError
from workbench.page import components
from workbench.page.build.slot import Slot
from workbench.page.session.bench import Bench
from workbench.page.session.requests import TabRequest


class FieldError(WorkbenchError):
    """A text box of a tab has a value that cannot be used. Views raise it; the reason is shown at the text box."""

    def __init__(self, label: str) -> None:
        super().__init__(f"“{label}” cannot be used; see there.")


class TextField:
    """A text box, kept in the page's address as `name`, with a place for errors below it; `render` puts it on the page.

    `check(bench, request, text)` raises WorkbenchError if the text cannot be used. It is called when the tab is drawn
    and when the text changes. Views that cannot be drawn for the same reason raise `FieldError(label)`.
    """

    def __init__(
        self, slot: Slot, name: str, label: str, placeholder: str, check: Callable[[Bench, TabRequest, str], object]
    ) -> None:
        self._slot, self._name, self._check = slot, name, check
        box = gr.Textbox("", label=label, placeholder=placeholder, elem_id=name, render=False)
        self.box = slot.link(name, box)

    def render(self) -> None:
        """Add the text box and the place for its errors."""

        def checked(bench: Bench, request: TabRequest, text: str) -> list[object]:
            self._check(bench, request, text)
            return []

        with gr.Column(min_width=150, elem_classes="field"):
            self.box.render()
            notice = components.sentence(elem_classes="problem", elem_id=f"{self._name}-problem")
        self._slot.shows(checked, inputs=[self.box], outputs=[], notice=notice)


def text_field(
    slot: Slot, name: str, label: str, placeholder: str, check: Callable[[Bench, TabRequest, str], object]
) -> Component:
    """The text box of a `TextField` that is added to the page at once."""
    field = TextField(slot, name, label, placeholder, check)
    field.render()
    return field.box
