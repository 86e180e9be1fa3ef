"""Attention heads: their names, shared values, and outputs to the residual stream."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.olmo import divided


def head_name(layer: int | str, head: int | str) -> str:
    """The name of a head: L3H5."""
    return f"L{layer}H{head}"


def values_by_head(values: Tensor, heads: int) -> Tensor:
    """The values of each query head, repeated where heads share them: … kv_head d_head -> … head d_head."""
    return values.repeat_interleave(heads // values.shape[-2], dim=-2)


def head_output(model: OlmoForCausalLM, layer: int, z: Tensor, head: int, scale: Tensor) -> Tensor:
    """What one head adds to the residual stream, from the z of all heads: pos head d_head -> pos d_model.

    `scale` is the divisor of the norm after attention (OLMo 2 and 3). Models without that norm do not use it.
    """
    block = model.model.blocks[layer]
    result = block.self_attn.by_head(z[None], torch.tensor([head], device=z.device))[0, :, 0]
    return result if block.norm_first else divided(getattr(block, block.attn_norm), result.float(), scale)
