"""Values of the views of attention heads: the rail of all heads, and the map of one."""

from typing import Any

import numpy as np

from workbench.analyses.head_atlas import head_atlas
from workbench.metrics import SCORES
from workbench.page.session.arguments import ModelOf, TextsOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.map_requests import INDUCTION_SAMPLES, atlas_call
from workbench.page.session.opened_prompt import MOST_ATTENTION_TOKENS, OpenedPrompt
from workbench.page.session.prompts import for_browser
from workbench.page.session.requests import Query
from workbench.progress import Progress
from workbench.views.standalone import ORDERS

OF_TEXTS = ("entropy", "previous", "first", "self", "distance", "duplicate")
"""The scores that depend on the texts; induction is measured on random tokens."""
SAMPLED = f"Mean over {INDUCTION_SAMPLES} rows; head_atlas and the command line take more, with a smaller error."


def rail_value(
    bench: Bench, query: Query, progress: Progress | None = None, chosen: str | None = None
) -> dict[str, Any]:
    """The value of the rail (see rail.js): sizes of the model, scores of its heads, the best head.

    The scores are those on the prompt. With `chosen`, the name of a set of texts, they are means over its texts, and
    `errors` holds their standard errors over texts. A prompt of one token has no scores. The browser requests the
    thumbnails separately.
    """
    value, calls = unscored(bench, query), scores_calls(bench, query, chosen)
    if not calls:
        return value
    atlas = result(calls[0], bench, progress)
    orders = {name: finite(atlas[name].values) for name in ORDERS if name in atlas}
    notes = {name: SCORES[name][1] for name in orders}
    notes["induction"] += f" {SAMPLED}"
    first = atlas["induction"].rank().iloc[0]
    best = {"layer": int(first["row"]), "head": int(first["column"])}
    errors = {} if chosen is None else {name: finite(atlas[name].errors) for name in orders if name in OF_TEXTS}
    return value | {"orders": orders, "notes": notes, "best": best, "errors": errors}


def unscored(bench: Bench, query: Query) -> dict[str, Any]:
    """The value of the rail or of the attention view without the scores of heads, which may be expensive."""
    return map_value(bench.read(query.checkpoint, query.prompt, MOST_ATTENTION_TOKENS), query)


def scores_calls(bench: Bench, query: Query, chosen: str | None = None) -> list[Call]:
    """The calls that compute the scores of the rail, on the prompt or the set named `chosen`: none for a prompt of one
    token."""
    if chosen is not None:
        model, texts = ModelOf(query.checkpoint, query.edits), TextsOf(query.checkpoint, chosen)
        return [Call.of(head_atlas, model, texts, samples=INDUCTION_SAMPLES)]
    call = atlas_call(query.checkpoint, query.prompt, query.edits)
    return [] if bench.tokens(query.checkpoint, query.prompt).shape[1] < 2 else [call]


def finite(scores: np.ndarray | None) -> list[float | None]:
    """The scores of all heads, layer by layer; None in place of NaN, which JSON cannot hold."""
    return [] if scores is None else [None if score != score else score for score in scores.ravel().tolist()]


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
