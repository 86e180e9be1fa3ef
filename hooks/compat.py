"""Everything of transformers and torch that is relied on and not documented.

`tests/test_compat.py` checks each assumption.

Class attributes with a leading underscore (`_tp_plan`, `_supports_sdpa`, …) are the documented way to add a model to
transformers; they stand in `olmo.py`.
"""

from copy import copy

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import slice_logits_to_keep

__all__ = [
    "ROPE_INIT_FUNCTIONS",  # frequencies for each kind of RoPE scaling; re-implementing them would let them differ
    "attention_implementation",
    "changes_of",
    "device_mesh",
    "dynamic_rope_update",  # recomputes frequencies that depend on the length of the text, as transformers' models do
    "slice_logits_to_keep",  # the indices that `logits_to_keep` means
    "with_attention",
]


def attention_implementation(config: PreTrainedConfig) -> str:
    """The name of the attention kernel: "eager", "sdpa", … There is a public way to set it, and none to read it."""
    return config._attn_implementation


def with_attention(config: PreTrainedConfig, implementation: str) -> PreTrainedConfig:
    """A copy of a configuration for another kernel, from which transformers' mask functions make masks for that kernel.

    The public setter also changes the model that the configuration belongs to.
    """
    if attention_implementation(config) == implementation:
        return config
    config = copy(config)
    config._attn_implementation_internal = implementation
    return config


def device_mesh(model: PreTrainedModel) -> torch.distributed.device_mesh.DeviceMesh | None:
    """The devices over which `from_pretrained(tp_plan=…)` has spread a model; None if it is whole."""
    return getattr(model, "_device_mesh", None)


def changes_of(x: Tensor) -> int | None:
    """How many in-place changes a tensor has seen; None for inference tensors, which do not count them."""
    return None if x.is_inference() else x._version
