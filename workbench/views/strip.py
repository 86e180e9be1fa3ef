"""The value of a token strip: a text token by token, coloured by one number each (see token_strip.js)."""

from collections.abc import Sequence
from typing import Any

from workbench.generation import Written
from workbench.results import Curves

HIGH = 10.0  # nats at full colour, on every strip of surprisals: one colour means one number


def strip(texts: Sequence[str], ids: Sequence[int], scores: Sequence[float], **more: object) -> dict[str, Any]:
    """A strip of tokens with a score each, exact to float32; NaN is "no score"."""
    numbers = [None if score != score else float(f"{score:.9g}") for score in scores]
    return {"texts": list(texts), "ids": list(ids), "scores": numbers, "unit": "nats", "signed": False, **more}


def surprisals(texts: Sequence[str], ids: Sequence[int], scores: Sequence[float], **more: object) -> dict[str, Any]:
    """A strip of surprisals, which are probabilities too."""
    return strip(texts, ids, scores, high=HIGH, measure="surprisal", probability=True, **more)


def strip_of(result: Written | Curves) -> dict[str, Any]:
    """The strip of a written text, or of a number for each token of a text that was read."""
    if isinstance(result, Written):
        return surprisals(result.tokens, result.ids, result.values.tolist(), given=result.given, title=result.title)
    assert result.x_labels is not None, "a strip shows tokens"
    scores = result.values[0].tolist()
    about = {"title": result.title, "unit": result.unit, "signed": result.signed, "measure": result.value_name}
    high = max((abs(score) for score in scores if score == score), default=1.0)
    high = HIGH if result.surprisal else high
    return strip(result.x_labels, (), scores, high=high, probability=result.surprisal, **about)
