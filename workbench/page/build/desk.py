"""What stands beside the tabs: the rail of all heads on the left, the inspector of the selection on the right."""

from typing import Any

import gradio as gr

from workbench.page import components
from workbench.page.build.slot import Bar, Slot
from workbench.page.session.bench import Bench
from workbench.page.session.heads import rail_value
from workbench.page.session.requests import TabRequest
from workbench.progress import Progress

DESK = "desk"
"""The title of the slot of the rail and the inspector, which are drawn with every tab."""


class Desk:
    """The rail and the inspector during construction. `slot` is drawn with every tab."""

    def __init__(self, bench: Bench, bar: Bar) -> None:
        self.bar = bar
        with gr.Column(elem_id="rail-column", min_width=160):
            self.slot = Slot(bench, DESK, bar)
            self.rail = components.rail(elem_id="rail")

    def add_inspector(self) -> None:
        """Add the details of the selected token and the card of the selected head."""
        with gr.Column(elem_id="inspector", min_width=160):
            self.bar.details.render()
            card = components.head_card(elem_id="head")
        self.slot.shows(heads, outputs=[self.rail, card], with_progress=True)


def heads(bench: Bench, request: TabRequest, progress: Progress | None = None) -> list[dict[str, Any]]:
    """The values of the rail and of the head's card."""
    value = rail_value(bench, request.query, progress)
    return [value, value]
