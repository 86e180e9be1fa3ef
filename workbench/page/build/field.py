"""A text box of a tab whose errors stand below it, once, however many views read it."""

from collections.abc import Callable

import gradio as gr

from workbench.errors import WorkbenchError
from workbench.page import components
from workbench.page.build.slot import Slot
from workbench.page.session.bench import Bench
from workbench.page.session.requests import TabRequest


class FieldError(WorkbenchError):
    """A text box of a tab has a value that cannot be used. Views raise it; the reason is shown at the text box."""

    def __init__(self, label: str) -> None:
        super().__init__(f"“{label}” cannot be used; the reason stands there.")


def text_field(
    slot: Slot, name: str, label: str, placeholder: str, check: Callable[[Bench, TabRequest, str], object]
) -> gr.Textbox:
    """A text box, kept in the page's address as `name`, with a place for errors below it.

    `check(bench, request, text)` raises WorkbenchError if the text cannot be used. It is called when the tab is drawn
    and when the text changes. Views that cannot be drawn for the same reason raise `FieldError(label)`.
    """

    def checked(bench: Bench, request: TabRequest, text: str) -> list[object]:
        check(bench, request, text)
        return []

    with gr.Column(min_width=150, elem_classes="field"):
        box = gr.Textbox("", label=label, placeholder=placeholder)
        notice = components.sentence(elem_classes="problem", elem_id=f"{name}-problem")
    slot.shows(checked, inputs=[slot.link(name, box)], outputs=[], notice=notice)
    return box
