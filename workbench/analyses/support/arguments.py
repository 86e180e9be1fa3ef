"""Checks of the arguments of analyses: texts on the model's device, and indices within range."""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedConfig

from hooks import OlmoForCausalLM
from workbench.errors import WorkbenchError
from workbench.text_files import named
from workbench.texts import Texts, TextsLike, as_texts


def texts_for(model: OlmoForCausalLM | PreTrainedConfig, tokens: TextsLike, at_least: int = 1) -> Texts:
    """The texts of an analysis (see `as_texts`), on the model's device. With a configuration they stay on their own
    device.

    Errors: WorkbenchError for an argument that is not texts, and for a text of fewer than `at_least` tokens.
    """
    on_device = isinstance(model, OlmoForCausalLM)
    texts = as_texts(tokens, model.config if on_device else model)
    if min(texts.lengths) < at_least:
        shortest = texts.lengths.index(min(texts.lengths))
        which = named([shortest], texts.places) if len(texts) > 1 else "the text"
        raise WorkbenchError(f"{which} has {min(texts.lengths)} tokens; this needs at least {at_least}")
    return texts.to(model.device) if on_device else texts


def one_text(tokens: TextsLike, model: OlmoForCausalLM | None = None, at_least: int = 1) -> Tensor:
    """The ids of exactly one text, 1 pos, on the model's device.

    Errors: WorkbenchError for several texts, and those of `texts_for`.
    """
    if isinstance(tokens, Tensor) and tokens.ndim == 2 and len(tokens) > 1:
        raise WorkbenchError(f"this takes one text, not a batch of {len(tokens)}; pass one row, such as tokens[0]")
    texts = as_texts(tokens) if model is None else texts_for(model, tokens, at_least)
    if len(texts) != 1:
        raise WorkbenchError(f"this takes one text, not {len(texts)} texts; pass one of them, such as texts[0]")
    if texts.longest < at_least:
        raise WorkbenchError(f"the text has {texts.longest} tokens; this needs at least {at_least}")
    return texts.ids


def chosen(wanted: Sequence[int] | None, there: int, what: str) -> list[int]:
    """The wanted indices, of `there` in total, as numbers from 0; negative ones count from the end. None means all.

    Errors: WorkbenchError for an index out of range.
    """
    if wanted is None:
        return list(range(there))
    outside = [index for index in wanted if not -there <= index < there]
    if outside:
        raise WorkbenchError(f"no {what} {outside[0]}; there are {there}, numbered {-there} … {there - 1}")
    return [index % there for index in wanted]
