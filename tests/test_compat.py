"""The private parts of transformers and torch that `hooks.compat` uses still exist and behave as described."""

import torch
from transformers import LlamaConfig, OlmoConfig
from transformers.masking_utils import create_causal_mask

from hooks import compat

CHANGED = "transformers or torch has changed: see hooks/compat.py, "


def test_the_name_of_the_attention_kernel_can_be_read(make_model):
    model = make_model("olmo")
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert compat.attention_implementation(model.config) == name, f"{CHANGED}attention_implementation"


def test_a_copy_of_a_configuration_is_for_another_kernel():
    config = OlmoConfig(attn_implementation="eager")
    other = compat.with_attention(config, "sdpa")
    assert compat.attention_implementation(other) == "sdpa", f"{CHANGED}with_attention"
    assert compat.attention_implementation(config) == "eager" and compat.with_attention(config, "eager") is config


def test_masks_are_made_for_the_kernel_of_the_configuration():
    """An additive mask for eager attention; None for SDPA, whose kernel has a causal mode."""
    config = LlamaConfig(hidden_size=8, num_attention_heads=2, attn_implementation="eager")
    given = {"inputs_embeds": torch.zeros(1, 3, 8), "attention_mask": None, "past_key_values": None}
    positions = torch.arange(3)[None]
    explicit = create_causal_mask(config, position_ids=positions, **given)
    fused = create_causal_mask(compat.with_attention(config, "sdpa"), position_ids=positions, **given)
    assert explicit is not None and fused is None, f"{CHANGED}with_attention"


def test_a_whole_model_is_spread_over_no_devices(make_model):
    """`test_tensor_parallel.py` tests the mesh of a model that is split."""
    assert compat.device_mesh(make_model("olmo")) is None


def test_changes_of_a_tensor_are_counted():
    x = torch.zeros(2)
    before = compat.changes_of(x)
    x.add_(1)
    assert compat.changes_of(x) == before + 1, f"{CHANGED}changes_of"
    with torch.inference_mode():
        assert compat.changes_of(torch.zeros(2)) is None


def test_rope_functions_give_frequencies_and_a_scale(make_model):
    config = make_model("olmo").config
    for name in ("linear", "dynamic", "yarn", "llama3"):
        assert name in compat.ROPE_INIT_FUNCTIONS, f"{CHANGED}ROPE_INIT_FUNCTIONS"
    assert callable(compat.dynamic_rope_update(lambda self, x, position_ids: x)) and config.rope_parameters


def test_logits_to_keep_are_the_last_ones_or_those_of_an_index():
    states = torch.arange(12.0).view(1, 4, 3)
    assert torch.equal(compat.slice_logits_to_keep(states, 0), states), f"{CHANGED}slice_logits_to_keep"
    assert torch.equal(compat.slice_logits_to_keep(states, 2), states[:, 2:])
    assert torch.equal(compat.slice_logits_to_keep(states, torch.tensor([0, 3])), states[:, [0, 3]])


def test_products_are_those_of_a_linear_layer():
    assert compat.has_one_dnn() == torch.backends.mkldnn.is_available(), f"{CHANGED}times"
    generator = torch.Generator().manual_seed(0)
    for dtype, shape, tolerance in [(torch.float32, (3, 5), 1e-5), (torch.float32, (0,), 0), (torch.float64, (4,), 0)]:
        x = torch.randn(*shape, 24, generator=generator, dtype=dtype)
        weight = torch.randn(16, 24, generator=generator, dtype=dtype)
        expected = torch.nn.functional.linear(x, weight)
        for given in (x, x.transpose(0, -2).contiguous().transpose(0, -2)):
            found = compat.times(given, weight)
            assert found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=tolerance)
