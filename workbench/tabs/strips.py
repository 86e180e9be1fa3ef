"""Values of the token strip: a text token by token, coloured by one number each (see views/token_strip.js)."""

from collections.abc import Sequence
from typing import Any

from workbench.analyses.token_losses import token_losses
from workbench.tabs.bench import Opened, Selection


def strip(labels: Sequence[str], ids: Sequence[int], scores: Sequence[float], **more: object) -> dict[str, Any]:
    """A strip of tokens with a score each; NaN is "no score"."""
    numbers = [None if score != score else round(float(score), 6) for score in scores]
    return {"texts": list(labels), "ids": list(ids), "scores": numbers, "unit": "nats", "signed": False, **more}


def surprisal_strip(opened: Opened, selection: Selection) -> dict[str, Any]:
    """The prompt, coloured by what each token cost the model."""
    known = opened.ids.shape[1] > 1
    scores = token_losses(opened.model, opened.ids)["loss"].values[0].tolist() if known else [float("nan")]
    return strip(
        opened.labels,
        opened.ids[0].tolist(),
        scores,
        title="Prompt by surprisal: −log probability of each token, given those before it",
        high=10.0,
        measure="surprisal",
        probability=True,
        spine=True,
        selected=selection.token,
    )
