"""A prompt, tokenised for a loaded checkpoint, and how long it may be."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench.chat import Conversation
from workbench.errors import WorkbenchError
from workbench.page.session.prompts import Prompt, prompt_ids
from workbench.page.session.speed import Speed
from workbench.tokens import token_labels

MOST_TOKENS = 4096  # of a prompt; fewer if the model's context is shorter
MOST_ATTENTION_TOKENS = 2048


@dataclass(frozen=True)
class OpenedPrompt:
    """A loaded checkpoint and a tokenised prompt."""

    checkpoint: str
    prompt: Prompt
    model: OlmoForCausalLM
    tokenizer: PreTrainedTokenizerBase
    ids: Tensor  # 1 pos
    speed: Speed
    conversation: Conversation | None = None  # the tokens of each turn, if the prompt is a conversation

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The tokens as text."""
        return token_labels(self.ids[0].tolist(), self.tokenizer)


def ids_of_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[Tensor, Conversation | None]:
    """The token ids of a prompt, 1 pos, and the tokens of its turns if it is a conversation.

    Errors: WorkbenchError for no text.
    """
    check_not_empty(prompt)
    if isinstance(prompt, str):
        return torch.tensor([prompt_ids(tokenizer, prompt)]), None
    conversation = Conversation.of(tokenizer, prompt)
    return conversation.ids, conversation


def check_length(model: OlmoForCausalLM, ids: Tensor, most: int) -> None:
    """Raise WorkbenchError for more than `most` tokens or than the model's context; ids: 1 pos."""
    most = most_tokens(model, most)
    if ids.shape[1] > most:
        raise WorkbenchError(f"the prompt has {ids.shape[1]:,} tokens; this view takes at most {most:,}")


def check_not_empty(prompt: Prompt) -> None:
    """Raise WorkbenchError for a prompt without turns or without text."""
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise WorkbenchError("the prompt is empty; type a text, or choose an example")


def most_tokens(model: OlmoForCausalLM, most: int) -> int:
    """The number of tokens that a text may have: `most`, or the model's context length if that is smaller."""
    return min(most, model.config.max_position_embeddings)
