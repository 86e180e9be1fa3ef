"""Norms equal those of the residual stream, and massive activations are listed."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.residual_norms import massive_activations, residual_norms

POSITION, DIMENSION = 3, 7


def test_norms_are_those_of_the_residual_stream(model: OlmoForCausalLM, tokens: Tensor) -> None:
    run = model.run(tokens[:1], capture=["embed", "blocks.*.resid_post"])
    found = residual_norms(model, tokens[0])
    assert found["norm"].rows == ("embed", "0", "1", "2", "3")
    np.testing.assert_allclose(found["norm"].values[0], run["embed"][0].norm(dim=-1), rtol=1e-5)
    np.testing.assert_allclose(found["norm"].values[1:], run.stack("resid_post")[:, 0].norm(dim=-1), rtol=1e-5)


def test_the_largest_entry_is_named(model: OlmoForCausalLM, tokens: Tensor) -> None:
    resid = model.run(tokens[:1], capture="blocks.2.resid_post")["blocks.2.resid_post"][0]
    largest = residual_norms(model, tokens[0])["largest"]
    for position, dimension in enumerate(largest.text[3]):
        assert largest.values[3, position] == resid[position, int(dimension)]
        assert abs(largest.values[3, position]) == resid[position].abs().max()


def test_cosines_are_to_the_layer_before(model: OlmoForCausalLM, tokens: Tensor) -> None:
    run = model.run(tokens[:1], capture=["blocks.1.resid_post", "blocks.2.resid_post"])
    one, other = (run[f"blocks.{layer}.resid_post"][0] for layer in (1, 2))
    cosine = residual_norms(model, tokens[0])["cosine"].values
    assert np.isnan(cosine[0]).all() and np.isfinite(cosine[1:]).all()
    np.testing.assert_allclose(cosine[3], (one * other).sum(-1) / one.norm(dim=-1) / other.norm(dim=-1), rtol=1e-4)


def test_a_layer_that_writes_nothing_turns_nothing(
    make_model: Callable[..., OlmoForCausalLM], family: str, tokens: Tensor
) -> None:
    model = make_model(family)
    with torch.no_grad():
        block = model.model.layers[2]
        for weight in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
            weight.zero_()
    np.testing.assert_allclose(residual_norms(model, tokens[0])["cosine"].values[3], 1, rtol=1e-5)


def with_a_massive_token(make_model: Callable[..., OlmoForCausalLM], family: str, token: int) -> OlmoForCausalLM:
    model = make_model(family)
    with torch.no_grad():
        model.model.embed_tokens.weight[token, DIMENSION] = -1e5
    return model


def test_a_massive_activation_is_found(
    make_model: Callable[..., OlmoForCausalLM], family: str, tokens: Tensor, tokenizer: object
) -> None:
    token = int(tokens[0, POSITION])
    model = with_a_massive_token(make_model, family, token)
    table = massive_activations(model, tokens[0], tokenizer=tokenizer)
    assert set(table.dimension) == {DIMENSION} and POSITION in set(table.position)
    assert set(table.token) == {f"w{token}"}
    assert table["layer"].tolist()[0] in ("embed", "0", "1", "2", "3")
    assert (table.value < -9e4).all() and (table.ratio >= 1000).all()


def test_an_ordinary_model_has_none(model: OlmoForCausalLM, tokens: Tensor) -> None:
    table = massive_activations(model, tokens[0])
    assert len(table) == 0 and list(table) == ["layer", "position", "token", "dimension", "value", "ratio"]
    assert residual_norms(model, tokens[0])["ratio"].values.max() < 1000


def test_of_several_texts_they_are_means_at_each_position(model, tokens):
    rows = [tokens[0], tokens[1, :9], tokens[1, 2:6]]
    together, alone = residual_norms(model, rows), [residual_norms(model, row) for row in rows]
    for name in ("norm", "ratio", "cosine"):
        for place, count in ((3, 3), (8, 2), (12, 1)):
            each = np.stack([one[name].values[1:, place] for one in alone[:count]]).astype(np.float64)
            np.testing.assert_allclose(together[name].values[1:, place], each.mean(0), rtol=1e-4)
            assert (together[name].texts_of_values()[:, place] == count).all()
            if count > 1:
                error = each.std(0, ddof=1) / count**0.5
                np.testing.assert_allclose(together[name].errors[1:, place], error, rtol=1e-3, atol=1e-6)
            else:
                assert np.isnan(together[name].errors[1:, place]).all()
    largest = together["largest"]
    of_all = np.stack([one["largest"].values[:, :4] for one in alone])
    best = np.abs(of_all).argmax(0)[None]
    np.testing.assert_allclose(largest.values[:, :4], np.take_along_axis(of_all, best, 0)[0], rtol=1e-5)
    texts = np.stack([one["largest"].text[:, :4] for one in alone])
    assert (largest.text[:, :4] == np.take_along_axis(texts, best, 0)[0]).all() and largest.errors is None
    assert largest.columns[:2] == ("0", "1") and {"norm_standard_error", "texts"} < set(together.table())
