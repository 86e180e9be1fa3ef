"""Differences of attention equal those of the two patterns, and moved heads are matched."""

import math

import numpy as np
import pytest
import torch

from workbench.analyses.compare_attention import compare_attention, match_heads
from workbench.errors import WorkbenchError


@pytest.fixture
def two(make_model, family):
    return make_model(family, seed=1), make_model(family, seed=2)


def patterns(model, tokens):
    return model.run(tokens, capture="blocks.*.attn.pattern").stack("attn.pattern").double()[:, :, :, 1:]


def test_measures_are_their_formulas(two, tokens):
    measures = compare_attention(*two, tokens)
    a, b = (patterns(model, tokens) for model in two)  # layer batch head query key
    entropy = torch.special.entr
    js = (entropy((a + b) / 2) - (entropy(a) + entropy(b)) / 2).sum(-1).mean((1, 3))
    assert np.allclose(measures["js"].values, js.numpy(), atol=1e-5)
    assert np.allclose(measures["moved"].values, ((a - b).abs().sum(-1) / 2).mean((1, 3)).numpy(), atol=1e-5)
    assert (measures["js"].values <= math.log(2)).all()
    assert (measures["moved"].values <= 1).all()


def test_a_model_looks_like_itself(model, tokens):
    measures = compare_attention(model, model, tokens)
    assert measures["moved"].values.max() == 0
    assert measures["js"].values.max() < 1e-6
    matched = match_heads(model, model, tokens)
    assert (matched["head_a"] == matched["head_b"]).all()
    assert np.allclose(matched["similarity"], 1, atol=1e-5)


def test_heads_that_were_moved_are_found_again(make_model, tokens):
    """Exchanging heads of one layer, with all their weights, does not change the model's output."""
    model, moved = make_model("olmo", seed=1), make_model("olmo", seed=1)
    order = [2, 0, 3, 1]
    attention = moved.model.layers[1].self_attn
    with torch.no_grad():
        for matrix, axis in (
            (attention.q_proj, 0),
            (attention.k_proj, 0),
            (attention.v_proj, 0),
            (attention.o_proj, 1),
        ):
            heads = matrix.weight.detach().clone().chunk(4, axis)
            matrix.weight.copy_(torch.cat([heads[head] for head in order], axis))
    matched = match_heads(model, moved, tokens)
    layer = matched[matched["layer"] == 1]
    assert [order[head] for head in layer["head_b"]] == list(layer["head_a"])
    assert np.allclose(matched["similarity"], 1, atol=1e-4)
    assert layer["same_index"].max() < 0.99


def test_one_after_the_other_is_the_same_as_side_by_side(tmp_path, two, tokens, tokenizer):
    for name, model in zip("ab", two, strict=True):
        model.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path)
    in_turn = compare_attention(str(tmp_path / "a"), str(tmp_path / "b"), tokens)
    side_by_side = compare_attention(*two, tokens)
    assert all(np.array_equal(in_turn[name].values, side_by_side[name].values) for name in side_by_side)


def test_different_numbers_of_heads_are_refused(make_model, tokens):
    with pytest.raises(WorkbenchError, match="A has 4 layers of 4 heads, B 4 of 2"):
        compare_attention(make_model("olmo"), make_model("olmo", num_attention_heads=2), tokens)
