"""The columns beside the tabs: the rail of all heads on the left, the inspector of the selection on the right."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from workbench.page import components
from workbench.page.build.panel import menu
from workbench.page.build.slot import Bar, Slot, agreement_button, asked
from workbench.page.session.bench import Bench
from workbench.page.session.heads import rail_value, scores_calls, unscored
from workbench.page.session.menus import OVER, PROMPT, choice
from workbench.page.session.prices import PRICE_SHOWN, Expensive, agree, priced
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
            self.over = menu(OVER, "Scores of heads on")
            self.over.render()
            self.told = components.sentence(elem_id="rail-told")
            self.rail = components.rail(elem_id="rail")

    def add_inspector(self) -> None:
        """Add the details of the selected token and the card of the selected head."""
        with gr.Column(elem_id="inspector", min_width=160):
            self.bar.details.render()
            card = components.head_card(elem_id="head")
        outputs, options = [self.rail, card, self.agreement, self.told], {"agreement": self.agreement}
        self.slot.link("rail_over", self.over)
        self.slot.shows(heads, inputs=[self.over], outputs=outputs, follows=["texts"], with_progress=True, **options)


def heads(
    bench: Bench, request: TabRequest, over: str = PROMPT, progress: Progress | None = None
) -> Iterator[list[Any]]:
    """The values of the rail, of the head's card, and of the button that agrees to the price of the scores; a sentence
    on what the scores are means over.

    If the scores are expensive, the rail is first shown without them.
    """
    query = request.query
    found = bench.sets.get(request.selection.texts) if choice(over, OVER, "text") else None
    chosen = None if found is None else found.name
    told = "" if found is None else f"Scores: mean over {found.counted}. Maps: this prompt."
    calls, value = scores_calls(bench, query, chosen), unscored(bench, query)
    try:
        price = agree(bench, request, *calls)
    except Expensive as expensive:
        yield [value, value, asked(expensive.price, "Score the heads"), told]
        return
    if price.seconds > PRICE_SHOWN:
        yield [value, value, asked(None), told]
    value = rail_value(bench, query, priced(progress, price), chosen)
    yield [value, value, asked(None), told]
