"""What several analyses need: tokens in order, names of heads, and statistics of next-token distributions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from hooks import OlmoForCausalLM
from hooks.olmo import divided
from hooks.sites import layer_of
from workbench.analyses.memory import run_bytes
from workbench.errors import WorkbenchError
from workbench.texts import Texts, TextsLike, as_texts

CHUNK = 2**22  # logits turned into probabilities at a time
CHUNK_BYTES = 4 * 4 * CHUNK  # of what is made of them on the way, in float32


def texts_for(model: OlmoForCausalLM | PreTrainedConfig, tokens: TextsLike, at_least: int = 1) -> Texts:
    """The texts that an analysis is given (see `as_texts`), on the model's device; a configuration has none.

    Errors: WorkbenchError for what are no texts, and for a text of fewer than `at_least` tokens.
    """
    on_device = isinstance(model, OlmoForCausalLM)
    texts = as_texts(tokens, model.config if on_device else model)
    if min(texts.lengths) < at_least:
        which = f"text {texts.lengths.index(min(texts.lengths))}" if len(texts) > 1 else "the text"
        raise WorkbenchError(f"{which} has {min(texts.lengths)} tokens; this needs at least {at_least}")
    return texts.to(model.device) if on_device else texts


def one_text(tokens: TextsLike, model: OlmoForCausalLM | None = None, at_least: int = 1) -> Tensor:
    """The ids of exactly one text, 1 pos, on the model's device.

    Errors: WorkbenchError for several texts, and those of `texts_for`.
    """
    if isinstance(tokens, Tensor) and tokens.ndim == 2 and len(tokens) > 1:
        raise WorkbenchError(f"this draws one text, not a batch of {len(tokens)}; pass one row of it, tokens[0]")
    texts = as_texts(tokens) if model is None else texts_for(model, tokens, at_least)
    if len(texts) != 1:
        raise WorkbenchError(f"this draws one text, not {len(texts)} of them; pass one of them, texts[0]")
    if texts.longest < at_least:
        raise WorkbenchError(f"the text has {texts.longest} tokens; this needs at least {at_least}")
    return texts.ids


def chosen(wanted: Sequence[int] | None, there: int, what: str) -> list[int]:
    """The wanted indices, counted from the end where negative; all of them for None.

    Raises WorkbenchError for one that is not there.
    """
    if wanted is None:
        return list(range(there))
    outside = [index for index in wanted if not -there <= index < there]
    if outside:
        raise WorkbenchError(f"no {what} {outside[0]}; there are {there}: {-there} … {there - 1}")
    return [index % there for index in wanted]


def block_of(site: str) -> int:
    """The number of the block that a site lies in."""
    layer, _ = layer_of(site)
    assert layer is not None, f"{site} lies in no block"
    return layer


def residuals(model: OlmoForCausalLM, batch: Tensor) -> Tensor:
    """The residual stream entering the first block and leaving each: layer+1 batch pos d_model."""
    run = model.run(batch, capture=["embed", "blocks.*.resid_post"], captures_only=True)
    return torch.cat([run["embed"][None], run.stack("resid_post")])


def residuals_bytes(model: OlmoForCausalLM) -> float:
    """Bytes that `residuals` takes for each token of a batch."""
    stream = model.config.hidden_size * model.dtype.itemsize
    return (
        run_bytes(model, capture=["embed", "blocks.*.resid_post"]) + 2 * (model.config.num_hidden_layers + 1) * stream
    )


def residual_names(model: OlmoForCausalLM) -> list[str]:
    """What the rows of `residuals` are called: `embed`, then the number of the block each leaves."""
    return ["embed", *(str(layer) for layer in range(model.config.num_hidden_layers))]


def head_name(layer: int | str, head: int | str) -> str:
    """How a head is called everywhere: L3H5."""
    return f"L{layer}H{head}"


def values_by_head(values: Tensor, heads: int) -> Tensor:
    """Each head's values, where heads share them: … kv_head d_head -> … head d_head."""
    return values.repeat_interleave(heads // values.shape[-2], dim=-2)


def written(model: OlmoForCausalLM, layer: int, z: Tensor, head: int, scale: Tensor) -> Tensor:
    """What one head adds to the residual stream for its part of z: pos head d_head -> pos d_model.

    Where a norm follows attention (OLMo 2 and 3), `scale` is its divisor; the others have none.
    """
    block = model.model.blocks[layer]
    result = block.self_attn.by_head(z[None], torch.tensor([head], device=z.device))[0, :, 0]
    return result if block.norm_first else divided(getattr(block, block.attn_norm), result.float(), scale)


def next_token_statistics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Loss, rank and entropy of next-token distributions, float32.

    logits: … vocab; targets: … token ids. loss = −log p(target), in nats; rank = 1 + the number of tokens with a
    higher logit; entropy = −Σ p log p, in nats. Works in chunks, so that a large vocabulary costs no second copy.
    """
    flat, wanted = logits.flatten(0, -2), targets.flatten()
    size = max(1, CHUNK // flat.shape[-1])
    parts: dict[str, list[Tensor]] = {"loss": [], "rank": [], "entropy": []}
    for rows, target in zip(flat.split(size), wanted.split(size), strict=True):
        log_p = rows.float().log_softmax(-1)
        of_target = log_p.gather(-1, target[:, None])
        parts["loss"].append(-of_target[:, 0])
        parts["rank"].append(1 + (log_p > of_target).sum(-1))
        parts["entropy"].append(torch.special.entr(log_p.exp()).sum(-1))
    return {name: torch.cat(chunks).float().reshape(targets.shape) for name, chunks in parts.items()}
