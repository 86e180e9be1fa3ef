"""Attention: the full map of the selected head."""

from typing import Any

from workbench.page import components
from workbench.page.build.slot import Slot
from workbench.page.session.bench import Bench
from workbench.page.session.heads import rail_value, scores_calls, unscored
from workbench.page.session.prices import is_cheap
from workbench.page.session.requests import TabRequest
from workbench.progress import Progress

TITLE = "Attention"
HOW = (
    "Choose a head among the thumbnails; each row of its map shows what that token attends to. Click a cell to lock it."
)


def build(slot: Slot) -> None:
    """The attention view."""
    view = components.attention_view(elem_id="attention")
    slot.shows(attention_value, outputs=[view], with_progress=True)


def attention_value(bench: Bench, request: TabRequest, progress: Progress | None = None) -> dict[str, Any]:
    """The value of the attention view: tokens, sizes, and the best head unless that is expensive to find.

    The browser fetches the map.
    """
    if is_cheap(bench, *scores_calls(bench, request.query)):
        return rail_value(bench, request.query, progress)
    return unscored(bench, request.query)
