"""Values of the views of attention heads: the rail of all heads, and the map of one."""

from typing import Any

from workbench.metrics import SCORES
from workbench.page.session.bench import MOST_ATTENTION_TOKENS, Bench, OpenedPrompt
from workbench.page.session.calls import Call
from workbench.page.session.map_requests import SAMPLES, atlas_call, atlas_of
from workbench.page.session.prompts import for_browser
from workbench.page.session.requests import Query
from workbench.progress import Progress
from workbench.results import Grid
from workbench.views.standalone import ORDERS

SAMPLED = f"Mean over {SAMPLES} rows; the command line and head_atlas take more by default, with a smaller error."


def rail_value(bench: Bench, query: Query, progress: Progress | None = None) -> dict[str, Any]:
    """The value of the rail (see rail.js): sizes of the model, scores of its heads on the prompt, the best head.

    The browser fetches the thumbnails. A prompt of one token has no scores.
    """
    opened = bench.read(query.checkpoint, query.prompt, MOST_ATTENTION_TOKENS)
    value = map_value(opened, query)
    atlas = atlas_of(bench, opened, query.prompt, query.edits, progress)
    if atlas is None:
        return value
    orders = {name: finite(atlas[name]) for name in ORDERS if name in atlas}
    notes = {name: SCORES[name][1] for name in orders}
    notes["induction"] += f" {SAMPLED}"
    first = atlas["induction"].rank().iloc[0]
    best = {"layer": int(first["row"]), "head": int(first["column"])}
    return value | {"orders": orders, "notes": notes, "best": best}


def unscored(bench: Bench, query: Query) -> dict[str, Any]:
    """The value of the rail or of the attention view without the scores of heads, which may be expensive."""
    return map_value(bench.read(query.checkpoint, query.prompt, MOST_ATTENTION_TOKENS), query)


def scores_calls(bench: Bench, query: Query) -> list[Call]:
    """The calls that compute the scores of the rail: none for a prompt of one token."""
    call = atlas_call(query.checkpoint, query.prompt, query.edits)
    return [] if bench.tokens(query.checkpoint, query.prompt).shape[1] < 2 else [call]


def finite(scores: Grid) -> list[float | None]:
    """The scores of all heads, layer by layer; None in place of NaN, which JSON cannot hold."""
    return [None if score != score else score for score in scores.values.ravel().tolist()]


def map_value(opened: OpenedPrompt, query: Query, other: str | None = None) -> dict[str, Any]:
    """The value of an attention view (see attention.js); `other` is the id of the checkpoint B."""
    return {
        "checkpoint": opened.checkpoint,
        "other": other,
        "prompt": for_browser(query.prompt),
        "run": query.run,
        "edits": query.edits,
        "change": query.change,
        "texts": list(opened.labels),
        "layers": opened.model.config.num_hidden_layers,
        "heads": opened.model.config.num_attention_heads,
    }
