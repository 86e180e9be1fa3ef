"""Attention: every head of every layer, and one of them in full."""

from collections.abc import Mapping
from typing import Any

from workbench import views
from workbench.analyses.head_atlas import head_atlas
from workbench.results import Grid
from workbench.tabs.bench import MOST_ATTENTION_TOKENS, Bench, Opened
from workbench.tabs.place import Due, Place

TITLE = "Attention"
ORDERS = ("induction", "previous", "first", "self", "duplicate", "entropy", "distance")
HOW = (
    "Each map: one row a query token, one column a key token; a row sums to 1 and says where its query looks. "
    "Thumbnails show the strongest weight under each pixel. Click one for the full map, click a cell to lock it."
)


def build(place: Place) -> None:
    view = views.attention_view(elem_id="attention")
    place.shows(attention, outputs=[view])


def attention(bench: Bench, due: Due) -> dict[str, Any]:
    """What the view needs to know; the maps themselves it fetches."""
    opened = bench.read(due.subject.checkpoint, due.subject.prompt, MOST_ATTENTION_TOKENS)
    atlas = atlas_of(bench, opened, due)
    orders = {name: atlas[name].values.ravel().tolist() for name in ORDERS if name in atlas}
    best = atlas["induction"].rank().iloc[0] if "induction" in atlas else None
    chosen = None if best is None else {"layer": int(best["row"]), "head": int(best["column"])}
    return view_value(opened, due) | {"orders": orders, "best": chosen}


def atlas_of(bench: Bench, opened: Opened, due: Due) -> Mapping[str, Grid]:
    """The statistics of all heads on the prompt; nothing for a prompt too short to have any."""
    if opened.ids.shape[1] < 2:
        return {}
    key = ("atlas", due.subject.checkpoint, due.subject.prompt)
    return bench.once(key, lambda: head_atlas(opened.model, opened.ids, samples=16))


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
