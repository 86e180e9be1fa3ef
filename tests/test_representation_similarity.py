"""CKA is 1 for the same states however turned and scaled, and about 0 for unrelated ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hooks import OlmoForCausalLM
from workbench.analyses.representation_similarity import _gram, hsic, representation_similarity
from workbench.errors import WorkbenchError


def cka(x: Tensor, y: Tensor) -> float:
    a, b = (_gram(states[None, None]) for states in (x, y))
    return float(hsic(a, b) / (hsic(a, a) * hsic(b, b)).sqrt())


def test_a_layer_is_like_itself(model: OlmoForCausalLM, tokens: Tensor) -> None:
    similarity = representation_similarity(model, tokens)
    np.testing.assert_allclose(similarity.values.diagonal(), 1, atol=1e-6)
    np.testing.assert_allclose(similarity.values, similarity.values.T, atol=1e-6)
    np.testing.assert_allclose(representation_similarity(model, tokens, model).values, similarity.values, atol=1e-6)


def test_rotation_and_scale_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 8, generator=generator)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    assert cka(x, 9 * x @ rotation) == pytest.approx(1, abs=1e-5)


def test_unrelated_states_are_about_zero_where_the_biased_estimate_is_far_from_it() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [
        cka(torch.randn(40, 60, generator=generator), torch.randn(40, 60, generator=generator)) for _ in range(20)
    ]
    assert abs(np.mean(values)) < 0.03


def test_hsic_is_the_average_over_all_quadruples() -> None:
    """The definition: the mean of its U-statistic kernel over all choices of four different samples."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, generator=generator).double(), torch.randn(6, 2, generator=generator).double()
    k, m = x @ x.T, y @ y.T
    terms = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        for i in range(6)
        for j in range(6)
        for q in range(6)
        for r in range(6)
        if len({i, j, q, r}) == 4
    ]
    k, m = k - k.diag().diag(), m - m.diag().diag()
    assert float(hsic(k[None], m[None])) == pytest.approx(float(torch.stack(terms).mean()))


def test_two_models_are_compared_layer_by_layer(
    make_model: Callable[..., OlmoForCausalLM], model: OlmoForCausalLM, tokens: Tensor
) -> None:
    other = make_model("olmo2", seed=5, num_hidden_layers=2, hidden_size=16)
    similarity = representation_similarity(model, tokens, other)
    assert similarity.values.shape == (5, 3)
    assert similarity.row_name != similarity.column_name


def test_minibatches_estimate_the_same(model: OlmoForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = torch.randint(1, 99, (24, 14), generator=torch.Generator().manual_seed(0))
    whole = representation_similarity(model, texts, skip=1).values
    monkeypatch.setattr("workbench.analyses.representation_similarity.SAMPLES", 6 * 13)
    heard: list[float] = []
    streamed = representation_similarity(model, texts, skip=1, progress=lambda f, text: heard.append(f)).values
    assert len(heard) == 5
    np.testing.assert_allclose(streamed, whole, atol=0.1)


@pytest.mark.parametrize(
    ("shape", "skip", "sentence"), [((1, 3), 0, "3 tokens are too few"), ((2, 4), 4, "leave none after skipping 4")]
)
def test_too_little_text_is_refused(model: OlmoForCausalLM, shape: tuple[int, int], skip: int, sentence: str) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        representation_similarity(model, torch.ones(shape, dtype=torch.long), skip=skip)


def test_checkpoints_by_name_give_the_same_as_models(
    tmp_path: Path, make_model: Callable[..., OlmoForCausalLM], tokenizer: PreTrainedTokenizerFast, tokens: Tensor
) -> None:
    """One after the other in memory, or side by side."""
    two = [make_model("olmo", seed=seed) for seed in (1, 2)]
    for name, model in zip("ab", two, strict=True):
        model.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path)
    by_name = representation_similarity(str(tmp_path / "a"), tokens, str(tmp_path / "b"))
    side_by_side = representation_similarity(two[0], tokens, two[1])
    np.testing.assert_array_equal(by_name.values, side_by_side.values)
