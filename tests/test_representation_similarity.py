"""CKA is 1 for equal states up to rotation and scale, and about 0 for unrelated ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hooks import OlmoForCausalLM
from workbench.analyses.representation_similarity import hsic, hsic_and_without, representation_similarity
from workbench.analyses.support.jackknife import jackknife_errors, text_groups
from workbench.errors import WorkbenchError
from workbench.texts import Texts


def gram(states: Tensor) -> Tensor:
    """Dot products of all samples' states, float64, zero on the diagonal: layer sample d_model ->
    layer sample sample."""
    products = states.double() @ states.double().mT
    products.diagonal(dim1=1, dim2=2).zero_()
    return products


def cka(x: Tensor, y: Tensor) -> Tensor:
    """The formula of the docstring, on all samples at once: layer sample d_model each -> layer layer."""
    a, b = gram(x), gram(y)
    return hsic(a, b) / (hsic(a, a).diagonal()[:, None] * hsic(b, b).diagonal()).sqrt()


def stated(one: OlmoForCausalLM, other: OlmoForCausalLM, texts: Tensor) -> np.ndarray:
    """The formula of the docstring for every two layers: layer layer."""
    names = ["embed", *(f"blocks.{layer}.resid_post" for layer in range(one.config.num_hidden_layers))]
    runs = [model.run(texts, capture=names) for model in (one, other)]
    return cka(*(torch.stack([run[name].flatten(0, 1) for name in names]) for run in runs)).numpy()


def test_a_layer_is_like_itself(model: OlmoForCausalLM, tokens: Tensor) -> None:
    similarity = representation_similarity(model, tokens)
    np.testing.assert_allclose(similarity.values.diagonal(), 1, atol=1e-6)
    np.testing.assert_allclose(similarity.values, similarity.values.T, atol=1e-6)
    np.testing.assert_allclose(representation_similarity(model, tokens, model).values, similarity.values, atol=1e-6)


def test_rotation_and_scale_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 8, generator=generator)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    assert cka(x[None], 9 * (x @ rotation)[None]).item() == pytest.approx(1, abs=1e-5)


def test_unrelated_states_are_about_zero_where_the_biased_estimate_is_far_from_it() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [cka(*torch.randn(2, 1, 40, 60, generator=generator)).item() for _ in range(20)]
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


TOPICS, TEXTS, LENGTH = 4, 24, 60
ONE_FAMILY = pytest.mark.parametrize("family", ["olmo2"])
"""For a test of what follows once the hidden states are there; the tests of fewer tokens are of all families."""


@pytest.fixture
def sorted_texts() -> Tensor:
    """1,440 tokens, more than are compared at a time; each text has one of four sets of words, topic by topic."""
    words = torch.randint(24, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(0))
    return 1 + words + 24 * torch.arange(TOPICS).repeat_interleave(TEXTS // TOPICS)[:, None]


@ONE_FAMILY
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_many_tokens_are_compared_as_if_all_at_once(
    make_model: Callable[..., OlmoForCausalLM], family: str, sorted_texts: Tensor, scale: float
) -> None:
    """For any order of the texts, and with hidden states that are larger in some texts than in others."""
    two = [make_model(family, seed=seed) for seed in (1, 2)]
    for model in two:
        with torch.no_grad():  # each topic's words are `scale` times as large as those of the topic before
            model.get_input_embeddings().weight[1:97] *= scale ** torch.arange(TOPICS).repeat_interleave(24)[:, None]
    np.testing.assert_allclose(
        representation_similarity(two[0], sorted_texts).values, stated(two[0], two[0], sorted_texts), atol=0.01
    )
    np.testing.assert_allclose(
        representation_similarity(two[0], sorted_texts, two[1]).values, stated(*two, sorted_texts), atol=0.01
    )


def test_up_to_a_thousand_tokens_it_is_exact(model: OlmoForCausalLM, sorted_texts: Tensor) -> None:
    texts = sorted_texts[::2]
    assert texts.numel() <= 1024
    np.testing.assert_allclose(representation_similarity(model, texts).values, stated(model, model, texts), atol=1e-6)


@ONE_FAMILY
def test_the_seed_decides_the_minibatches(model: OlmoForCausalLM, sorted_texts: Tensor) -> None:
    first, again, other = (representation_similarity(model, sorted_texts, seed=seed).values for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 0 < np.abs(first - other).max() < 0.01


@ONE_FAMILY
def test_both_models_are_compared_at_the_same_tokens(model: OlmoForCausalLM, sorted_texts: Tensor) -> None:
    """For models by name, see `test_checkpoints_by_name_give_the_same_as_models`."""
    similarity = representation_similarity(model, sorted_texts, model, seed=3).values
    np.testing.assert_allclose(similarity.diagonal(), 1, atol=1e-6)


@ONE_FAMILY
def test_a_sample_stands_for_what_does_not_fit(
    model: OlmoForCausalLM, sorted_texts: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.analyses.representation_similarity.HELD", 1200 * 4 * 5 * 32)
    seen: list[int] = []
    monkeypatch.setattr(
        "workbench.analyses.representation_similarity.hsic_and_without",
        lambda x, *others: (seen.append(x.shape[-1]), hsic_and_without(x, *others))[1],
    )
    similarity = representation_similarity(model, sorted_texts).values
    assert seen == [600] * 6
    np.testing.assert_allclose(similarity, stated(model, model, sorted_texts), atol=0.05)


def test_a_layer_that_never_changes_is_undefined(model: OlmoForCausalLM) -> None:
    similarity = representation_similarity(model, torch.full((2, 9), 7)).values
    assert np.isnan(similarity[0]).all()


@ONE_FAMILY
def test_progress_counts_texts_and_comparisons(model: OlmoForCausalLM, sorted_texts: Tensor) -> None:
    heard: list[str] = []
    representation_similarity(model, sorted_texts, progress=lambda fraction, text: heard.append(text))
    assert heard.count("running the texts") == 3 and heard.count("similarity of representations") == 3


@pytest.mark.parametrize(
    ("shape", "skip", "sentence"),
    [((1, 3), 0, "3 tokens are too few"), ((2, 4), 4, "have none left")],
)
def test_too_little_text_is_refused(model: OlmoForCausalLM, shape: tuple[int, int], skip: int, sentence: str) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        representation_similarity(model, torch.ones(shape, dtype=torch.long), skip=skip)


def test_checkpoints_by_name_give_the_same_as_models(
    tmp_path: Path,
    make_model: Callable[..., OlmoForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    sorted_texts: Tensor,
) -> None:
    """The two models are in memory one after the other, or together."""
    two = [make_model("olmo", seed=seed) for seed in (1, 2)]
    for name, model in zip("ab", two, strict=True):
        model.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path)
    by_name = representation_similarity(str(tmp_path / "a"), sorted_texts, str(tmp_path / "b"))
    side_by_side = representation_similarity(two[0], sorted_texts, two[1])
    np.testing.assert_array_equal(by_name.values, side_by_side.values)


@ONE_FAMILY
def test_errors_are_those_of_the_similarity_without_groups_of_texts(
    make_model: Callable[..., OlmoForCausalLM], model: OlmoForCausalLM, many_texts: Texts
) -> None:
    """Up to a thousand tokens, where the similarity is exact; of one model and of two of different depth."""
    for other in (None, make_model("olmo2", seed=5, num_hidden_layers=2, hidden_size=16)):
        groups = text_groups(len(many_texts), 10)
        rests = [many_texts[groups != group] for group in range(10)]
        without = np.array([representation_similarity(model, rest, other).values for rest in rests])
        found = representation_similarity(model, many_texts, other)
        wanted = jackknife_errors(torch.tensor(found.values), torch.tensor(without), groups).numpy()
        np.testing.assert_allclose(found.errors, wanted, rtol=1e-3, atol=1e-5)
        assert found.texts == 23 and found.errors.max() > 0.001
    assert representation_similarity(model, many_texts[0]).errors is None


@ONE_FAMILY
def test_a_layer_is_like_itself_without_error(model: OlmoForCausalLM, sorted_texts: Tensor) -> None:
    found = representation_similarity(model, sorted_texts)
    np.testing.assert_allclose(found.errors.diagonal(), 0, atol=1e-6)
    assert (found.errors[np.triu_indices(len(found.errors), 1)] > 0).all()
