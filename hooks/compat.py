"""Every undocumented feature of transformers and torch that this package relies on.

`tests/test_compat.py` checks each assumption.

Class attributes with a leading underscore (`_tp_plan`, `_supports_sdpa`, …) are the documented way to add a model to
transformers; they are set in `olmo.py`.
"""

from copy import copy
from functools import cache
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import slice_logits_to_keep

__all__ = [
    "ROPE_INIT_FUNCTIONS",  # frequencies for each kind of RoPE scaling; a copy of the code could drift apart
    "attention_implementation",
    "changes_of",
    "device_mesh",
    "dynamic_rope_update",  # recomputes frequencies that depend on the text length, as in transformers' models
    "has_one_dnn",
    "is_plain",
    "slice_logits_to_keep",  # selects the positions given by `logits_to_keep`
    "times",
    "with_attention",
]

ONE_DNN_FROM = 2**18  # multiplications of a product that oneDNN computes sooner than MKL


def attention_implementation(config: PreTrainedConfig) -> str:
    """The name of the attention kernel: "eager", "sdpa", … transformers has a public setter for it, but no getter."""
    return config._attn_implementation


def with_attention(config: PreTrainedConfig, implementation: str) -> PreTrainedConfig:
    """The configuration with another attention kernel: transformers' mask functions build masks in that kernel's form.

    Returns `config` itself if it already has this kernel, else a changed copy. The public setter is not used because it
    would also change the model that the configuration belongs to.
    """
    if attention_implementation(config) == implementation:
        return config
    config = copy(config)
    config._attn_implementation_internal = implementation
    return config


def device_mesh(model: PreTrainedModel) -> torch.distributed.device_mesh.DeviceMesh | None:
    """The devices across which `from_pretrained(tp_plan=…)` has split a model; None if the model is not split."""
    return getattr(model, "_device_mesh", None)


def changes_of(x: Tensor) -> int | None:
    """The number of in-place changes made to a tensor; None for inference tensors, which have no such counter."""
    return None if x.is_inference() else x._version


def is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether calling a layer computes x Wᵀ + b and nothing else: an `nn.Linear` without hooks of torch, whose weight
    is a whole matrix and whose `forward` is the class's own (accelerate replaces it in layers that it offloads)."""
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))
        and not nn.modules.module._has_any_global_hook()
    )


def times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b without a gradient, by the faster of torch's two libraries for a CPU: … in, out in, out -> … out.

    In float32 on a CPU that is oneDNN, which torch calls by a private operator. The public layer calls MKL, which
    on processors by AMD takes twice as long, because it uses half of their vector width. A call of oneDNN takes some
    9 µs more than one of MKL, so products of fewer than `ONE_DNN_FROM` multiplications are left to MKL.
    """
    large = x.numel() * weight.shape[0] >= ONE_DNN_FROM
    if large and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and has_one_dnn():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight.contiguous(), bias, "none", [], "")
        return found
    return F.linear(x, weight, bias)


@cache
def has_one_dnn() -> bool:
    """Whether this build of torch has the operator that `times` calls."""
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
