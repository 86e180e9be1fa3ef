"""Each builder of edits changes a tensor as its name says, at the selected heads and positions."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import Capture, Edit, HooksError, OlmoForCausalLM, edits

SITE = "blocks.1.attn.z"
CHOICES = [{}, {"heads": [2, 0]}, {"positions": [-1, 4]}, {"heads": [3], "positions": [0, 5]}]


@pytest.fixture
def clean(model, tokens) -> Tensor:
    return model.run(tokens, capture=SITE)[SITE]


def edited(model: OlmoForCausalLM, tokens: Tensor, edit: Edit) -> Tensor:
    assert isinstance(edit, Edit)
    return model.run(tokens, capture=SITE, edits=[edit])[SITE]


def where_chosen(heads: list[int] | None = None, positions: list[int] | None = None) -> Tensor:
    """True where an edit applies: pos head 1."""
    chosen = torch.zeros(14, 4, 1, dtype=torch.bool)
    rows = torch.tensor(range(14) if positions is None else positions)
    chosen[rows[:, None], torch.tensor(range(4) if heads is None else heads)] = True
    return chosen


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(
    ("build", "change"),
    [
        (lambda **choice: edits.zero(SITE, **choice), torch.zeros_like),
        (lambda **choice: edits.scale(SITE, 2.5, **choice), lambda x: x * 2.5),
        (lambda **choice: edits.add(SITE, torch.arange(8.0), **choice), lambda x: x + torch.arange(8.0)),
        (lambda **choice: edits.replace(SITE, torch.arange(8.0), **choice), lambda x: torch.arange(8.0).expand_as(x)),
        (lambda **choice: edits.replace(SITE, 1.5, **choice), lambda x: torch.full_like(x, 1.5)),
        (lambda **choice: edits.clamp(SITE, -0.2, 0.1, **choice), lambda x: x.clamp(-0.2, 0.1)),
        (lambda **choice: edits.apply(SITE, torch.tanh, **choice), torch.tanh),
    ],
    ids=["zero", "scale", "add", "replace", "replace by a number", "clamp", "apply"],
)
def test_builders(model, tokens, clean, build, change, choice):
    result = edited(model, tokens, build(**choice))
    torch.testing.assert_close(result, torch.where(where_chosen(**choice), change(clean), clean), rtol=0, atol=1e-6)
    assert not torch.equal(result, clean)


def test_replace_by_another_runs_value(model, tokens, other_tokens, clean):
    other = model.run(other_tokens, capture=SITE)[SITE]
    assert torch.equal(edited(model, tokens, edits.replace(SITE, other)), other)
    part = edited(model, tokens, edits.replace(SITE, other[:, [2, 5]][:, :, [1]], heads=[1], positions=[2, 5]))
    chosen = where_chosen(heads=[1], positions=[2, 5])
    assert torch.equal(part, torch.where(chosen, other, clean))


def test_scale_by_a_tensor(model, tokens, clean):
    factors = torch.tensor([0.0, 1.0, 2.0, -1.0])[:, None]
    torch.testing.assert_close(edited(model, tokens, edits.scale(SITE, factors)), clean * factors)


def test_clamp_on_one_side(model, tokens, clean):
    assert edited(model, tokens, edits.clamp(SITE, low=0.0)).equal(clean.clamp(min=0.0))
    assert edited(model, tokens, edits.clamp(SITE, high=0.0)).equal(clean.clamp(max=0.0))


@pytest.mark.parametrize(
    "kind", [tuple, np.array, torch.tensor, set, lambda x: [np.int64(i) for i in x], lambda x: slice(1, 3)]
)
def test_heads_and_positions_of_any_kind(model, tokens, clean, kind):
    result = edited(model, tokens, edits.zero(SITE, heads=kind([1, 2]), positions=kind([1, 2])))
    assert torch.equal(result, torch.where(where_chosen([1, 2], [1, 2]), 0.0, clean))


def test_positions_where_a_mask_is_true(model, tokens, clean):
    result = edited(model, tokens, edits.zero(SITE, positions=torch.arange(14) % 5 == 1))
    assert torch.equal(result, torch.where(where_chosen(positions=[1, 6, 11]), 0.0, clean))


def test_a_single_head_or_position_needs_no_list(model, tokens, clean):
    result = edited(model, tokens, edits.zero(SITE, heads=1, positions=3))
    assert torch.equal(result, torch.where(where_chosen([1], [3]), 0.0, clean))


def test_a_glob_edits_every_site_it_names(model, tokens):
    run = model.run(tokens, capture="blocks.*.attn.z", edits=[edits.zero("blocks.*.attn.z", heads=[1])])
    assert not run.stack("attn.z")[:, :, :, 1].any()
    assert run.stack("attn.z")[:, :, :, 0].any()


def test_an_edit_can_be_used_again_and_changes_no_argument(model, tokens, clean):
    vector = torch.ones(8)
    edit = edits.add(SITE, vector)
    first, second = edited(model, tokens, edit), edited(model, tokens, edit)
    assert torch.equal(first, second)
    assert torch.equal(vector, torch.ones(8))


def test_a_value_of_another_precision_is_cast(make_model, tokens):
    half = make_model("olmo").to(torch.bfloat16)
    for edit in (
        edits.add(SITE, torch.ones(8)),
        edits.replace(SITE, torch.ones(8)),
        edits.scale(SITE, torch.tensor(2.0)),
    ):
        assert half.run(tokens, capture=SITE, edits=[edit])[SITE].dtype == torch.bfloat16


# Another run's activations


@pytest.mark.parametrize("site", [SITE, "blocks.1.attn.pattern", "blocks.1.attn.result", "blocks.2.mlp_out_raw"])
@pytest.mark.parametrize(
    "where",
    [{}, {"positions": -1}, {"positions": [0, 5]}, {"positions": slice(2, 6)}, {"positions": [[0, 3], [7, -1]]}],
)
def test_patch_puts_another_runs_activation_in(model, tokens, other_tokens, site, where):
    """Only the selected heads and positions are replaced, by those of the other run."""
    clean, other = (model.run(ids, capture=site) for ids in (tokens, other_tokens))
    for heads in [{}, {"heads": [-1, 0]}] if "head" in model.sites[site].split() else [{}]:
        chosen = model.run(tokens, capture=site, edits=[edits.replace(site, 7.0, **where, **heads)])[site] == 7.0
        found = model.run(tokens, capture=site, edits=[edits.patch(site, other, **where, **heads)])[site]
        assert chosen.any()
        wanted = torch.where(chosen, other[site], clean[site])
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_patch_of_a_run_by_itself_changes_no_bit(model, tokens):
    run = model.run(tokens, capture="blocks.*.attn.z")
    patched = model.run(tokens, edits=[edits.patch("blocks.*.attn.z", run, heads=[1, 3], positions=[2, -1])])
    assert torch.equal(patched.logits, run.logits)


def test_patch_of_every_layer_takes_each_from_its_own(model, tokens, other_tokens):
    site = "blocks.*.hook_resid_post"
    other = model.run(other_tokens, capture=site)
    found = model.run(tokens, capture=site, edits=[edits.patch(site, other, positions=[3])])
    assert torch.equal(found.stack("resid_post")[:, :, 3], other.stack("resid_post")[:, :, 3])
    one = {name: tensor[:1] for name, tensor in other.items()}  # a mapping with one text, used for all
    assert torch.equal(
        model.run(tokens, capture=site, edits=[edits.patch(site, one)]).stack("resid_post"),
        other.stack("resid_post")[:, :1].expand(-1, 2, -1, -1),
    )


def test_what_cannot_be_patched_in_is_refused(model, tokens):
    run = model.run(tokens, capture=["embed", Capture(SITE, heads=[1])])
    shorter = model.run(tokens[:, :9], capture=SITE)
    for source, site, sentence in (
        (run, "blocks.2.attn.z", "blocks.2.attn.z' was not captured"),
        ({}, SITE, "was not captured"),
        (run, SITE, r"\(2, 14, 1, 8\).*capture the whole site"),
        (shorter, SITE, "has 9 positions, but the sequence has 14"),
    ):
        with pytest.raises(HooksError, match=sentence):
            model.run(tokens, edits=[edits.patch(site, source, positions=[0])])
    with pytest.raises(HooksError, match="does not fit"):
        model.run(tokens[:1], edits=[edits.patch("embed", run)])
    with pytest.raises(HooksError, match=r"has 14 positions, but 1 are selected; edits\.patch"):
        model.run(tokens, edits=[edits.replace("embed", run["embed"], positions=-1)])


def test_patch_holds_for_the_prompt_of_a_generation(model, tokens, other_tokens):
    other = model.run(other_tokens, capture=SITE)
    with model.tapped(capture=SITE):
        text, runs = model.generate(
            tokens, max_new_tokens=3, do_sample=False, capture=SITE, edits=edits.patch(SITE, other)
        )
    assert torch.equal(runs[0][SITE], other[SITE])
    first = model.run(tokens, edits=[edits.patch(SITE, other)]).logits[:, -1].argmax(-1)
    assert torch.equal(text[:, 14], first)
