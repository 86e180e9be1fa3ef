"""The loss of a model on each text of a set, and its mean."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import (
    CHUNK_BYTES,
    text_batches,
    text_statistics,
    work_of_text_statistics,
)
from workbench.analyses.support.undefined import refuse_undefined
from workbench.texts import Texts, TextsLike

WHAT = "log-probabilities"


def mean_loss(model: OlmoForCausalLM, tokens: TextsLike) -> float:
    """Mean −log p over all tokens except the first of each text, in nats. Errors: those of `loss_sums`."""
    texts = texts_for(model, tokens, at_least=2)
    return loss_sums(model, texts).sum().item() / (texts.tokens - len(texts))


def loss_sums(model: OlmoForCausalLM, texts: Texts) -> Tensor:
    """−log p summed over the tokens of each text except its first, in nats: text, float64, on the CPU.

    Errors: WorkbenchError, with the text, for a loss that is not a number.
    """
    found = torch.empty(len(texts), dtype=torch.float64)
    for rows, ids in text_batches(model, texts):
        mask = texts.mask[rows, : ids.shape[1]].to(ids.device)
        losses = text_statistics(model, ids, mask)["loss"].double()
        found[rows] = losses.where(mask[:, 1:], 0).sum(1).cpu()
    refuse_undefined(found, "loss", texts)
    return found


work_of(mean_loss)(work_of_text_statistics)


def work_of_all_logits(model: OlmoForCausalLM, tokens: TextsLike, **_: object) -> Work:
    """The work of one pass over texts with all their logits."""
    texts, (per_token, fixed) = texts_for(model.config, tokens), _bytes(model)
    peak = peak_bytes(model, WHAT, per_token, texts.longest, texts.tokens, fixed=fixed)
    return Work(pass_flops(model, texts.tokens, logits=texts.tokens), nbytes=peak)


def loss_tokens_at_a_time(model: OlmoForCausalLM, texts: Texts, kept: int = 0) -> int:
    """The number of tokens to run at a time with all their logits, beside `kept` bytes."""
    per_token, fixed = _bytes(model, kept)
    return tokens_at_a_time(model, WHAT, per_token, texts.longest, fixed=fixed)


def _bytes(model: OlmoForCausalLM, kept: int = 0) -> tuple[float, int]:
    """Bytes for each token of a batch, and bytes that do not depend on its size, `kept` included."""
    return run_bytes(model, logits=2) + 3 * 4 * model.config.vocab_size, CHUNK_BYTES + kept
