"""Numbers of texts that are NaN or infinite are refused, with the texts."""

from collections.abc import Sequence

from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.text_files import named
from workbench.texts import Texts


def refuse_undefined(
    of_texts: Tensor, what: str, texts: Texts | None = None, rows: Sequence[int] | None = None, kind: str = "text"
) -> None:
    """Raise WorkbenchError, with the numbers of the texts, if a number of a text is NaN or infinite: text …

    Without this check a mean over texts would be NaN, and nothing would say which text is the cause. The message also
    names the file and the lines of `texts` that `Texts.read` read. `rows` are the numbers of these texts among all;
    None counts them from 0. A model on the meta device has no numbers.
    """
    if of_texts.device.type == "meta":
        return
    wrong = (~of_texts.isfinite()).flatten(1).any(1) if of_texts.ndim > 1 else ~of_texts.isfinite()
    found = sorted(number if rows is None else rows[number] for number in wrong.nonzero()[:, 0].tolist())
    if found:
        places = None if texts is None else texts.places
        raise WorkbenchError(
            f"the {what} of {named(found, places, kind)} is not a finite number: the forward pass overflows there, or "
            "the weights are damaged; leave such texts out, or load the checkpoint in float32"
        )
