"""The value of a token strip: a text whose tokens are coloured by one number each (see token_strip.js)."""

from collections.abc import Sequence
from typing import Any

from workbench.generation import Written
from workbench.results import Curves

HIGH = 10.0  # nats at full colour; the same on all strips of surprisals, so that their colours compare


def strip(texts: Sequence[str], ids: Sequence[int], scores: Sequence[float], **more: object) -> dict[str, Any]:
    """The value of a strip: tokens with one score each, exact to float32; NaN means no score."""
    numbers = [None if score != score else float(f"{score:.9g}") for score in scores]
    return {"texts": list(texts), "ids": list(ids), "scores": numbers, "unit": "nats", "signed": False, **more}


def surprisals(texts: Sequence[str], ids: Sequence[int], scores: Sequence[float], **more: object) -> dict[str, Any]:
    """The value of a strip of surprisals, in nats; the view also shows them as probabilities."""
    return strip(texts, ids, scores, high=HIGH, measure="surprisal", probability=True, **more)


def strip_of(result: Written | Curves) -> dict[str, Any]:
    """The value of the strip of a generated text, or of a text that was read with one number for each token."""
    if isinstance(result, Written):
        return surprisals(result.tokens, result.ids, result.values.tolist(), given=result.given, title=result.title)
    assert result.x_labels is not None, "a strip shows tokens"
    scores = result.values[0].tolist()
    about = {"title": result.title, "unit": result.unit, "signed": result.signed, "measure": result.value_name}
    high = max((abs(score) for score in scores if score == score), default=1.0)
    high = HIGH if result.surprisal else high
    return strip(result.x_labels, (), scores, high=high, probability=result.surprisal, **about)
