"""Each row is a layer's residual stream after the final norm and unembedding; the last row is the model's output."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.logit_lens import logit_lens
from workbench.analyses.token_losses import token_losses
from workbench.errors import WorkbenchError


def test_last_lens_row_is_the_model(model: OlmoForCausalLM, tokens: Tensor) -> None:
    lens = logit_lens(model, tokens[0], top_k=3)
    top = model.run(tokens[:1]).logits[0].softmax(-1).topk(3)
    for k, name in enumerate(("probability", "top_2", "top_3")):
        np.testing.assert_allclose(lens[name].values[-1], top.values[:, k], atol=1e-6)
        assert lens[name].text[-1].tolist() == [str(i) for i in top.indices[:, k].tolist()]
    np.testing.assert_allclose(lens["kl"].values[-1], 0, atol=1e-6)


def test_last_row_agrees_with_the_losses(model: OlmoForCausalLM, tokens: Tensor) -> None:
    lens, losses = logit_lens(model, tokens[0]), token_losses(model, tokens[0])
    np.testing.assert_allclose(lens["entropy"].values[-1, :-1], losses["entropy"].values[0, 1:], atol=1e-5)
    np.testing.assert_array_equal(lens["rank"].values[-1, :-1], losses["rank"].values[0, 1:])
    assert np.isnan(lens["rank"].values[:, -1]).all()


def test_a_row_is_what_the_model_says_without_the_later_layers(model: OlmoForCausalLM, tokens: Tensor) -> None:
    """Written out by hand: norm and unembedding of the residual stream after layer 1."""
    resid = model.run(tokens[:1], capture="blocks.1.resid_post")["blocks.1.resid_post"][0]
    centred = resid - resid.mean(-1, keepdim=True) if model.config.model_type == "olmo" else resid
    eps = 1e-5 if model.config.model_type == "olmo" else model.config.rms_norm_eps
    weight = getattr(model.model.norm, "weight", 1.0)
    logits = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight @ model.lm_head.weight.T
    lens = logit_lens(model, tokens[0])
    np.testing.assert_allclose(lens["probability"].values[2], logits.softmax(-1).amax(-1).detach(), atol=1e-5)
    log_p, final = logits.log_softmax(-1), model.run(tokens[:1]).logits[0].log_softmax(-1)
    np.testing.assert_allclose(lens["kl"].values[2], (final.exp() * (final - log_p)).sum(-1).detach(), atol=1e-4)


def test_divergence_is_not_negative_and_candidates_are_in_order(model: OlmoForCausalLM, tokens: Tensor) -> None:
    lens = logit_lens(model, tokens[0])
    assert (lens["kl"].values > -1e-5).all()
    ordered = np.stack([lens[name].values for name in ("probability", "top_2", "top_3", "top_4", "top_5")])
    assert (np.diff(ordered, axis=0) <= 0).all()
    assert ordered.sum(0).max() <= 1 + 1e-6


def test_chunks_change_nothing(model: OlmoForCausalLM, tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = logit_lens(model, tokens[0]).table()
    monkeypatch.setattr("workbench.analyses.logit_lens.CHUNK", 300)
    chunked = logit_lens(model, tokens[0]).table()
    np.testing.assert_allclose(whole.select_dtypes("number"), chunked.select_dtypes("number"), atol=1e-5)


def test_texts_are_in_the_table(model: OlmoForCausalLM, tokens: Tensor, tokenizer: object) -> None:
    table = logit_lens(model, tokens[0], top_k=2, tokenizer=tokenizer).table()
    assert {"probability_text", "top_2_text", "entropy", "kl", "rank"} <= set(table)
    assert table.probability_text.str.match(r"w\d+|pad").all()


@pytest.mark.parametrize("top_k", [0, 100])
def test_more_candidates_than_tokens_are_refused(model: OlmoForCausalLM, tokens: Tensor, top_k: int) -> None:
    with pytest.raises(WorkbenchError, match=f"top_k is {top_k}; choose from 1 to 99"):
        logit_lens(model, tokens[0], top_k=top_k)


def test_the_model_is_left_as_it_was(model: OlmoForCausalLM, tokens: Tensor) -> None:
    before = model.run(tokens).logits
    logit_lens(model, tokens[0])
    assert torch.equal(before, model.run(tokens).logits)


def test_a_stream_that_overflows_is_refused_with_its_layer(make_model, tokens):
    model = make_model("olmo")
    model.model.layers[1].mlp.down_proj.weight.data.fill_(3e38)
    with pytest.raises(WorkbenchError, match=r"after layer 1 is NaN or infinite on this text: .* overflows"):
        logit_lens(model, tokens[:1])
