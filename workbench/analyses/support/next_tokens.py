"""Statistics of next-token distributions."""

import math
from typing import Any

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.products import fast_products, product
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.texts import Batch, Texts, TextsLike

WHAT = "token losses"
AFTER_NORM = "ln_final.normalized"  # the input of the unembedding

CHUNK = 2**22  # logits turned into probabilities at a time
CPU_CHUNK = 2**18  # the same on a CPU: what stays in its cache
CPU_TOKENS = 512  # to run at a time on a CPU for statistics of all tokens: what stays in its cache
ROWS = 512  # the most logits of `text_statistics` at a time, in tokens
LOG2_E = 1 / math.log(2)  # eˣ = 2^(x log₂ e)
LEAST = torch.finfo(torch.float32).min  # in place of −∞, so that 0 · log 0 is 0
CHUNK_BYTES = 4 * 4 * CHUNK  # of intermediate results for one chunk, in float32


def next_token_statistics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Loss, rank and entropy of next-token distributions, float32: … each.

    loss = −log p(target), in nats; rank = 1 + the number of tokens with a higher logit; entropy = −Σ p log p, in nats.
    logits: … vocab; targets: …, token ids. Computed in chunks, so no second tensor of the size of the logits is needed.
    """
    flat, wanted = logits.flatten(0, -2), targets.flatten()
    size = max(1, (CPU_CHUNK if flat.device.type == "cpu" else CHUNK) // flat.shape[-1])
    parts: dict[str, list[Tensor]] = {"loss": [], "rank": [], "entropy": []}
    for rows, target in zip(flat.split(size), wanted.split(size), strict=True):
        for name, values in _token_statistics(rows.float(), target[:, None]).items():
            parts[name].append(values[:, 0])
    return {name: torch.cat(chunks).reshape(targets.shape) for name, chunks in parts.items()}


def _token_statistics(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """`next_token_statistics` of logits (row vocab, float32) and targets (row 1): row 1 each.

    With z the logits minus the largest: loss = log Σ eᶻ − z of the target, entropy = log Σ eᶻ − Σ z eᶻ / Σ eᶻ.
    """
    largest, own = logits.amax(-1, keepdim=True), logits.gather(-1, target)
    z = logits - largest
    other = torch.gt(logits, own, out=torch.empty_like(logits))  # one buffer for three tensors: all stay in the cache
    rank = 1 + other.sum(-1, keepdim=True)
    weights = torch.mul(z, LOG2_E, out=other).exp2_()  # `exp` takes four times as long on processors by AMD
    total = weights.sum(-1, keepdim=True)
    mean = weights.mul_(z.clamp_(min=LEAST)).sum(-1, keepdim=True) / total
    return {"loss": total.log() - (own - largest), "rank": rank, "entropy": total.log() - mean}


@torch.no_grad()
def text_statistics(model: OlmoForCausalLM, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """`next_token_statistics` of each token of texts after the first: batch pos-1 each, undefined at padding.

    The logits of at most `ROWS` tokens are in memory at a time. Linear layers are those of `fast_products`. Nothing is
    computed for the last position, and no logits at padding, unless the model has edits: these count positions in whole
    texts.

    Args:
        ids: token ids, batch pos, with padding on the right.
        mask: boolean, batch pos; False at padding. None means that there is no padding.
    """
    if model.tapped_edits:
        return _edited_statistics(model, ids)
    targets = ids[:, 1:]
    there = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask[:, 1:].to(ids.device)
    with fast_products():
        before = ids[:, :-1] if targets.numel() else ids  # nothing is predicted in texts of one token
        after_norm = model.run(before, capture=AFTER_NORM, captures_only=True)[AFTER_NORM][:, : targets.shape[1]]
        pieces = zip(after_norm[there].split(ROWS), targets[there].split(ROWS), strict=True)
        parts = [next_token_statistics(product(model.lm_head, rows), wanted) for rows, wanted in pieces]
    return {
        name: values.new_full(there.shape, float("nan")).masked_scatter_(there, values)
        for name, values in _concatenated(parts).items()
    }


def _edited_statistics(model: OlmoForCausalLM, ids: Tensor) -> dict[str, Tensor]:
    """`text_statistics` of a model with edits."""
    after_blocks, size = f"blocks.{model.config.num_hidden_layers - 1}.resid_post", max(1, ROWS // ids.shape[1])
    with fast_products():
        resid = model.run(ids, capture=after_blocks, captures_only=True)[after_blocks]
        return _concatenated(
            [_unembedded(model, *some) for some in zip(resid.split(size), ids.split(size), strict=True)]
        )


def _unembedded(model: OlmoForCausalLM, resid: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """`text_statistics` of texts whose residual streams after the last block are `resid` (batch pos d_model)."""
    parts = []
    for positions in torch.arange(ids.shape[1] - 1, device=ids.device).split(ROWS):
        end = model.run(resid=resid, start_at_layer=model.config.num_hidden_layers, logits_to_keep=positions)
        parts.append(next_token_statistics(end.logits, ids[:, positions + 1]))
    return _concatenated(parts, axis=1)


def _concatenated(parts: list[dict[str, Tensor]], axis: int = 0) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], axis) for name in parts[0]}


def tokens_at_most(model: OlmoForCausalLM) -> int | None:
    """The number of tokens of a batch above which statistics of all tokens become slower; None if there is none."""
    return CPU_TOKENS if model.device.type == "cpu" else None


def text_batches(model: OlmoForCausalLM, texts: Texts) -> list[Batch]:
    """Texts in the batches in which `text_statistics` is fastest. Errors: those of `tokens_at_a_time`."""
    return texts.padded_batches(tokens_at_a_time(model, WHAT, **_sizes(model, texts)))


def work_of_text_statistics(model: OlmoForCausalLM, tokens: TextsLike, **_: object) -> Work:
    """The work of `text_statistics` of all texts, in `text_batches`."""
    texts = texts_for(model.config, tokens, at_least=2)
    peak = peak_bytes(model, WHAT, total=texts.tokens, **_sizes(model, texts))
    return Work(pass_flops(model, texts.tokens, logits=texts.tokens), nbytes=peak)


def _sizes(model: OlmoForCausalLM, texts: Texts) -> dict[str, Any]:
    """The sizes that limit a batch of `text_statistics`, as arguments of `tokens_at_a_time`."""
    logits = 2 * ROWS * model.config.vocab_size * 4
    return {
        "per_token": run_bytes(model),
        "length": texts.longest,
        "fixed": CHUNK_BYTES + logits,
        "at_most": tokens_at_most(model),
    }
