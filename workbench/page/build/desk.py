"""What stands beside the tabs: the rail of all heads on the left, the inspector of the selection on the right."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from workbench.page import components
from workbench.page.build.slot import Bar, Slot, agreement_button, asked
from workbench.page.session.bench import Bench
from workbench.page.session.heads import rail_value, scores_calls, unscored
from workbench.page.session.prices import SHOWN, Expensive, agree, priced
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
            self.agreement = agreement_button("rail-price")
            self.rail = components.rail(elem_id="rail")

    def add_inspector(self) -> None:
        """Add the details of the selected token and the card of the selected head."""
        with gr.Column(elem_id="inspector", min_width=160):
            self.bar.details.render()
            card = components.head_card(elem_id="head")
        outputs = [self.rail, card, self.agreement]
        self.slot.shows(heads, outputs=outputs, agreement=self.agreement, with_progress=True)


def heads(bench: Bench, request: TabRequest, progress: Progress | None = None) -> Iterator[list[Any]]:
    """The values of the rail, of the head's card, and of the button that agrees to the price of the scores.

    If the scores take longer than a moment, the rail is first shown without them.
    """
    query = request.query
    calls, value = scores_calls(bench, query), unscored(bench, query)
    try:
        price = agree(bench, request, *calls)
    except Expensive as expensive:
        yield [value, value, asked(expensive.price, "Score the heads")]
        return
    if price.seconds > SHOWN:
        yield [value, value, asked(None)]
    value = rail_value(bench, query, priced(progress, price))
    yield [value, value, asked(None)]
