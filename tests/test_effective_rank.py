"""RankMe counts directions: one for copies of a state, all of them for orthogonal ones."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.effective_rank import effective_rank, rankme
from workbench.analyses.support.jackknife import jackknife_errors, text_groups
from workbench.texts import Texts


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


@pytest.mark.parametrize("count", [4, 23])  # fewer tokens than dimensions, and more
def test_errors_are_those_of_the_rank_without_groups_of_texts(
    model: OlmoForCausalLM, many_texts: Texts, count: int
) -> None:
    texts = many_texts[:count]
    groups = text_groups(count, 10)
    found = effective_rank(model, texts)
    assert (texts.tokens < model.config.hidden_size) == (count == 4) and found.texts == count
    without = [effective_rank(model, texts[groups != n], groups=0) for n in range(int(groups.max()) + 1)]
    assert without[0].errors is None
    wanted = jackknife_errors(torch.tensor(found.values), torch.tensor(np.array([w.values for w in without])), groups)
    np.testing.assert_allclose(found.errors, wanted, rtol=1e-2, atol=1e-4)
    assert effective_rank(model, texts[0]).errors is None


def test_errors_are_the_spread_of_the_rank_over_sets_of_texts(make_model: Callable[..., OlmoForCausalLM]) -> None:
    """Sets drawn alike, of texts that repeat one word of their own: few directions a text, so sets differ."""
    model, generator = make_model("olmo2", num_hidden_layers=2), torch.Generator().manual_seed(0)
    found = []
    for _ in range(25):
        words = torch.randint(1, 99, (40, 1), generator=generator)
        found.append(effective_rank(model, torch.cat([words, words, words], dim=1)))
    spread = np.std([one.values[0] for one in found], axis=0, ddof=1)
    stated = np.mean([one.errors[0] for one in found], axis=0)
    assert (0.6 * spread < stated).all() and (stated < 1.7 * spread).all()
