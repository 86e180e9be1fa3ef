"""The tokenizer of tiny-olmo: byte-level BPE with 4,096 tokens; decoding restores any text exactly."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

VOCAB = 4096
END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
CONTEXT = 2048


def train_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Learn the merges from `texts` and save a tokenizer that `AutoTokenizer.from_pretrained` loads.

    As in OLMo, text is not normalised and no token is added at the beginning.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved in `folder`."""
    return AutoTokenizer.from_pretrained(folder)
