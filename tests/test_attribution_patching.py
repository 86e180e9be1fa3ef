"""Attribution patching: the limit of activation patching for small changes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.attribution_patching import agreement, attribution_patching
from workbench.errors import WorkbenchError


def nearly_alike(make_model: Callable[..., OlmoForCausalLM], family: str) -> OlmoForCausalLM:
    """A model in which the tokens 11 and 12 have nearly the same embedding."""
    model = make_model(family)
    embeddings, generator = model.get_input_embeddings().weight, torch.Generator().manual_seed(3)
    with torch.no_grad():
        embeddings[12] = embeddings[11] + 1e-3 * torch.randn(embeddings.shape[1], generator=generator)
    return model


@pytest.mark.parametrize(
    ("family", "site", "by"),
    [
        ("olmo", "resid_pre", "position"),
        ("olmo2", "mlp_out", "position"),
        ("olmo3", "attn.z", "head"),
        ("olmo", "attn.v", "head"),
        ("olmo3", "attn.scores", "head"),
    ],
)
def test_small_changes_are_linear(
    make_model: Callable[..., OlmoForCausalLM], family: str, tokens: Tensor, site: str, by: str
) -> None:
    model = nearly_alike(make_model, family)
    clean, corrupted = tokens.clone(), tokens.clone()
    clean[:, [2, 7]], corrupted[:, [2, 7]] = 12, 11
    exact, estimate = (
        patching(model, clean, corrupted, 5, 7, site=site, by=by)
        for patching in (activation_patching, attribution_patching)
    )
    correlations = agreement(exact, estimate)
    for name, correlation in zip(exact, correlations.values, strict=True):
        if name != "kl":  # this measure is not linear near the clean run
            assert correlation > 0.9999, name
            np.testing.assert_allclose(estimate[name].values, exact[name].values, atol=0.02)


def test_it_names_what_activation_patching_names(
    model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor, tokenizer: object
) -> None:
    options = {"site": "attn_out", "position": 9, "tokenizer": tokenizer}
    exact, estimate = (
        patching(model, tokens, other_tokens, "w5", **options)
        for patching in (activation_patching, attribution_patching)
    )
    for name, grid in exact.items():
        assert (estimate[name].rows, estimate[name].columns) == (grid.rows, grid.columns)
        assert estimate[name].provenance == pytest.approx(dict(grid.provenance), rel=1e-4)


def test_frozen_weights_are_no_obstacle(
    make_model: Callable[..., OlmoForCausalLM], tokens: Tensor, other_tokens: Tensor
) -> None:
    model = make_model("olmo2")
    free = attribution_patching(model, tokens, other_tokens, 5)["logit"].values
    model.requires_grad_(False)
    frozen = attribution_patching(model, tokens, other_tokens, 5)["logit"].values
    np.testing.assert_allclose(frozen, free, atol=1e-4 * np.abs(free).max())


def test_no_gradient_is_left_behind(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    model.zero_grad()  # the model is shared with other tests, which compute gradients
    attribution_patching(model, tokens, other_tokens, 5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_agreement_is_a_correlation(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    exact = activation_patching(model, tokens, other_tokens, 5)
    assert agreement(exact, exact).values == pytest.approx([1, 1, 1])
    by_head = activation_patching(model, tokens, other_tokens, 5, site="attn.z", by="head")
    with pytest.raises(WorkbenchError, match="do not have the same cells"):
        agreement(exact, by_head)
