"""Attention: thumbnails of every head of every layer, and the full map of one head."""

from typing import Any

from workbench.metrics import SCORES
from workbench.page import components
from workbench.page.build.slot import Slot
from workbench.page.session.bench import MOST_ATTENTION_TOKENS, Bench, OpenedPrompt
from workbench.page.session.map_requests import SAMPLES, atlas_of
from workbench.page.session.prompts import for_browser
from workbench.page.session.requests import TabRequest
from workbench.progress import Progress
from workbench.results import Grid
from workbench.views.standalone import ORDERS

TITLE = "Attention"
HOW = (
    "In each map, a row is a query token and a column is a key token. "
    "Each pixel of a thumbnail shows the largest weight in its area. Click a thumbnail to see the full map; click a "
    "cell to lock it."
)
SAMPLED = f"Mean over {SAMPLES} rows; the command line and head_atlas take more by default, with a smaller error."


def build(slot: Slot) -> None:
    """The attention view."""
    view = components.attention_view(elem_id="attention")
    slot.shows(attention, outputs=[view], with_progress=True)


def attention(bench: Bench, request: TabRequest, progress: Progress | None = None) -> dict[str, Any]:
    """The value of the attention view: tokens, sizes, scores of heads, the best head. The browser fetches the maps."""
    opened = bench.read(request.query.checkpoint, request.query.prompt, MOST_ATTENTION_TOKENS)
    atlas = atlas_of(bench, opened, request.query.prompt, request.query.edits, progress)
    if atlas is None:
        return view_value(opened, request)
    orders = {name: finite(atlas[name]) for name in ORDERS if name in atlas}
    first = atlas["induction"].rank().iloc[0]
    best = {"layer": int(first["row"]), "head": int(first["column"])}
    notes = {name: SCORES[name][1] for name in orders}
    notes["induction"] += f" {SAMPLED}"
    return view_value(opened, request) | {"orders": orders, "notes": notes, "best": best}


def finite(scores: Grid) -> list[float | None]:
    """The scores of all heads, layer by layer; None in place of NaN, which JSON cannot hold."""
    return [None if score != score else score for score in scores.values.ravel().tolist()]


def view_value(opened: OpenedPrompt, request: TabRequest, other: str | None = None) -> dict[str, Any]:
    """The value of an attention view, without scores (see attention.js)."""
    return {
        "checkpoint": opened.checkpoint,
        "other": other,
        "prompt": for_browser(request.query.prompt),
        "run": request.query.run,
        "edits": request.query.edits,
        "texts": list(opened.labels),
        "layers": opened.model.config.num_hidden_layers,
        "heads": opened.model.config.num_attention_heads,
        "orders": {},
        "notes": {},
    }
