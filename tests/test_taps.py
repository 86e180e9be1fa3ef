"""Captures and edits of one call; they do not affect other calls."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import hooks.attention
from hooks import Capture, edits
from hooks.sites import IN_BLOCK
from tests.fixtures import GROUPED

LAYERS = range(4)


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=5e-5)


# Captures


def test_capture_takes_a_name_a_glob_a_capture_or_a_list(model, tokens):
    wanted = ["blocks.1.attn.z", "blocks.1.attn.pattern", "blocks.2.resid_post"]
    captures = ["blocks.1.attn.[z]", Capture("blocks.1.attn.pattern"), wanted[2]]
    run = model.run(tokens, capture=captures)
    assert set(run) == set(wanted)
    assert list(model.run(tokens, capture=captures[1])) == [wanted[1]]
    assert list(model.run(tokens, capture=tuple(captures))) == list(run)


@pytest.mark.parametrize("name", ["q", "z", "rot_q", "result"])
def test_capture_of_some_heads_and_positions(pair, tokens, name):
    site = f"blocks.2.attn.{name}"
    whole = pair.ours.run(tokens, capture=site)[site]
    part = pair.ours.run(tokens, capture=Capture(site, heads=[3, 1], positions=[-1, 0, 5]))[site]
    assert_close(part, whole[:, [-1, 0, 5]][:, :, [3, 1]])


def test_capture_of_a_key_value_head(pair, tokens):
    last = pair.ours.config.num_key_value_heads - 1
    for name in ("k", "v", "rot_k"):
        site = f"blocks.2.attn.{name}"
        whole = pair.ours.run(tokens, capture=site)[site]
        assert torch.equal(pair.ours.run(tokens, capture=Capture(site, heads=[last]))[site], whole[:, :, [last]])
        with pytest.raises((IndexError, ValueError), match=f"{last + 1}"):
            pair.ours.run(tokens, capture=Capture(site, heads=[last + 1]))


@pytest.mark.parametrize("site", ["embed", "blocks.1.resid_mid", "blocks.3.mlp.post", "ln_final.scale", "logits"])
def test_capture_of_some_positions(model, tokens, site):
    whole = model.run(tokens, capture=site)[site]
    part = model.run(tokens, capture=Capture(site, positions=[-1, 2]))[site]
    assert torch.equal(part, whole[:, [-1, 2]])


@pytest.mark.parametrize("name", ["pattern", "scores"])
def test_capture_of_some_rows_of_attention(pair, padded, name):
    capture = Capture(f"blocks.*.attn.{name}", heads=[2, 0], queries=[-1, 10])
    whole = pair.ours.run(padded.input_ids, padded.attention_mask, capture=f"blocks.*.attn.{name}")
    part = pair.ours.run(padded.input_ids, padded.attention_mask, capture=capture)
    for site in whole:
        assert part[site].shape == (3, 2, 2, 14)
        assert_close(part[site], whole[site][:, [2, 0]][:, :, [-1, 10]])


def test_capture_in_another_precision(model, tokens):
    site = "blocks.1.attn.pattern"
    run = model.run(tokens, capture=[Capture(site, dtype=torch.float16, device="cpu"), "blocks.1.resid_post"])
    assert run[site].dtype == torch.float16
    assert run["blocks.1.resid_post"].dtype == torch.float32
    assert_close(run[site].float(), model.run(tokens, capture=site)[site].half().float())


def test_capture_on_another_device(model, tokens):
    run = model.run(tokens, capture=Capture("blocks.1.resid_post", device="meta"))
    assert run["blocks.1.resid_post"].device.type == "meta"


def test_captured_tensors_are_their_own(model, tokens):
    """Changes of a captured tensor and later calls do not change a run, and a run keeps no autograd graph."""
    run = model.run(tokens, capture="*")
    copies = {name: run[name].clone() for name in run}
    model.run(tokens.flip(0), capture="*")
    model(tokens.flip(1))
    for name in run:
        assert not run[name].requires_grad
        assert torch.equal(run[name], copies[name])
    assert not run.logits.requires_grad


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        ({"capture": Capture("blocks.1.attn.pattern", heads=[4])}, "4"),
        ({"capture": Capture("blocks.1.attn.z", heads=[-5])}, "-5"),
        ({"capture": Capture("blocks.1.resid_post", positions=[14])}, "14"),
        ({"capture": Capture("blocks.1.resid_post", positions=[-15])}, "-15"),
        ({"capture": Capture("blocks.1.attn.pattern", queries=[20])}, "20"),
        ({"capture": Capture("blocks.1.resid_post", heads=[0])}, "head"),
        ({"capture": Capture("blocks.1.resid_post", queries=[0])}, "quer"),
        ({"edits": [edits.zero("blocks.1.attn.z", heads=[4])]}, "4"),
        ({"edits": [edits.zero("blocks.1.resid_post", heads=[0])]}, "head"),
        ({"edits": [edits.zero("blocks.1.resid_post", positions=[-15])]}, "-15"),
        ({"edits": [edits.replace("blocks.1.resid_post", torch.zeros(2, 14, 31))]}, "31"),
        ({"edits": [edits.add("blocks.1.resid_post", torch.zeros(33))]}, "33"),
        ({"edits": [edits.apply("blocks.1.resid_post", lambda x: x[:, 1:])]}, "13"),
        ({"edits": [edits.apply("blocks.1.resid_post", lambda x: x.double())]}, "float64"),
        ({"edits": [edits.apply("blocks.1.resid_post", lambda x: None)]}, "None"),
        ({"edits": [edits.apply("blocks.1.attn.pattern", lambda x: x[:, :1])]}, "1, 14, 14"),
        ({"stop_at_layer": 5}, "5"),
        ({"stop_at_layer": -1}, "-1"),
        ({"start_at_layer": 5, "resid": torch.zeros(2, 14, 32)}, "5"),
        ({"start_at_layer": 2}, "resid"),
        ({"start_at_layer": 2, "resid": torch.zeros(2, 14, 31)}, "31"),
        ({"start_at_layer": 2, "resid": torch.zeros(14, 32)}, "resid"),
        ({"start_at_layer": 2, "resid": torch.zeros(2, 14, 32).double()}, "resid"),
        ({"start_at_layer": 3, "stop_at_layer": 2, "resid": torch.zeros(2, 14, 32)}, "3.*2"),
    ],
)
def test_what_is_wrong_is_named(model, tokens, options, mentions):
    with pytest.raises((ValueError, KeyError, IndexError, TypeError), match=mentions) as error:
        model.run(tokens, **options)
    assert len(str(error.value)) > 20


def test_captures_and_edits_may_come_from_a_generator(model, tokens):
    sites = ["blocks.1.attn.z", "blocks.2.attn.z"]
    run = model.run(tokens, capture=(site for site in sites), edits=(edits.zero(site) for site in sites))
    assert list(run) == sites
    assert not run.stack("attn.z").any()


@pytest.mark.parametrize("wrong", [3, None, object()])
def test_a_capture_or_edit_of_a_wrong_type_is_refused(model, tokens, wrong):
    with pytest.raises((TypeError, ValueError), match=r"(?i)capture"):
        model.run(tokens, capture=[wrong])
    with pytest.raises((TypeError, ValueError), match=r"(?i)edit"):
        model.run(tokens, edits=[wrong])


# Parts of the model


def test_stopping_early_computes_no_later_layer(model, tokens):
    whole = model.run(tokens, capture="*")
    computed = []
    handles = [
        block.mlp.down_proj.register_forward_hook(lambda *_, layer=layer: computed.append(layer))
        for layer, block in enumerate(model.model.layers)
    ]
    run = model.run(tokens, stop_at_layer=2, capture="*")
    for handle in handles:
        handle.remove()
    assert computed == [0, 1]
    assert run.logits is None
    reached = ("embed", "blocks.0.", "blocks.1.", "blocks.2.resid_pre")  # block 2 is not run, but its input is computed
    assert list(run) == [name for name in whole if name.startswith(reached)]
    assert all(torch.equal(run[name], whole[name]) for name in run)
    nothing = model.run(tokens, stop_at_layer=0, capture="*")
    assert list(nothing) == ["embed", "blocks.0.resid_pre"]
    assert nothing.logits is None


@GROUPED
@pytest.mark.parametrize("site", ["embed", "blocks.*.resid_post", *(f"blocks.1.{name}" for name in IN_BLOCK), "logits"])
def test_a_run_of_captures_only_ends_with_the_last_of_them(pair, tokens, site):
    """Bit-identical to a whole run, also with edits, and no tap is called after the last captured one."""
    doubled = edits.scale("blocks.0.attn_out", 2.0)
    model, passed = pair.ours, []
    whole = model.run(tokens, capture="*", edits=doubled)
    after = list(whole)[list(whole).index(list(model.sites.match(site))[-1]) + 1 :]
    spies = [edits.apply(name, lambda x, name=name: passed.append(name) or x) for name in after]
    run = model.run(tokens, capture=site, edits=[doubled, *spies], captures_only=True)
    assert list(run) == list(model.sites.match(site))
    assert all(torch.equal(run[name], whole[name]) for name in run)
    assert (run.logits, run.resid, passed) == (None, None, [])


def test_captures_only_spares_the_kernel_and_takes_something_to_capture(model, tokens, monkeypatch):
    calls, kernel = [], ALL_ATTENTION_FUNCTIONS["sdpa"]
    counted = {
        "sdpa": lambda module, *args, **options: calls.append(module.layer_idx) or kernel(module, *args, **options)
    }
    monkeypatch.setattr(hooks.attention, "ALL_ATTENTION_FUNCTIONS", counted)
    model.run(tokens, capture="blocks.2.attn.pattern", captures_only=True)
    assert calls == [0, 1]
    with pytest.raises(ValueError, match="nothing is captured"):
        model.run(tokens, captures_only=True)


def test_a_site_that_a_part_does_not_reach_is_refused(model, tokens):
    resid = model.run(tokens, capture="blocks.2.resid_pre")["blocks.2.resid_pre"]
    with pytest.raises((ValueError, KeyError), match=r"blocks\.3\.attn\.z"):
        model.run(tokens, stop_at_layer=2, capture="blocks.3.attn.z")
    with pytest.raises((ValueError, KeyError), match=r"blocks\.0\.attn\.z"):
        model.run(tokens, start_at_layer=2, resid=resid, edits=[edits.zero("blocks.0.attn.z")])


def test_start_and_stop_together(model, tokens):
    whole = model.run(tokens, capture="blocks.*.resid_*")
    middle = model.run(
        tokens, start_at_layer=1, stop_at_layer=3, resid=whole["blocks.1.resid_pre"], capture="blocks.*.resid_*"
    )
    inside = {f"blocks.{layer}.resid_{name}" for layer in (1, 2) for name in ("pre", "mid", "post")}
    assert set(middle) == inside | {"blocks.3.resid_pre"}
    assert torch.equal(middle["blocks.2.resid_post"], whole["blocks.2.resid_post"])
    end = model.run(tokens, start_at_layer=3, resid=middle["blocks.2.resid_post"])
    assert torch.equal(end.logits, model.run(tokens).logits)


@pytest.mark.parametrize("keep", [1, torch.tensor([0, 5])])
def test_logits_to_keep(model, tokens, keep):
    kept = model.run(tokens, logits_to_keep=keep, capture="blocks.3.resid_post")
    whole = model.run(tokens).logits
    assert_close(kept.logits, whole[:, -1:] if isinstance(keep, int) else whole[:, keep])
    assert kept["blocks.3.resid_post"].shape == (2, 14, 32)


def test_position_ids(model, tokens):
    positions = torch.arange(14)[None] + 3
    assert torch.equal(model.run(tokens, None, positions).logits, model(tokens, position_ids=positions).logits)


def test_a_part_with_a_cache(model, tokens):
    """Positions are counted from the caches of the layers that are computed."""
    whole = model.run(tokens, capture="blocks.2.resid_pre")
    resid, cache = whole["blocks.2.resid_pre"], DynamicCache(config=model.config)
    model.run(tokens[:, :10], start_at_layer=2, resid=resid[:, :10], past_key_values=cache)
    rest = model.run(tokens[:, 10:], start_at_layer=2, resid=resid[:, 10:], past_key_values=cache)
    assert_close(rest.logits, whole.logits[:, 10:])


def test_the_bare_model_runs_too(model, tokens):
    run = model.model.run(tokens, capture="*")
    whole = model.run(tokens, capture="*")
    assert run.logits is None
    assert list(run) == [name for name in whole if name != "logits"]
    assert all(torch.equal(run[name], whole[name]) for name in run)


# Gradients


def test_gradients_are_those_of_finite_differences(model, tokens):
    for site in (
        "embed",
        "blocks.1.attn.z",
        "blocks.2.attn.pattern",
        "blocks.2.resid_mid",
        "blocks.3.mlp.post",
        "blocks.1.attn.result",
    ):
        run = model.run(tokens, capture=site, grad=True)
        assert run[site].requires_grad
        gradient = torch.autograd.grad(run.logits[:, -1, 7].sum(), run[site])[0]
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
        step = 1e-2 * direction
        ahead, behind = (
            model.run(tokens, edits=[edits.apply(site, lambda x, by=sign * step: x + by)]).logits[:, -1, 7].sum()
            for sign in (1, -1)
        )
        slope = (gradient * direction).sum()
        torch.testing.assert_close((ahead - behind) / 2e-2, slope, rtol=3e-2, atol=3e-2)


def test_gradients_do_not_depend_on_what_else_is_captured(model, tokens):
    """Every captured tensor is in the graph, and additional captures change no gradient."""
    alone, every = (model.run(tokens, capture=capture, grad=True) for capture in ("embed", "*"))
    wanted = torch.autograd.grad(alone.logits[:, -1, 5].sum(), alone["embed"])[0]
    found = torch.autograd.grad(every.logits[:, -1, 5].sum(), list(every.values()), allow_unused=True)
    assert [name for name, gradient in zip(every, found, strict=True) if gradient is None] == []
    torch.testing.assert_close(found[0], wanted, rtol=1e-3, atol=1e-4)


def test_no_grad_by_default_and_outside(model, tokens):
    assert not model.run(tokens, capture="embed")["embed"].requires_grad
    with torch.no_grad():
        run = model.run(tokens, capture="embed", grad=True)
    assert run["embed"].requires_grad
    assert torch.is_grad_enabled()


def test_an_edit_may_carry_a_gradient(model, tokens):
    vector = torch.zeros(32, requires_grad=True)
    run = model.run(tokens, edits=[edits.add("blocks.1.resid_post", vector)], grad=True)
    (gradient,) = torch.autograd.grad(run.logits[:, -1, 3].sum(), vector)
    assert gradient.any()


# A block of code that calls the model itself


def test_tapped(model, tokens):
    site = "blocks.1.resid_post"
    change = [edits.zero("blocks.1.attn_out")]
    wanted = model.run(tokens, capture=site, edits=change)
    clean = model(tokens).logits
    with model.tapped(capture=site, edits=change) as runs:
        inside = model(tokens).logits
        text = model.generate(tokens[:1], max_new_tokens=3, do_sample=False)
    assert torch.equal(inside, wanted.logits)
    assert [list(run) for run in runs] == [[site]] * 4  # one run for each forward pass, including the three of generate
    assert torch.equal(runs[0][site], wanted[site])
    assert [run[site].shape[1] for run in runs] == [14, 14, 1, 1]
    assert torch.equal(model(tokens).logits, clean)
    assert torch.equal(text, model.generate(tokens[:1], max_new_tokens=3, do_sample=False, edits=change))


def test_tapped_blocks_add_up(model, tokens):
    """The captures of an outer block include the edits of generate and of inner blocks."""
    change = [edits.zero("blocks.1.attn_out")]
    with model.tapped(capture="blocks.1.attn_out") as runs:
        model.generate(tokens, max_new_tokens=2, do_sample=False, edits=change)
    assert len(runs) == 2
    assert not any(run["blocks.1.attn_out"].any() for run in runs)


def test_the_edits_of_a_block_around_hold_for_a_run(model, tokens):
    """So an analysis of an edited model only needs an enclosing `tapped()` block."""
    zeroed, scaled = edits.zero("blocks.1.attn.z", heads=[0]), edits.scale("blocks.2.mlp_out", 0.5)
    with model.tapped(capture="blocks.1.attn.pattern", edits=zeroed) as seen:
        both = model.run(tokens, capture="blocks.3.resid_pre", edits=scaled)
        later = model.run(resid=both["blocks.3.resid_pre"], start_at_layer=3)  # which reaches neither
        weights = model.run(tokens, capture=Capture("blocks.1.attn.pattern", queries=[-1]))["blocks.1.attn.pattern"]
    expected = model.run(tokens, capture="blocks.3.resid_pre", edits=[zeroed, scaled])
    assert torch.equal(both.logits, expected.logits) and torch.equal(later.logits, expected.logits)
    assert list(both) == list(expected) and weights.shape == (2, 4, 1, 14) and seen == []


def test_edits_of_a_block_around_come_first_once_and_where_they_can(model, tokens):
    put = [edits.replace("blocks.1.attn_out", torch.full((1, 1, 32), value)) for value in (1.0, 2.0)]
    with model.tapped(edits=put[0]):
        assert torch.equal(model.run(tokens, edits=put[1]).logits, expected_of(model, tokens, put))
    added = edits.add("blocks.2.resid_pre", torch.ones(32))
    with model.tapped(edits=added):
        resid = model.run(tokens, stop_at_layer=2).resid
        again = model.run(start_at_layer=2, resid=resid).logits
    assert torch.equal(again, expected_of(model, tokens, added))
    later = edits.add("blocks.2.resid_pre", torch.ones(32), positions=[5, 50])
    whole = edits.replace("blocks.0.mlp_out", model.run(tokens, capture="blocks.0.mlp_out")["blocks.0.mlp_out"])
    with model.tapped(edits=[later, whole, edits.zero("logits")]):
        short = model.run(tokens[:, :7]).logits
        assert model.model.run(tokens).logits is None
    assert not short.any()
    with model.tapped(edits=later):
        reached = model.run(tokens).logits
    own = edits.add("blocks.2.resid_pre", torch.ones(32), positions=[5])
    assert torch.equal(reached, expected_of(model, tokens, own))
    with pytest.raises(IndexError, match="position 50 is outside"):
        model.run(tokens, edits=later)


def expected_of(model, tokens, changes):
    return model.run(tokens, edits=changes).logits


def test_tapped_ends_with_an_error(model, tokens):
    clean = model(tokens).logits
    with pytest.raises(RuntimeError, match="stop"), model.tapped(edits=[edits.zero("blocks.1.attn_out")]):
        raise RuntimeError("stop")
    assert torch.equal(model(tokens).logits, clean)


def test_tapped_is_of_this_model_and_this_thread(model, make_model, tokens):
    other = make_model(model.config.model_type, seed=1)
    theirs, clean = other(tokens).logits, model(tokens).logits
    with model.tapped(edits=[edits.zero("blocks.*.attn_out")]), ThreadPoolExecutor(1) as pool:
        assert torch.equal(other(tokens).logits, theirs)
        assert torch.equal(pool.submit(lambda: model(tokens).logits).result(), clean)
        assert not torch.equal(model(tokens).logits, clean)


def test_nothing_stays_on_the_model(model, tokens):
    clean, modules = model(tokens).logits, {name: set(vars(module)) for name, module in model.named_modules()}
    model.run(tokens, capture="*", edits=[edits.zero("blocks.1.attn_out")])
    model.generate(tokens, max_new_tokens=2, do_sample=False, edits=[edits.zero("blocks.1.attn_out")])
    with model.tapped(capture="*", edits=[edits.zero("embed")]):
        model(tokens)
    with pytest.raises(ValueError, match="boom"):
        model.run(tokens, edits=[edits.apply("blocks.2.resid_mid", _explode)])
    assert torch.equal(model(tokens).logits, clean)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def _explode(x: Tensor) -> Tensor:
    raise ValueError("boom")


def test_threads_do_not_disturb_each_other(model, tokens):
    """Concurrent runs on one model with different edits, or with none, each give their own result."""
    site = "blocks.2.resid_post"
    jobs = [
        [],
        *(
            [edits.scale(f"blocks.{layer}.attn.z", factor, heads=[head])]
            for layer in LAYERS
            for head, factor in ((0, 2.0), (3, 0.0))
        ),
    ]

    def work(change: list) -> tuple[Tensor, Tensor, Tensor]:
        run = model.run(tokens, capture=[site, "blocks.1.attn.pattern"], edits=change)
        text = model.generate(tokens[:1, :6], max_new_tokens=2, do_sample=False, edits=change)
        with model.tapped(edits=change):
            inside = model(tokens, use_cache=False).logits.detach()
        return run[site], text, inside

    alone = [work(change) for change in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, jobs * 3))
    for expected, found in zip(alone * 3, together, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(expected, found, strict=True))


def test_tapped_runs_hold_their_logits(model, tokens):
    """The logits that each pass computed: of all positions, or of the requested ones."""
    wanted = model.run(tokens).logits
    with model.tapped() as outer, model.tapped(capture="embed") as runs:
        inside = model(tokens).logits
        model(tokens, logits_to_keep=2)
        model.model(tokens)
        model.generate(tokens, max_new_tokens=2, do_sample=False)
    assert torch.equal(runs[0].logits, inside) and torch.equal(runs[0].logits, wanted)
    assert not runs[0].logits.requires_grad
    assert_close(runs[1].logits, wanted[:, -2:])
    assert runs[2].logits is None
    assert [run.logits.shape for run in runs[3:]] == [(2, 1, 99), (2, 1, 99)]
    assert len(outer) == 5 and outer[0].logits is runs[0].logits


@pytest.mark.parametrize("strategy", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_generate_captures_each_step(model, tokens, strategy):
    """One run for each forward pass; its activations and logits equal those of one call over the text so far."""
    site, last = "blocks.2.resid_post", Capture("blocks.1.attn.pattern", heads=[1], queries=[-1])
    change = edits.scale("blocks.1.mlp_out", 0.5)
    options = {"max_new_tokens": 4, "do_sample": False, **strategy}
    text, runs = model.generate(tokens, capture=[site, last], edits=change, **options)
    assert torch.equal(text, model.generate(tokens, edits=change, **options))
    assert len(runs) == 4
    for step, run in enumerate(runs):
        whole = model.run(text[:, : 14 + step], capture=[site, last], edits=change)
        torch.testing.assert_close(run[site], whole[site][:, -run[site].shape[1] :], rtol=1e-3, atol=2e-4)
        size = 14 + step  # a static cache has free places
        torch.testing.assert_close(run[last.site][..., :size], whole[last.site], rtol=1e-3, atol=2e-4)
        torch.testing.assert_close(run.logits[:, -1], whole.logits[:, -1], rtol=1e-3, atol=2e-4)
        assert torch.equal(run.logits[:, -1].argmax(-1), text[:, 14 + step])


def test_generate_captures_beside_a_dictionary(model, tokens):
    options = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
    output, runs = model.generate(tokens, capture=Capture("embed", positions=[13, 14]), **options)
    assert output.sequences.shape == (2, 16)
    assert [run["embed"].shape for run in runs] == [(2, 1, 32), (2, 1, 32)]


@pytest.mark.parametrize("site", ["embed", "blocks.1.attn.z", "blocks.1.attn.pattern", "blocks.2.attn.result", "*"])
def test_gradients_of_frozen_weights(make_model, model, tokens, site):
    """Gradients are the same for trainable and frozen weights, and frozen weights get none."""
    frozen = make_model(model.config.model_type)
    frozen.requires_grad_(False)
    found, wanted = (each.run(tokens, capture=site, grad=True) for each in (frozen, model))
    slopes = [
        torch.autograd.grad(run.logits[:, -1, 7].sum(), list(run.values()), allow_unused=True)
        for run in (found, wanted)
    ]
    for name, one, other in zip(found, *slopes, strict=True):
        torch.testing.assert_close(one, other, msg=name)
    assert all(parameter.grad is None for parameter in frozen.parameters())
    part = frozen.run(start_at_layer=1, resid=torch.randn(1, 5, 32), capture="blocks.2.resid_pre", grad=True)
    assert torch.autograd.grad(part.logits.sum(), part["blocks.2.resid_pre"])[0].any()


def test_gradients_of_frozen_weights_behind_a_constant(make_model, tokens):
    """The same if the graph starts at a constant, since all earlier tensors have no graph."""
    frozen = make_model("olmo2").requires_grad_(False)
    constant = edits.replace("blocks.1.resid_pre", 1.0)
    run = frozen.run(tokens, capture=["embed", "blocks.1.resid_pre"], edits=constant, grad=True)
    assert torch.autograd.grad(run.logits[:, -1].sum(), run["blocks.1.resid_pre"])[0].any()
