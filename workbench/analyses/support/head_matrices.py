"""The matrices of heads between residual streams: with the weights of the norms, centred, and rotated."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.olmo import OlmoRMSNorm, rotated
from hooks.weights import Factored


@dataclass(frozen=True)
class HeadMatrices:
    """What the heads of one layer read and write, in float32.

    The divisors of the norms are left out: they differ between tokens, and are positive factors.

    - OLMo 1 subtracts the mean of what a layer reads, and of what the unembedding reads: so do these matrices, on both
      sides.
    - The weights of the q and k norm (OLMo 2 and 3) are in `qk`, those of the norm after attention in `ov`.
    - Clipping, biases and attention's scaling are left out.

    Attributes:
        qk: Factored, head d_model d_model: which key a query wants.
        ov: Factored, head d_model d_model: what a token that is attended to adds to the residual stream.
    """

    qk: Factored
    ov: Factored


@torch.no_grad()
def head_matrices(model: OlmoForCausalLM, layer: int, *, distance: int | None = None) -> HeadMatrices:
    """The matrices of all heads of a layer. `distance` is from the query back to the key; None leaves RoPE out."""
    block = model.model.blocks[layer]
    attention = block.self_attn
    query, key = model.W_QK[layer].left.float(), model.W_QK[layer].right.mT.float()  # head d_model d_head
    values, outputs = model.W_OV[layer].left.float(), model.W_OV[layer].right.float()
    if isinstance(attention.q_norm, OlmoRMSNorm) and isinstance(attention.k_norm, OlmoRMSNorm):
        query = query * attention.q_norm.weight.float().view(-1, 1, attention.head_dim)
        key_weight = attention.k_norm.weight.float().view(-1, 1, attention.head_dim)
        key = key * key_weight.repeat_interleave(attention.num_key_value_groups, 0)
    if distance is not None:
        query, key = (
            rotated(
                part[None], model.model.rotary_emb[attention.kind](part, torch.tensor([[place]], device=part.device))
            )[0]
            for part, place in ((query, distance), (key, 0))
        )
    if block.norm_first:
        query, key, values, outputs = centred(query, 1), centred(key, 1), centred(values, 1), centred(outputs, 2)
    else:
        outputs = outputs * getattr(block, block.attn_norm).weight.float()
    return HeadMatrices(Factored(query, key.mT), Factored(values, outputs))


def centred(matrices: Tensor, axis: int) -> Tensor:
    """The matrices with their mean over an axis subtracted."""
    return matrices - matrices.mean(axis, keepdim=True)
