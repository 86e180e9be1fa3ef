"""Attention kernels, quantised weights and offloaded weights give the same numbers, also with taps."""

import pytest
import torch
from torch import Tensor
from transformers import BitsAndBytesConfig
from transformers.integrations import flex_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hooks import Capture, OlmoForCausalLM, edits

FOUR_BIT = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
)
EIGHT_BIT = BitsAndBytesConfig(load_in_8bit=True)


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=5e-5)


def check_taps(model: OlmoForCausalLM, tokens: Tensor) -> None:
    """Captured parts sum to the whole; an edit has an effect, which ends with its call."""
    clean = model.run(tokens, capture="*")
    plain = model(tokens).logits
    torch.testing.assert_close(clean.logits, plain, rtol=1e-2, atol=1e-2)
    assert torch.equal(model.run(tokens).logits, plain)
    stream = clean["embed"] + clean.stack("attn_out").sum(0) + clean.stack("mlp_out").sum(0)
    torch.testing.assert_close(stream, clean["blocks.3.resid_post"], rtol=1e-2, atol=1e-2)
    total, out = clean["blocks.1.attn.result"].sum(2), clean["blocks.1.attn_out"]
    assert (total - out).norm() < 0.02 * out.norm()  # 8-bit layers round their inputs: one head or all
    site = "blocks.1.attn.z"
    edited = model.run(tokens, capture=site, edits=[edits.zero(site, heads=[2])])
    assert not edited[site][:, :, 2].any()
    assert not torch.allclose(edited.logits, plain, atol=1e-3)
    text = model.generate(tokens, max_new_tokens=3, do_sample=False, edits=[edits.zero(site)])
    assert text.shape == (2, 17)
    assert torch.equal(model(tokens).logits, plain)


# Attention implementations


@pytest.fixture
def uncompiled_flex_attention(monkeypatch) -> None:
    """flex_attention without compilation, which takes a minute and changes no number."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(flex_attention.WrappedFlexAttention, "_instance", None)


@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")  # transformers sets it
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.usefixtures("uncompiled_flex_attention")
@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
def test_attention_implementations_agree(make_model, family, tokens, padded, implementation, tmp_path):
    reference = make_model(family, num_key_value_heads=2)
    reference.save_pretrained(tmp_path)
    model = OlmoForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation)
    assert model.config._attn_implementation == implementation
    with torch.no_grad():
        assert_close(model(tokens).logits, reference(tokens).logits)
        options = {"attention_mask": padded.attention_mask}
        ours, wanted = model(padded.input_ids, **options).logits, reference(padded.input_ids, **options).logits
        assert_close(ours[padded.real], wanted[padded.real])
        assert_close(model(padded.input_ids, **options, logits_to_keep=1).logits, wanted[:, -1:])
    assert_close(
        model.run(tokens, capture="blocks.*.attn.pattern").stack("attn.pattern"),
        reference.run(tokens, capture="blocks.*.attn.pattern").stack("attn.pattern"),
    )
    capture = Capture("blocks.1.attn.pattern", heads=[1], queries=[-1])
    assert_close(model.run(tokens, capture=capture)[capture.site], reference.run(tokens, capture=capture)[capture.site])


def test_a_kernel_is_called_as_transformers_calls_it(pair, tokens):
    """A registered attention function gets window, scaling, dropout and position ids, as some kernels need them."""
    calls: list[dict] = []

    def spy(module, query, key, value, attention_mask, **options):
        shapes = [tuple(x.shape) for x in (query, key, value)]
        kept = {name: value for name, value in options.items() if value is not None}
        calls.append({"shapes": shapes, "causal": module.is_causal, "layer": module.layer_idx, **kept})
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)

    ALL_ATTENTION_FUNCTIONS.register("spy", spy)
    ALL_MASK_ATTENTION_FUNCTIONS.register("spy", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    positions = torch.arange(14)[None]
    for model in (pair.ours, pair.theirs):
        model.config._attn_implementation = "spy"
        with torch.no_grad():
            model(tokens, position_ids=positions, use_cache=False)
        model.config._attn_implementation = "sdpa"
    assert len(calls) == 8
    for ours, theirs in zip(calls[:4], calls[4:], strict=True):
        for name in ("shapes", "causal", "layer", "scaling", "dropout", "sliding_window"):
            assert ours.get(name) == theirs.get(name), name
        assert torch.equal(ours["position_ids"], theirs["position_ids"])


def test_the_implementation_can_be_changed(make_model, family, tokens):
    model = make_model(family)
    logits = model(tokens).logits
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        assert_close(model(tokens).logits, logits)


@pytest.mark.parametrize("implementation", ["flash_attention_2", "no_such_attention"])
def test_an_implementation_that_is_not_here_says_so(make_model, family, tmp_path, implementation):
    make_model(family).save_pretrained(tmp_path)
    with pytest.raises((ImportError, ValueError), match=rf"(?i){implementation.replace('_', '.?')}|flash.?attn"):
        OlmoForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation)


# Quantised weights


@pytest.mark.parametrize(
    ("family", "quantization"),
    [("olmo", FOUR_BIT), ("olmo2", EIGHT_BIT), ("olmo3", FOUR_BIT)],
    ids=["nf4 twice", "8 bit", "nf4 twice, olmo3"],
)
def test_quantised_weights(make_pair, family, tokens, tmp_path, quantization):
    pair = make_pair(family, hidden_size=64, intermediate_size=128)
    pair.ours.save_pretrained(tmp_path)
    ours = OlmoForCausalLM.from_pretrained(tmp_path, quantization_config=quantization)
    theirs = type(pair.theirs).from_pretrained(tmp_path, quantization_config=quantization)
    assert ours.get_memory_footprint() == theirs.get_memory_footprint() < 0.8 * pair.ours.get_memory_footprint()
    assert "bitsandbytes" in type(ours.model.layers[0].mlp.up_proj).__module__
    with torch.no_grad():
        found, wanted, exact = ours(tokens).logits, theirs(tokens).logits, pair.ours(tokens).logits
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert 0 < (found - exact).norm() < 0.5 * exact.norm()
    check_taps(ours, tokens)


class Opaque(Tensor):
    """A weight that supports only multiplication, like those of torchao's quantised layers."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.linear:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if func in (Tensor.reshape, Tensor.view, Tensor.unflatten, Tensor.__getitem__):
            raise NotImplementedError(f"{func} of an opaque weight")
        return super().__torch_function__(func, types, args, kwargs)


def test_results_of_a_weight_that_can_only_be_multiplied_by(make_model, family, tokens):
    model = make_model(family)
    wanted = model.run(tokens, capture="blocks.*.attn.result").stack("attn.result")
    for block in model.model.layers:
        block.self_attn.o_proj.weight = torch.nn.Parameter(block.self_attn.o_proj.weight.detach().as_subclass(Opaque))
    found = model.run(tokens, capture="blocks.*.attn.result").stack("attn.result")
    assert_close(found, wanted)


# Offloaded weights


def test_device_map_auto(pair, tokens, tmp_path):
    pair.ours.save_pretrained(tmp_path)
    model = OlmoForCausalLM.from_pretrained(tmp_path, device_map="auto")
    assert torch.equal(model(tokens).logits, pair.ours(tokens).logits)


def test_weights_on_disk(make_model, family, tokens, tmp_path):
    """Two blocks stay in memory, the others are read from disk layer by layer."""
    model = make_model(family)
    model.save_pretrained(tmp_path / "model")
    place = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    blocks = {f"model.layers.{layer}": "cpu" if layer < 2 else "disk" for layer in range(4)}
    offloaded = OlmoForCausalLM.from_pretrained(
        tmp_path / "model", device_map=place | blocks, offload_folder=tmp_path / "offload"
    )
    assert offloaded.model.layers[3].mlp.up_proj.weight.device.type == "meta"
    assert torch.equal(offloaded(tokens).logits, model(tokens).logits)
    whole, found = model.run(tokens, capture="*"), offloaded.run(tokens, capture="*")
    assert list(found) == list(whole)
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    change = [edits.zero("blocks.3.attn.result", heads=[1]), edits.scale("blocks.2.mlp.post", 0.5)]
    assert torch.equal(offloaded.run(tokens, edits=change).logits, model.run(tokens, edits=change).logits)
    assert torch.equal(
        offloaded.run(tokens, stop_at_layer=3, capture="*")["blocks.2.resid_post"], whole["blocks.2.resid_post"]
    )
    pattern = offloaded.run(tokens, capture="blocks.3.attn.pattern", captures_only=True)["blocks.3.attn.pattern"]
    assert torch.equal(pattern, whole["blocks.3.attn.pattern"])
    assert all(parameter.device.type == "meta" for parameter in offloaded.model.layers[3].parameters())


def test_sharded_over_devices_by_accelerate(make_model, family, tokens, tmp_path):
    """`device_map="auto"` with little memory offloads the other weights to disk."""
    model = make_model(family)
    model.save_pretrained(tmp_path / "model")
    offloaded = OlmoForCausalLM.from_pretrained(
        tmp_path / "model", device_map="auto", max_memory={"cpu": "100KB"}, offload_folder=tmp_path / "offload"
    )
    assert "disk" in offloaded.hf_device_map.values()
    assert len(set(offloaded.hf_device_map.values())) == 2
    assert torch.equal(offloaded(tokens).logits, model(tokens).logits)
