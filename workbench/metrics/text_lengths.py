"""What a metric asks of the lengths of its texts."""

from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.texts import Texts, TextsLike, as_texts


def long_enough(tokens: TextsLike, at_least: int = 1) -> TextsLike:
    """The texts unchanged, after a check of their lengths. (Padding is recognised later, with the configuration of the
    model.)

    Errors: those of `as_texts`, and WorkbenchError for a text of fewer than `at_least` tokens.
    """
    shortest = min(as_texts(tokens).lengths)
    if shortest < at_least:
        raise WorkbenchError(f"a text has {shortest} tokens; this needs at least {at_least}")
    return tokens


def tokens_with_loss(texts: Texts) -> Tensor:
    """The number of tokens of each text that have a loss, all but the first: text."""
    return texts.mask.sum(1).cpu() - 1
