"""What the built-in sets of texts do to checkpoints of tiny-olmo: the numbers of the data card."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.linear_probe import linear_probe
from workbench.analyses.token_losses import token_losses
from workbench.embedded_texts import SETS
from workbench.text_pairs import TextPairs
from workbench.texts import Texts

CHECKPOINTS = ("tiny-olmo@step0", "tiny-olmo@step500", "tiny-olmo@step1000", "tiny-olmo@step6000")
PROBED = ("tiny-olmo/language", "tiny-olmo/number", "tiny-olmo/place")

Number = tuple[str, str, float]
"""A set, what was measured, and the number."""


def checked(ids: Sequence[str] = CHECKPOINTS) -> pd.DataFrame:
    """A row for each number, a column for each checkpoint."""
    found = {}
    for checkpoint in ids:
        model, tokenizer = checkpoints.load(checkpoint)
        assert tokenizer is not None
        numbers = [*losses(model, tokenizer), *preferences(model, tokenizer), *readings(model, tokenizer)]
        found[checkpoint] = {(name, what): value for name, what, value in numbers}
    table = pd.DataFrame(found).rename_axis(["set", "number"]).reset_index()
    return table.round(3)


def losses(model: OlmoForCausalLM, tokenizer: PreTrainedTokenizerBase) -> Iterator[Number]:
    """Mean loss per token, in nats: of the texts of each label; of `repeats`, only of the last half of the words."""
    for name, found in SETS.items():
        if found.pairs:
            continue
        texts = Texts.read(name, tokenizer)
        values = token_losses(model, texts)["loss"].values
        if name == "tiny-olmo/repeats":  # the second span: its first token cannot be known
            ends = np.array(texts.lengths)[:, None]
            values = np.where(np.arange(values.shape[1]) > ends - 10, values, np.nan)
        labels = np.array(texts.labels or ["all"] * len(texts))
        for label in dict.fromkeys(labels.tolist()):
            yield name, f"loss, {label}", float(np.nanmean(values[labels == label]))


def preferences(model: OlmoForCausalLM, tokenizer: PreTrainedTokenizerBase) -> Iterator[Number]:
    """The share of prompts, both versions, after which the right answer is likelier than the other one."""
    for name, found in SETS.items():
        if found.pairs:
            pairs = TextPairs.read(name, tokenizer)
            assert pairs.others is not None
            answers, others = (
                torch.tensor([tokenizer.encode(text, add_special_tokens=False)[0] for text in some])
                for some in (pairs.answers, pairs.others)
            )
            first = _last_logits(model, pairs.clean)
            second = _last_logits(model, pairs.corrupted)
            rows = torch.arange(len(pairs))
            right = [first[rows, answers] > first[rows, others], second[rows, others] > second[rows, answers]]
            yield name, "right answer preferred", torch.stack(right).float().mean().item()


def _last_logits(model: OlmoForCausalLM, texts: Texts) -> torch.Tensor:
    """The logits after each text: text vocab."""
    return torch.cat([model.run(ids[None], logits_to_keep=1).logits[:, -1].float() for ids in texts])


def readings(model: OlmoForCausalLM, tokenizer: PreTrainedTokenizerBase) -> Iterator[Number]:
    """Accuracy of a linear probe on the last token: at the embedding, at its best layer, and with shuffled labels."""
    for name in PROBED:
        curves = linear_probe(model, Texts.read(name, tokenizer))
        accuracy, shuffled = curves.values[0], curves.values[1]
        best = int(accuracy.argmax())
        yield name, "probe at the embedding", float(accuracy[0])
        yield name, "probe at its best layer", float(accuracy[best])
        yield name, "the same, labels shuffled", float(shuffled[best])
