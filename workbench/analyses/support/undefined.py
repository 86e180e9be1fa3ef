"""Numbers of texts that are NaN or infinite are refused, with the texts."""

from collections.abc import Sequence

from torch import Tensor

from workbench.errors import WorkbenchError

NAMED = 6  # texts that a sentence names


def refuse_undefined(of_texts: Tensor, what: str, rows: Sequence[int] | None = None, kind: str = "text") -> None:
    """Raise WorkbenchError, with the numbers of the texts, if a number of a text is NaN or infinite: text …

    Without this check a mean over texts would be NaN, and nothing would say which text is the cause. `rows` are the
    numbers of these texts among all; None counts them from 0. A model on the meta device has no numbers.
    """
    if of_texts.device.type == "meta":
        return
    wrong = (~of_texts.isfinite()).flatten(1).any(1) if of_texts.ndim > 1 else ~of_texts.isfinite()
    found = [number if rows is None else rows[number] for number in wrong.nonzero()[:, 0].tolist()]
    if found:
        named = ", ".join(map(str, sorted(found)[:NAMED])) + (", …" if len(found) > NAMED else "")
        texts = f"{kind} {named}" if len(found) == 1 else f"{len(found)} {kind}s ({named})"
        raise WorkbenchError(
            f"the {what} of {texts} is not a finite number: the forward pass overflows there, or the weights are "
            "damaged; leave such texts out, or load the checkpoint in float32"
        )
