"""RankMe counts directions: one for copies of a state, all of them for orthogonal ones."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.effective_rank import effective_rank, rankme


def rank(states: Tensor) -> float:
    return float(rankme(states.double().T @ states.double(), len(states)))


def test_known_ranks() -> None:
    generator = torch.Generator().manual_seed(0)
    orthogonal = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    assert rank(torch.randn(1, 8, generator=generator).repeat(20, 1)) == pytest.approx(1, abs=1e-4)
    assert rank(orthogonal) == pytest.approx(8)
    assert rank(orthogonal[:3]) == pytest.approx(3, abs=1e-3)
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert rank(orthogonal[:3] * weights[:, None]) == pytest.approx(2**1.5, abs=1e-3)


def test_rotation_and_scale_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(30, 8, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    assert rank(7 * states @ rotation) == pytest.approx(rank(states))


def test_it_is_that_of_the_residual_stream(model: OlmoForCausalLM, tokens: Tensor) -> None:
    states = model.run(tokens, capture="blocks.1.resid_post")["blocks.1.resid_post"].flatten(0, 1)
    singular = torch.linalg.svdvals(states.double())
    share = singular / singular.sum()
    found = effective_rank(model, tokens)
    assert found.x_labels == ("embed", "0", "1", "2", "3")
    assert found.values[0, 2] == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-4)


def test_it_is_between_one_and_what_fits(model: OlmoForCausalLM, tokens: Tensor) -> None:
    values = effective_rank(model, tokens).values
    assert (values >= 1).all() and (values <= min(tokens.numel(), model.config.hidden_size)).all()


def test_texts_at_once_or_one_by_one_are_the_same(
    model: OlmoForCausalLM, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = effective_rank(model, tokens).values
    monkeypatch.setattr("workbench.analyses.effective_rank.AT_MOST", 1)
    np.testing.assert_allclose(effective_rank(model, tokens).values, together, rtol=1e-5)
