"""Tokenizers with chat templates that write what those of OLMo's instruct checkpoints write."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from workbench.tokens import byte_alphabet

# OLMo 2 Instruct: a beginning of text, then `<|user|>` and the like as ordinary text. Only the assistant's turn ends
# with a special token; a line break follows unless it is the last.
OLMO2 = (
    "{{ bos_token }}{% for turn in messages %}{{ '<|' ~ turn.role ~ '|>\n' ~ turn.content }}"
    "{% if turn.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if turn.role != 'assistant' or not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# OLMo 3 Instruct: ChatML, with a default system prompt, a sentence on functions after a given one, and an end of text
# in place of the end of turn after the assistant's last turn.
OLMO3 = (
    "{% set no_functions = 'You do not currently have access to any functions. <functions></functions>' %}"
    "{% if messages | selectattr('role', 'equalto', 'system') | list | length == 0 %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant. ' ~ no_functions ~ '<|im_end|>\n' }}{% endif %}"
    "{% for turn in messages %}{{ '<|im_start|>' ~ turn.role ~ '\n' ~ turn.content }}"
    "{% if turn.role == 'system' %}{{ ' ' ~ no_functions }}{% endif %}"
    "{% if turn.role == 'assistant' and loop.last %}{{ eos_token }}{% else %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {"OLMo 2": OLMO2, "OLMo 3": OLMO3}
SPECIAL = ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<functions>", "</functions>")
MERGES = [("H", "i"), ("Ġ", "t"), ("Ġt", "h"), (".", "Ċ"), ("Ċ", "Ċ")]
VOCAB = len(SPECIAL) + 256 + len(MERGES)


def chat_tokenizer(template: str | None, special: Sequence[str] = SPECIAL) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a few merges, two of which can join a content with the template's text."""
    pieces = [*special, *byte_alphabet(), *("".join(pair) for pair in MERGES)]
    core = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, MERGES))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        chat_template=template,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
