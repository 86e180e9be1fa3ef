"""Edits of the forward pass: at every site, in order, in prefill and decoding, and without other effects."""

from itertools import product

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from hooks import Capture, edits
from tests.fixtures import GROUPED


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=5e-5)


def two_blocks(sites: dict[str, str]) -> list[str]:
    """The sites outside the blocks and those of the first two, which in OLMo 3 are one of each kind."""
    return [name for name in sites if not name.startswith(("blocks.2.", "blocks.3."))]


@GROUPED
def test_an_edit_at_any_site_changes_the_logits(pair, tokens):
    clean = pair.ours.run(tokens).logits
    for site in pair.ours.sites:
        run = pair.ours.run(tokens, edits=[edits.apply(site, lambda x: x + x.roll(1, dims=0).clamp(-3, 3))])
        assert run.logits.isfinite().all(), site
        assert (run.logits - clean).abs().max() > 1e-3, site


def test_a_capture_sees_the_edited_value(model, tokens):
    for site in two_blocks(model.sites):
        run = model.run(tokens, capture=site, edits=[edits.apply(site, lambda x: torch.full_like(x, 0.25))])
        assert torch.equal(run[site], torch.full_like(run[site], 0.25)), site
    assert torch.equal(run.logits, run["logits"])


def test_a_partial_capture_sees_the_edited_value(model, tokens):
    for site, rows in (("blocks.1.attn.pattern", 2), ("blocks.1.attn.scores", 2), ("blocks.1.attn.result", 1)):
        change = edits.zero(site, positions=[4])
        found = model.run(tokens, capture=Capture(site, heads=[2], positions=[4, 5]), edits=[change])[site]
        assert not found.select(rows, 0).any()
        assert found.select(rows, 1).any()


def test_edits_compose_in_order(model, tokens):
    site = "blocks.1.mlp_out"
    clean = model.run(tokens, capture=site)[site]
    seen = []
    first, second = edits.add(site, torch.ones(32)), edits.scale(site, 3.0)
    look = edits.apply(site, lambda x: seen.append(x.clone()) or x)
    run = model.run(tokens, capture=site, edits=[first, look, second])
    assert_close(seen[0], clean + 1)
    assert_close(run[site], (clean + 1) * 3)
    assert_close(model.run(tokens, capture=site, edits=[second, first])[site], clean * 3 + 1)
    assert_close(
        model.run(tokens, capture=site, edits=[edits.scale("blocks.1.mlp_[o]ut", 3.0), first])[site], clean * 3 + 1
    )


def test_ablating_a_head_is_removing_its_result(pair, tokens):
    site, heads = "blocks.2.attn.{}", [1, 3]
    by_z = pair.ours.run(tokens, edits=[edits.zero(site.format("z"), heads=heads)]).logits
    weight = pair.ours.state_dict()["model.layers.2.self_attn.o_proj.weight"]
    columns = torch.zeros_like(weight)
    columns[:, 8:16], columns[:, 24:32] = weight[:, 8:16], weight[:, 24:32]

    def without(z: Tensor) -> Tensor:
        kept = z.clone()
        kept[:, :, heads] = 0
        return kept

    assert_close(pair.ours.run(tokens, edits=[edits.apply(site.format("z"), without)]).logits, by_z)
    if pair.ours.config.model_type == "olmo":  # no norm follows, so removing z removes exactly its contribution
        assert_close(pair.ours.run(tokens, edits=[edits.zero(site.format("result"), heads=heads)]).logits, by_z)


def test_an_edit_of_results_is_an_edit_of_attn_out(pair, tokens):
    result, out = "blocks.2.attn.result", "blocks.2.attn_out"
    clean = pair.ours.run(tokens, capture=[result, out])
    run = pair.ours.run(tokens, capture=[result, out], edits=[edits.zero(result, heads=[1])])
    assert not run[result][:, :, 1].any()
    assert_close(run[out], clean[out] - clean[result][:, :, 1])


def test_edits_of_scores_and_pattern_reach_z(pair, tokens):
    def onto_itself(pattern: Tensor) -> Tensor:
        return torch.eye(14).expand_as(pattern)

    run = pair.ours.run(tokens, capture="blocks.1.attn.*", edits=[edits.apply("blocks.1.attn.pattern", onto_itself)])
    value = run["blocks.1.attn.v"].repeat_interleave(4 // pair.ours.config.num_key_value_heads, dim=2)
    assert_close(run["blocks.1.attn.z"], value)

    def first_only(scores: Tensor) -> Tensor:
        return torch.where(torch.arange(14) == 0, 0.0, -1e9).expand_as(scores)

    run = pair.ours.run(tokens, capture="blocks.1.attn.*", edits=[edits.apply("blocks.1.attn.scores", first_only)])
    value = run["blocks.1.attn.v"].repeat_interleave(4 // pair.ours.config.num_key_value_heads, dim=2)
    assert_close(run["blocks.1.attn.z"], value[:, :1].expand_as(value))


def test_an_edit_of_one_head_leaves_the_others(pair, tokens):
    for name, axis in (("pattern", 1), ("scores", 1), ("q", 2), ("rot_q", 2), ("z", 2), ("result", 2)):
        site = f"blocks.1.attn.{name}"
        clean = pair.ours.run(tokens, capture=site)[site].unbind(axis)
        run = pair.ours.run(tokens, capture=site, edits=[edits.scale(site, 0.5, heads=[3, 1])])[site].unbind(axis)
        for head in range(4):
            assert_close(run[head], clean[head] * (0.5 if head in (1, 3) else 1))


def test_an_edit_of_some_positions_leaves_the_others(model, tokens):
    for site in ("embed", "blocks.2.resid_mid", "blocks.1.attn.z", "blocks.0.mlp.post", "logits"):
        clean = model.run(tokens, capture=site)[site]
        run = model.run(tokens, capture=site, edits=[edits.zero(site, positions=[3, -1])])[site]
        kept = [position for position in range(14) if position not in (3, 13)]
        assert torch.equal(run[:, kept], clean[:, kept])
        assert not run[:, [3, 13]].any()


def test_positions_of_attention_are_its_queries(model, tokens):
    site = "blocks.1.attn.pattern"
    clean = model.run(tokens, capture=site)[site]
    run = model.run(tokens, capture=site, edits=[edits.zero(site, positions=[4], heads=[2])])[site]
    assert not run[:, 2, 4].any()
    assert torch.equal(run[:, 2, 5:], clean[:, 2, 5:])
    assert torch.equal(run[:, [0, 1, 3]], clean[:, [0, 1, 3]])


def test_changing_the_argument_in_place_is_reported(model, tokens):
    def spoil(x: Tensor) -> Tensor:
        return x.mul_(2)

    def spoil_a_view(x: Tensor) -> Tensor:
        x[:, 0] = 0
        return x.clone()

    clean = model.run(tokens).logits
    for site in two_blocks(model.sites):
        for change in (spoil, spoil_a_view):
            for options in ({}, {"heads": [0]} if "head" in model.sites[site].split() else {"positions": [0]}):
                with pytest.raises((ValueError, RuntimeError), match="in place") as error:
                    model.run(tokens, edits=[edits.apply(site, change, **options)])
                assert site in str(error.value)
    assert torch.equal(model.run(tokens).logits, clean)


@pytest.mark.parametrize(
    ("family", "mode"),
    [("olmo3", "inference mode"), *product(("olmo", "olmo2", "olmo3"), ("autocast", "bfloat16")), ("olmo3", "eager")],
)
def test_identity_edits_change_no_bit_in_any_mode(make_model, family, tokens, mode):
    model = make_model(family, num_key_value_heads=2)
    if mode == "eager":
        model.set_attn_implementation("eager")
    if mode == "bfloat16":
        model.to(torch.bfloat16)
    with torch.inference_mode(mode == "inference mode"), torch.autocast("cpu", enabled=mode == "autocast"):
        clean = model.run(tokens).logits
        for site in two_blocks(model.sites):
            assert torch.equal(model.run(tokens, capture=site).logits, clean), site
            assert torch.equal(model.run(tokens, edits=[edits.apply(site, torch.clone)]).logits, clean), site


def test_changing_the_argument_in_place_is_reported_in_inference_mode(model, tokens):
    with torch.inference_mode():
        for site in two_blocks(model.sites):
            with pytest.raises(ValueError, match=f"{site}.*in place"):
                model.run(tokens, edits=[edits.apply(site, lambda x: x.mul_(2))])


# Decoding


@GROUPED
def test_an_edit_while_decoding_is_an_edit_of_the_whole_text(pair, tokens):
    """Step by step with a cache, an edit of every position gives the same as one call over the whole text."""
    for site in two_blocks(pair.ours.sites):
        change = [edits.apply(site, lambda x: x * 0.7)]
        whole = pair.ours.run(tokens, edits=change).logits
        cache = DynamicCache(config=pair.ours.config)
        steps = [
            pair.ours.run(piece, edits=change, past_key_values=cache).logits
            for piece in tokens.split([11, 1, 2], dim=1)
        ]
        torch.testing.assert_close(
            torch.cat(steps, dim=1), whole, rtol=1e-3, atol=2e-4, msg=lambda m, site=site: f"{site}: {m}"
        )


@GROUPED
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_positions_count_in_the_whole_sequence(pair, tokens, kind):
    sites = [
        "embed",
        "blocks.1.resid_pre",
        "blocks.1.attn.v",
        "blocks.2.attn.z",
        "blocks.2.attn.pattern",
        "blocks.0.mlp_out",
    ]
    config = pair.ours.config
    for site in sites:
        early, late = (edits.scale(site, 0.5, positions=[position]) for position in (2, 12))
        whole = pair.ours.run(tokens, edits=[early, late]).logits
        cache = DynamicCache(config=config) if kind == "dynamic" else StaticCache(config=config, max_cache_len=20)
        steps = [
            pair.ours.run(tokens[:, :11], edits=[early], past_key_values=cache),
            pair.ours.run(tokens[:, 11:12], edits=[early], past_key_values=cache),
            pair.ours.run(tokens[:, 12:], edits=[early, late], past_key_values=cache),
        ]
        assert_close(torch.cat([step.logits for step in steps], dim=1), whole)
        assert not torch.allclose(whole, pair.ours.run(tokens).logits)
        with pytest.raises(IndexError, match="12"):
            pair.ours.run(tokens[:, :12], edits=[late])


def test_captured_positions_count_in_the_whole_sequence(model, tokens):
    cache = DynamicCache(config=model.config)
    model.run(tokens[:, :10], past_key_values=cache)
    whole = model.run(tokens, capture=["blocks.2.resid_post", "blocks.1.attn.pattern"])
    part = model.run(
        tokens[:, 10:], past_key_values=cache,
        capture=[Capture("blocks.2.resid_post", positions=[11, 13]), Capture("blocks.1.attn.pattern", queries=[12])],
    )  # fmt: skip
    assert_close(part["blocks.2.resid_post"], whole["blocks.2.resid_post"][:, [11, 13]])
    assert_close(part["blocks.1.attn.pattern"], whole["blocks.1.attn.pattern"][:, :, [12]])


@GROUPED
@pytest.mark.parametrize("strategy", [{}, {"num_beams": 2}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_edits_hold_at_prefill_and_at_each_decode_step(pair, tokens, strategy):
    steering = torch.randn(32, generator=torch.Generator().manual_seed(5)) * 3
    change = [edits.add("blocks.1.resid_post", steering), edits.zero("blocks.2.attn.z", heads=[0])]
    options = {"max_new_tokens": 6, "do_sample": False, **strategy}
    text = pair.ours.generate(tokens, edits=change, **options)
    assert not torch.equal(text, pair.ours.generate(tokens, **options))
    if "num_beams" not in strategy:
        for length in range(14, 20):
            logits = pair.ours.run(text[:, :length], edits=change).logits[:, -1]
            assert torch.equal(logits.argmax(-1), text[:, length])


def of_ids(ids: Tensor) -> Tensor:
    """A value that tells each token and each earlier token from others: batch pos d_model."""
    return ids.cumsum(1)[..., None].expand(*ids.shape, 32) / 50


def test_a_value_may_be_computed_from_the_token_ids(model, tokens):
    """In one run, at some positions, in a run that goes on from a stored residual, and in each step of a generation."""
    site = "blocks.1.mlp_out"
    change, wanted = edits.add(site, of_ids), edits.add(site, of_ids(tokens))
    assert torch.equal(model.run(tokens, edits=change).logits, model.run(tokens, edits=wanted).logits)
    some, by_hand = (
        edits.add(site, of_ids, positions=[2, 4]),
        edits.add(site, of_ids(tokens)[:, [2, 4]], positions=[2, 4]),
    )
    assert torch.equal(model.run(tokens, edits=some).logits, model.run(tokens, edits=by_hand).logits)
    resid = model.run(tokens, stop_at_layer=1).resid
    resumed = model.run(tokens, resid=resid, start_at_layer=1, edits=change)
    assert torch.equal(resumed.logits, model.run(tokens, resid=resid, start_at_layer=1, edits=wanted).logits)
    with pytest.raises(ValueError, match="needs the token ids of the whole sequence"):
        model.run(resid=resid, start_at_layer=1, edits=change)
    cache = DynamicCache(config=model.config)
    for part in (tokens[:1, :3], tokens[:1, 3:4], tokens[:1, 4:]):
        with model.tapped(edits=change):
            found = model.run(part, past_key_values=cache).logits
    whole = model.run(tokens[:1], edits=edits.add(site, of_ids(tokens[:1]))).logits
    assert_close(found, whole[:, 4:])


@pytest.mark.parametrize("mask", ([0, 1, 1], [1, 0, 1]))
def test_a_value_of_token_ids_is_refused_where_padding_comes_before_a_token(model, tokens, mask):
    with pytest.raises(ValueError, match="padded on the left"):
        model.run(tokens[:1, :3], torch.tensor([mask]), edits=edits.add("embed", of_ids))
    cache = DynamicCache(config=model.config)
    with pytest.raises(ValueError, match="token ids"), model.tapped(edits=edits.add("embed", of_ids)):
        for part in (tokens[:2, :3], tokens[:2, 3:]):  # two texts, whose rows of the cache a beam search may exchange
            model.run(part, past_key_values=cache)


def test_blocks_around_are_suspended(model, tokens):
    plain = model.run(tokens).logits
    with model.tapped(edits=edits.zero("blocks.1.mlp_out")), model.untapped():
        assert torch.equal(model.run(tokens).logits, plain) and not model.tapped_edits
        with model.tapped(edits=edits.zero("embed")):
            assert not torch.equal(model.run(tokens).logits, plain)
    assert torch.equal(model(tokens).logits, plain)


def test_generation_with_edits_refuses_a_wrong_site(model, tokens):
    with pytest.raises((KeyError, ValueError), match="nowhere"):
        model.generate(tokens, max_new_tokens=1, edits=[edits.zero("nowhere")])
