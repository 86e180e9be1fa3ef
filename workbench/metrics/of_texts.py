"""Metrics of predictions: the loss of texts, the probability of a continuation, the distance from the last model."""

import numpy as np
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import one_text, texts_for
from workbench.analyses.support.by_label import means_by_label
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.mean_loss import (
    loss_sums,
    loss_tokens_at_a_time,
    work_of_all_logits,
)
from workbench.analyses.support.memory import run_bytes
from workbench.analyses.support.next_tokens import next_token_statistics, work_of_text_statistics
from workbench.analyses.support.undefined import refuse_undefined
from workbench.analyses.trajectory import Metric
from workbench.metrics.text_lengths import long_enough, tokens_with_loss
from workbench.results import Scores
from workbench.texts import TextsLike


def held_out_loss(tokens: TextsLike) -> Metric:
    """Mean −log p per token of held-out texts, on which the run was not trained, in nats.

    For labelled texts there is one line for all texts and one for each label.
    """
    note = "Mean −log p of the tokens of held-out texts; lower is better."
    return Metric("held-out loss", _held_out_loss, {"tokens": long_enough(tokens, 2)}, unit="nats", note=note)


def continuation_log_prob(prompt: TextsLike, continuation: TextsLike) -> Metric:
    """The log-probability of a continuation after a prompt, in nats, summed over the tokens of the continuation.

    `prompt` and `continuation` are one text each.
    """
    arguments = {"prompt": one_text(prompt)[0], "continuation": one_text(continuation)[0]}
    note = "Log-probability of the continuation after the prompt, summed over its tokens."
    return Metric("log-probability of the continuation", _continuation, arguments, unit="nats", note=note)


def kl_to_last(tokens: TextsLike) -> Metric:
    """KL(last ‖ checkpoint) between next-token distributions, mean over the tokens of all texts, in nats.

    For labelled texts there is one line for all texts and one for each label.
    """
    arguments = {"tokens": long_enough(tokens)}
    note = "KL divergence of the next-token predictions from those of the last checkpoint."
    return Metric("KL to the last checkpoint", _kl, arguments, unit="nats", reference=log_probs, note=note)


def log_probs(model: OlmoForCausalLM, tokens: TextsLike) -> np.ndarray:
    """Log-probabilities of the next token after every token, texts in sequence: token vocab, float32."""
    texts = texts_for(model, tokens)
    loss_tokens_at_a_time(model, texts, kept=texts.tokens * model.config.vocab_size * 4)
    return torch.cat([model.run(ids[None]).logits[0].float().log_softmax(-1).cpu() for ids in texts]).numpy()


def _held_out_loss(model: OlmoForCausalLM, tokens: TextsLike) -> Scores:
    texts = texts_for(model, tokens, at_least=2)
    return means_by_label(texts, loss_sums(model, texts), tokens_with_loss(texts))


work_of(_held_out_loss)(work_of_text_statistics)


def _continuation(model: OlmoForCausalLM, prompt: Tensor, continuation: Tensor) -> float:
    tokens = torch.cat([prompt, continuation])[None].to(model.device)
    logits = model.run(tokens, logits_to_keep=len(continuation) + 1).logits[:, :-1]
    return -next_token_statistics(logits, tokens[:, len(prompt) :])["loss"].double().sum().item()


@work_of(_continuation)
def _work_of_continuation(model: OlmoForCausalLM, prompt: Tensor, continuation: Tensor) -> Work:
    count, new = len(prompt) + len(continuation), len(continuation) + 1
    return Work(
        pass_flops(model, count, logits=new), nbytes=count * run_bytes(model) + new * run_bytes(model, logits=2)
    )


def _kl(model: OlmoForCausalLM, tokens: TextsLike, reference: np.ndarray) -> Scores:
    texts = texts_for(model, tokens)
    loss_tokens_at_a_time(model, texts)
    sums, start = torch.empty(len(texts), dtype=torch.float64), 0
    for row, ids in enumerate(texts):
        mine = model.run(ids[None]).logits[0].float().log_softmax(-1).cpu()
        last = torch.tensor(reference[start : start + len(ids)])
        sums[row] = (last.exp() * (last - mine)).sum(dtype=torch.float64).clamp_min(0)
        start += len(ids)
    refuse_undefined(sums, "KL divergence", texts)
    return means_by_label(texts, sums, texts.mask.sum(1).cpu())


work_of(log_probs)(work_of_all_logits)
work_of(_kl)(work_of_all_logits)
