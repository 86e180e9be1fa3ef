"""Attention: every head of every layer, and one of them in full."""

from typing import Any

from workbench import views
from workbench.progress import Progress
from workbench.results import Grid
from workbench.tabs.bench import MOST_ATTENTION_TOKENS, Bench, Opened
from workbench.tabs.pictures import atlas_of
from workbench.tabs.place import Due, Place
from workbench.views.standalone import ORDERS

TITLE = "Attention"
HOW = (
    "Each map: one row a query token, one column a key token. "
    "Thumbnails show the strongest weight under each pixel. Click one for the full map, click a cell to lock it."
)


def build(place: Place) -> None:
    """The attention view."""
    view = views.attention_view(elem_id="attention")
    place.shows(attention, outputs=[view])


def attention(bench: Bench, due: Due, progress: Progress | None = None) -> dict[str, Any]:
    """What the view needs to know; the maps themselves it fetches."""
    opened = bench.read(due.subject.checkpoint, due.subject.prompt, MOST_ATTENTION_TOKENS)
    atlas = atlas_of(bench, opened, due.subject.prompt, progress)
    if atlas is None:
        return view_value(opened, due)
    orders = {name: finite(atlas[name]) for name in ORDERS if name in atlas}
    first = atlas["induction"].rank().iloc[0]
    best = {"layer": int(first["row"]), "head": int(first["column"])}
    return view_value(opened, due) | {"orders": orders, "best": best}


def finite(scores: Grid) -> list[float | None]:
    """A score of every head, head 0 of layer 0 first; None where it is not defined, which JSON can say."""
    return [None if score != score else score for score in scores.values.ravel().tolist()]


def view_value(opened: Opened, due: Due, other: str | None = None) -> dict[str, Any]:
    """An attention view's value (see attention.js)."""
    return {
        "checkpoint": opened.checkpoint,
        "other": other,
        "prompt": due.subject.prompt,
        "run": due.subject.run,
        "texts": list(opened.labels),
        "layers": opened.model.config.num_hidden_layers,
        "heads": opened.model.config.num_attention_heads,
        "orders": {},
    }
