"""The parts sum to the whole: every identity of the residual stream, the heads and the norms, on all families."""

import pytest
import torch
from einops import einsum, rearrange, repeat
from torch import Tensor

from hooks import OlmoForCausalLM, Run, edits
from tests.fixtures import GROUPED

LAYERS = range(4)
TEXTS = ["plain", "padded"]


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-5, atol=2e-5)


@pytest.fixture(params=TEXTS)
def text_name(request) -> str:
    return request.param


@pytest.fixture
def text(text_name, tokens, padded) -> tuple[Tensor, Tensor | None, Tensor]:
    """Tokens, attention mask, and a mask of real tokens: without padding, and padded on the left."""
    if text_name == "plain":
        return tokens, None, torch.ones_like(tokens, dtype=torch.bool)
    return padded.input_ids, padded.attention_mask, padded.real


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, str], Run]:
    """The runs that tests of this file share, by case and text."""
    return {}


@pytest.fixture
def run(runs, case, pair, text_name, text) -> Run:
    """One run with every site captured; shared, not to be changed."""
    if (case, text_name) not in runs:
        runs[case, text_name] = pair.ours.run(text[0], text[1], capture="*")
    return runs[case, text_name]


def heads_of(x: Tensor, model: OlmoForCausalLM) -> Tensor:
    """Keys or values repeated for each query head: batch pos kv_head d_head -> batch pos head d_head."""
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    return repeat(x, "batch pos kv_head d_head -> batch pos (kv_head group) d_head", group=groups)


def may_look(model: OlmoForCausalLM, layer: int, real: Tensor) -> Tensor:
    """The keys visible to each query: batch query key; real keys at or before the query, within the layer's window."""
    position = torch.arange(real.shape[1])
    distance = position[:, None] - position[None, :]
    visible = distance >= 0
    if getattr(model.config, "layer_types", [None] * 4)[layer] == "sliding_attention":
        visible &= distance < model.config.sliding_window
    return visible & real[:, None, :]


def test_the_residual_stream_adds_up(run):
    assert_close(run["blocks.0.resid_pre"], run["embed"])
    for layer in LAYERS:
        block = f"blocks.{layer}"
        assert_close(run[f"{block}.resid_pre"] + run[f"{block}.attn_out"], run[f"{block}.resid_mid"])
        assert_close(run[f"{block}.resid_mid"] + run[f"{block}.mlp_out"], run[f"{block}.resid_post"])
        if layer:
            assert torch.equal(run[f"{block}.resid_pre"], run[f"blocks.{layer - 1}.resid_post"])
    total = run["embed"] + run.stack("attn_out").sum(0) + run.stack("mlp_out").sum(0)
    assert_close(total, run["blocks.3.resid_post"])


def test_heads_sum_to_what_attention_adds(pair, run):
    for layer, block in enumerate(pair.ours.model.layers):
        bias = block.self_attn.o_proj.bias
        rest = torch.zeros(32) if bias is None else bias.detach()
        if pair.ours.config.model_type != "olmo":  # the norm after attention, with its scale fixed
            rest = rest * block.post_attention_layernorm.weight.detach() / run[f"blocks.{layer}.ln1.scale"]
        total = run[f"blocks.{layer}.attn.result"].sum(dim=2)
        assert_close(total + rest, run[f"blocks.{layer}.attn_out"])


def test_each_head_adds_its_own_share(pair, run):
    for layer, block in enumerate(pair.ours.model.layers):
        weight = rearrange(
            block.self_attn.o_proj.weight.detach(), "d_model (head d_head) -> head d_head d_model", head=4
        )
        z = run[f"blocks.{layer}.attn.z"]
        share = einsum(z, weight, "batch pos head d_head, head d_head d_model -> batch pos head d_model")
        if pair.ours.config.model_type != "olmo":
            share = (
                share / run[f"blocks.{layer}.ln1.scale"][:, :, None] * block.post_attention_layernorm.weight.detach()
            )
        assert_close(run[f"blocks.{layer}.attn.result"], share)


def test_scores_are_queries_times_keys_where_one_may_look(pair, run, text):
    for layer in LAYERS:
        query, key = run[f"blocks.{layer}.attn.rot_q"], heads_of(run[f"blocks.{layer}.attn.rot_k"], pair.ours)
        products = einsum(query, key, "batch query head d_head, batch key head d_head -> batch head query key")
        scores, seen = run[f"blocks.{layer}.attn.scores"], may_look(pair.ours, layer, text[2])
        for row, real in enumerate(text[2]):
            visible = seen[row] & real[:, None]
            hidden = ~seen[row] & real[:, None]
            assert_close(scores[row][:, visible], products[row][:, visible] / 8**0.5)
            assert (scores[row][:, hidden] < -1e4).all()


def test_pattern_is_the_softmax_of_scores(pair, run, text):
    for layer in LAYERS:
        pattern = run[f"blocks.{layer}.attn.pattern"]
        assert pattern.isfinite().all()
        assert (pattern >= 0).all()
        real_query = rearrange(text[2], "batch query -> batch 1 query 1").expand(pattern.shape)
        softmax = run[f"blocks.{layer}.attn.scores"].softmax(dim=-1)
        assert_close(softmax[real_query], pattern[real_query])
        hidden = ~may_look(pair.ours, layer, text[2])[:, None].expand(pattern.shape) & real_query
        assert not pattern[hidden].any()
        assert pattern.max() > 0.5  # attention is far from uniform, so these comparisons are strict


def test_z_is_pattern_times_values(pair, run, text):
    for layer in LAYERS:
        value = heads_of(run[f"blocks.{layer}.attn.v"], pair.ours)
        z = einsum(
            run[f"blocks.{layer}.attn.pattern"], value,
            "batch head query key, batch key head d_head -> batch query head d_head",
        )  # fmt: skip
        assert_close(z[text[2]], run[f"blocks.{layer}.attn.z"][text[2]])


def test_fused_attention_gives_the_same_z(pair, run, text):
    fused = pair.ours.run(text[0], text[1], capture="blocks.*.attn.z")
    for layer in LAYERS:
        assert_close(fused[f"blocks.{layer}.attn.z"][text[2]], run[f"blocks.{layer}.attn.z"][text[2]])


def divisor(x: Tensor, family: str, epsilon: float) -> Tensor:
    """The divisor of a family's norm: batch pos 1."""
    return (
        (x.var(-1, correction=0, keepdim=True) if family == "olmo" else x.square().mean(-1, keepdim=True)) + epsilon
    ).sqrt()


def test_scales_are_what_the_norms_divide_by(pair, run):
    family = pair.ours.config.model_type
    epsilon = 1e-5
    for layer, block in enumerate(pair.ours.model.layers):
        pre, mid = run[f"blocks.{layer}.resid_pre"], run[f"blocks.{layer}.resid_mid"]
        if family == "olmo":  # normed before each sublayer
            for name, x, entry in (("ln1", pre, "attn_in"), ("ln2", mid, "mlp_in")):
                assert_close(run[f"blocks.{layer}.{name}.scale"], divisor(x, family, epsilon))
                normed = (x - x.mean(-1, keepdim=True)) / run[f"blocks.{layer}.{name}.scale"]
                assert_close(run[f"blocks.{layer}.{entry}"], normed)
        else:  # normed after each sublayer; the sublayer reads the stream without a norm
            assert torch.equal(run[f"blocks.{layer}.attn_in"], pre)
            assert torch.equal(run[f"blocks.{layer}.mlp_in"], mid)
            attention = block.self_attn.o_proj(run[f"blocks.{layer}.attn.z"].flatten(2)).detach()
            mlp = block.mlp.down_proj(run[f"blocks.{layer}.mlp.post"]).detach()
            for name, x, norm, entry in (
                ("ln1", attention, block.post_attention_layernorm, "attn_out"),
                ("ln2", mlp, block.post_feedforward_layernorm, "mlp_out"),
            ):
                scale = run[f"blocks.{layer}.{name}.scale"]
                assert_close(scale, divisor(x, family, epsilon))
                assert_close(run[f"blocks.{layer}.{entry}"], x / scale * norm.weight.detach())
    last = run["blocks.3.resid_post"]
    assert_close(run["ln_final.scale"], divisor(last, family, epsilon))


def test_logits_are_read_from_the_final_norm(pair, run):
    last = run["blocks.3.resid_post"]
    if pair.ours.config.model_type == "olmo":
        normalized = (last - last.mean(-1, keepdim=True)) / run["ln_final.scale"]
    else:
        normalized = last / run["ln_final.scale"] * pair.ours.model.norm.weight.detach()
    assert_close(run["ln_final.normalized"], normalized)
    assert_close(run["logits"], pair.ours.lm_head(run["ln_final.normalized"]).detach())
    assert torch.equal(run["logits"], run.logits)


def test_queries_keys_and_values_are_read_from_attn_in(pair, run):
    config = pair.ours.config
    for layer, block in enumerate(pair.ours.model.layers):
        for name in "qkv":
            x = getattr(block.self_attn, f"{name}_proj")(run[f"blocks.{layer}.attn_in"])
            if config.model_type == "olmo":
                x = x if config.clip_qkv is None else x.clamp(-config.clip_qkv, config.clip_qkv)
            elif name != "v":
                x = getattr(block.self_attn, f"{name}_norm")(x)
            heads = rearrange(x.detach(), "batch pos (head d_head) -> batch pos head d_head", d_head=8)
            assert_close(run[f"blocks.{layer}.attn.{name}"], heads)


def test_the_mlp_is_a_gate_times_a_value(pair, run):
    act = {"silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu}[pair.ours.config.hidden_act]
    for layer, block in enumerate(pair.ours.model.layers):
        pre, linear = run[f"blocks.{layer}.mlp.pre"], run[f"blocks.{layer}.mlp.pre_linear"]
        assert_close(pre, block.mlp.gate_proj(run[f"blocks.{layer}.mlp_in"]).detach())
        assert_close(linear, block.mlp.up_proj(run[f"blocks.{layer}.mlp_in"]).detach())
        assert_close(run[f"blocks.{layer}.mlp.post"], act(pre) * linear)


def test_a_run_is_a_call_of_the_model(pair, run, text):
    assert_close(run.logits[text[2]], pair.ours(text[0], attention_mask=text[1]).logits.detach()[text[2]])
    plain = pair.ours.run(text[0], text[1])
    assert list(plain) == []
    assert torch.equal(plain.logits, pair.ours(text[0], attention_mask=text[1]).logits)


@pytest.mark.parametrize("case", ["olmo-gqa-tied", "olmo-mqa-clip", "olmo2-gqa-bias", "olmo3-gqa-bias"])
def test_an_identity_edit_at_any_site_changes_no_bit(pair, text):
    clean = pair.ours.run(text[0], text[1], capture=["blocks.*.resid_post"])
    for site in pair.ours.sites:
        if not site.startswith(("blocks.2.", "blocks.3.")):  # the first two blocks are one of each kind in OLMo 3
            change = [edits.apply(site, torch.clone), edits.apply(site, lambda x: x)]
            run = pair.ours.run(text[0], text[1], capture=["blocks.*.resid_post"], edits=change)
            assert torch.equal(run.logits, clean.logits), site
            assert all(torch.equal(run[name], clean[name]) for name in clean), site


def test_a_full_patch_of_the_residual_gives_the_other_runs_logits(pair, tokens, other_tokens):
    other = pair.ours.run(other_tokens, capture="blocks.*.resid_pre")
    clean = pair.ours.run(tokens)
    assert not torch.allclose(clean.logits, other.logits, atol=0.1)
    for layer in LAYERS:
        site = f"blocks.{layer}.resid_pre"
        patched = pair.ours.run(tokens, edits=[edits.replace(site, other[site])])
        assert torch.equal(patched.logits, other.logits)


@GROUPED
def test_a_run_goes_on_from_a_stored_residual(pair, run, text):
    whole = run
    for layer in LAYERS:
        resid = whole[f"blocks.{layer}.resid_pre"]
        rest = pair.ours.run(text[0], text[1], start_at_layer=layer, resid=resid, capture="*")
        assert torch.equal(rest.logits, whole.logits)
        earlier = ("embed", *(f"blocks.{before}." for before in range(layer)))
        assert [name for name in rest if name != "embed"] == [name for name in whole if not name.startswith(earlier)]
        assert all(torch.equal(rest[name], whole[name]) for name in rest)
