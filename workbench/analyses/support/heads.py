"""Attention heads: their names, the values that they share, and what each adds to the residual stream."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.olmo import divided


def head_name(layer: int | str, head: int | str) -> str:
    """How a head is called everywhere: L3H5."""
    return f"L{layer}H{head}"


def values_by_head(values: Tensor, heads: int) -> Tensor:
    """Each head's values, where heads share them: … kv_head d_head -> … head d_head."""
    return values.repeat_interleave(heads // values.shape[-2], dim=-2)


def head_output(model: OlmoForCausalLM, layer: int, z: Tensor, head: int, scale: Tensor) -> Tensor:
    """What one head adds to the residual stream for its part of z: pos head d_head -> pos d_model.

    Where a norm follows attention (OLMo 2 and 3), `scale` is its divisor; the others have none.
    """
    block = model.model.blocks[layer]
    result = block.self_attn.by_head(z[None], torch.tensor([head], device=z.device))[0, :, 0]
    return result if block.norm_first else divided(getattr(block, block.attn_norm), result.float(), scale)
