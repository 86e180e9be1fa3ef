"""Token saliency: gradients equal slopes, and integrated gradients sum to the change of the logit."""

from collections.abc import Callable

import numpy as np
import pytest
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.token_saliency import token_saliency
from workbench.errors import WorkbenchError


def difference(model: OlmoForCausalLM, embeddings: Tensor) -> float:
    """The logit of token 5 over that of 7 after a text given by its embeddings."""
    logits = model.run(resid=embeddings).logits[0, -1].double()
    return float(logits[5] - logits[7])


@pytest.mark.parametrize("baseline", [None, 11])
def test_integrated_gradients_add_up(model: OlmoForCausalLM, tokens: Tensor, baseline: int | None) -> None:
    scores = token_saliency(model, tokens[0], 5, 7, baseline=baseline, points=512)["integrated_gradients"]
    table = model.get_input_embeddings().weight.detach()
    origin = (table.mean(0) if baseline is None else table[baseline]).expand(1, tokens.shape[1], -1)
    total = difference(model, table[tokens[:1]]) - difference(model, origin)
    assert scores.total == pytest.approx(total, abs=1e-4)
    assert scores.values.sum() == pytest.approx(total, abs=1e-2)


def test_more_points_are_taken_until_the_scores_add_up(model: OlmoForCausalLM, tokens: Tensor) -> None:
    few, more = (token_saliency(model, tokens[0], 5, points=points)["integrated_gradients"] for points in (2, 512))
    gaps = [abs(scores.provenance["completeness_gap"]) / np.abs(scores.values).sum() for scores in (few, more)]
    assert gaps[1] <= 1e-3 < gaps[0]
    assert "on 2 points" in few.title and "on 512 points" not in more.title


def test_where_clipping_makes_gradients_jump_the_gap_still_closes(
    make_model: Callable[..., OlmoForCausalLM], tokens: Tensor
) -> None:
    clipped = make_model("olmo", clip_qkv=0.8)
    scores = token_saliency(clipped, tokens[0], 5)["integrated_gradients"]
    assert abs(scores.provenance["completeness_gap"]) <= 5e-3 * np.abs(scores.values).sum()


def test_the_gap_is_what_is_missing(model: OlmoForCausalLM, tokens: Tensor) -> None:
    for points in (2, 16):
        for scores in token_saliency(model, tokens[0], 5, points=points).values():
            gap = scores.values.astype(np.float64).sum() - scores.total
            assert scores.provenance["completeness_gap"] == pytest.approx(gap, abs=1e-3)


def test_gradient_times_input_is_the_slope_of_shrinking_a_token(model: OlmoForCausalLM, tokens: Tensor) -> None:
    scores = token_saliency(model, tokens[0], 5, 7, points=1)["gradient_x_input"].values
    x = model.get_input_embeddings()(tokens[:1]).detach()
    for position in (0, 6, 13):
        nudged = [x.clone(), x.clone()]
        for sign, each in zip((1, -1), nudged, strict=True):
            each[:, position] *= 1 + sign * 5e-3
        slope = (difference(model, nudged[0]) - difference(model, nudged[1])) / 1e-2
        assert scores[position] == pytest.approx(slope, rel=0.02, abs=0.02)


def test_a_token_that_is_the_baseline_adds_nothing(model: OlmoForCausalLM, tokens: Tensor) -> None:
    text = tokens[0].clone()
    text[[3, 8]] = 11
    scores = token_saliency(model, text, 5, baseline=11, points=4)["integrated_gradients"].values
    assert (scores[[3, 8]] == 0).all() and np.count_nonzero(scores) == len(scores) - 2


def test_later_tokens_are_left_out(model: OlmoForCausalLM, tokens: Tensor) -> None:
    there = token_saliency(model, tokens[0], 5, position=9, points=4)
    cut = token_saliency(model, tokens[0, :10], 5, points=4)
    for name in there:
        np.testing.assert_array_equal(there[name].values, cut[name].values)


def test_points_at_once_or_one_by_one_are_the_same(
    model: OlmoForCausalLM, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = token_saliency(model, tokens[0], 5, points=8)["integrated_gradients"].values
    monkeypatch.setattr("workbench.analyses.support.memory.TOKENS", 1)
    apart = token_saliency(model, tokens[0], 5, points=8)["integrated_gradients"].values
    np.testing.assert_allclose(apart, together, atol=1e-4 * np.abs(together).max())


def test_tokens_are_named_by_their_text(model: OlmoForCausalLM, tokens: Tensor, tokenizer: object) -> None:
    named = token_saliency(model, tokens[0], "w5", "w7", baseline="w11", tokenizer=tokenizer, points=2)
    for name, scores in token_saliency(model, tokens[0], 5, 7, baseline=11, points=2).items():
        np.testing.assert_array_equal(named[name].values, scores.values)
        assert "w5 over w7" in named[name].title and named[name].names[0] == f"w{int(tokens[0, 0])}"


def test_no_gradient_is_left_behind(model: OlmoForCausalLM, tokens: Tensor) -> None:
    model.zero_grad()  # gradients from other tests, which share the model
    token_saliency(model, tokens[0], 5, points=2)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"token": "w5 w6"}, "'w5 w6' is 2 tokens"),
        ({"baseline": 99}, "no token 99"),
        ({"position": 14}, "no position 14"),
        ({"points": 0}, "points is 0"),
    ],
)
def test_what_is_not_there_is_refused(
    model: OlmoForCausalLM, tokens: Tensor, tokenizer: object, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        token_saliency(model, tokens[0], **{"token": 5, "tokenizer": tokenizer} | options)
    with pytest.raises(WorkbenchError, match="takes one text"):
        token_saliency(model, tokens, 5)
