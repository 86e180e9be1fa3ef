"""The prompt of a page: a text, or the turns of a conversation, which the checkpoint's chat template writes."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from workbench import chat
from workbench.chat import Turn

Prompt = str | tuple[Turn, ...]


def typed_prompt(text: object, is_chat: object) -> Prompt:
    """The prompt that the text of the prompt box means; with `is_chat`, its turns."""
    text = text if isinstance(text, str) else ""
    return chat.turns_of(text) if is_chat else text


def prompt_like(prompt: Prompt, text: str) -> Prompt:
    """A typed text as a prompt of the same kind as another one: turns if the other is a conversation, else a text."""
    return typed_prompt(text, not isinstance(prompt, str))


def typed_text(prompt: Prompt) -> str:
    """A prompt as the text of the prompt box."""
    return prompt if isinstance(prompt, str) else chat.typed(prompt)


def for_browser(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as JSON; data routes parse it back."""
    return prompt if isinstance(prompt, str) else chat.messages(prompt)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The token ids of a prompt. Errors, for turns: those of `Conversation.of`, except for turns that are left out."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer(chat.templated(tokenizer, prompt), add_special_tokens=False)["input_ids"]


def ids_code(tokenizer: str, prompt: Prompt) -> str:
    """A Python expression for the token ids of a prompt; `tokenizer` is the name of a variable."""
    if isinstance(prompt, str):
        return f"{tokenizer}({prompt!r}).input_ids"
    options = ", ".join(f"{name}={value}" for name, value in chat.ending(prompt).items())
    return f"{tokenizer}.apply_chat_template({chat.messages(prompt)!r}, {options}).input_ids"


def contents(prompt: Prompt) -> list[str]:
    """The text of a prompt, or the texts of its turns."""
    return [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt]


def with_contents(prompt: Prompt, texts: Sequence[str]) -> Prompt:
    """A prompt with other contents; roles stay."""
    if isinstance(prompt, str):
        return texts[0]
    return tuple(Turn(turn.role, text) for turn, text in zip(prompt, texts, strict=True))
