"""Patching needs two prompts whose measures differ by more than rounding."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from tests.fixtures import FAMILIES
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.attribution_patching import attribution_patching
from workbench.analyses.path_patching import path_patching
from workbench.analyses.support.prompt_pairs import Contrast, contrast, measured, rounding
from workbench.errors import WorkbenchError
from workbench.results import Measures

PATCHINGS = (activation_patching, attribution_patching, path_patching)
Patching = Callable[..., Measures]


def with_twins(model: OlmoForCausalLM, difference: float) -> OlmoForCausalLM:
    """The model, with embeddings of tokens 11 and 12 that have this relative difference."""
    embeddings, generator = model.get_input_embeddings().weight, torch.Generator().manual_seed(3)
    with torch.no_grad():
        embeddings[12] = embeddings[11] * (1 + difference * torch.randn(embeddings.shape[1], generator=generator))
    return model


@pytest.fixture
def twins(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Two texts with the token 12, and the same two with 11 in its place."""
    clean, corrupted = tokens.clone(), tokens.clone()
    clean[:, [2, 7]], corrupted[:, [2, 7]] = 12, 11
    return clean, corrupted


@pytest.mark.parametrize("patching", PATCHINGS)
@pytest.mark.parametrize(
    ("family", "dtype", "difference"),
    [("olmo", "float32", 1e-7), ("olmo2", "bfloat16", 1e-3), ("olmo3", "float16", 1e-4)],
)
def test_a_difference_of_rounding_is_refused(
    make_model: Callable[..., OlmoForCausalLM],
    family: str,
    twins: tuple[Tensor, Tensor],
    patching: Patching,
    dtype: str,
    difference: float,
) -> None:
    """The message has both numbers, whose difference is below the precision of the dtype."""
    model = with_twins(make_model(family), difference).to(getattr(torch, dtype))
    with pytest.raises(WorkbenchError, match=f"too small to explain, because rounding in {dtype}") as refused:
        patching(model, *twins, 5, 7)
    clean, corrupted, limit = map(
        float,
        re.findall(r"is (\S+) after the clean and (\S+) after .* cause a difference of (\S+);", str(refused.value))[0],
    )
    assert 0 < abs(clean - corrupted) <= limit


@pytest.mark.parametrize(("family", "patching"), [*zip(FAMILIES, PATCHINGS, strict=True)])
def test_a_small_difference_is_none_of_rounding(
    make_model: Callable[..., OlmoForCausalLM], family: str, twins: tuple[Tensor, Tensor], patching: Patching
) -> None:
    """Small changes are linear, so a difference of 1/1000 gives the same result as one of 1/100. The title shows enough
    digits to tell its two ends apart."""
    small, larger = (
        patching(with_twins(make_model(family), difference), *twins, 5, 7)["logit_difference"]
        for difference in (1e-4, 1e-3)
    )
    np.testing.assert_allclose(small.values, larger.values, atol=0.05)
    zero, one = re.findall(r"0 is (\S+), 1 is (\S+)\)", small.title)[0]
    assert zero != one


@pytest.mark.parametrize(
    ("family", "dtype"), [("olmo", torch.float32), ("olmo2", torch.bfloat16), ("olmo3", torch.float16)]
)
def test_rounding_is_what_float64_shows(
    make_model: Callable[..., OlmoForCausalLM], family: str, dtype: torch.dtype
) -> None:
    """The estimated error of each measure is realistic: never far exceeded, and not always far too large."""
    model = make_model(family).to(dtype)
    texts = torch.randint(1, 99, (64, 14), generator=torch.Generator().manual_seed(1))
    logits = model.run(texts, logits_to_keep=1).logits[:, 0]
    exact = model.double().run(texts, logits_to_keep=1).logits[:, 0]
    ratios: dict[str, list[float]] = {}
    for row in range(len(texts)):
        pair = contrast(model, texts[row], texts[row].roll(1), 5, 7, -1, None)
        clean = exact[[row]].roll(1, -1).log_softmax(-1)  # a reference distribution for the divergence
        bound = uncertainty(pair, clean, logits[[row]])
        for name, value in found(pair, clean, logits[[row]]).items():
            error = abs(value - found(pair, clean, exact[[row]])[name])
            ratios.setdefault(name, []).append(error / bound[name])
    for name, ratio in ratios.items():
        assert 0.005 < np.mean(ratio) < 1 and max(ratio) < 5, name


def found(pair: Contrast, clean: Tensor, logits: Tensor) -> dict[str, float]:
    """The means of the measures over prompts of one length."""
    (pairs,) = pair.batches(10**6)
    return {
        name: value.sum().item() / len(logits) for name, value in measured(pair, pairs, clean, logits[None]).items()
    }


def uncertainty(pair: Contrast, clean: Tensor, logits: Tensor) -> dict[str, float]:
    """The estimated rounding errors of those means."""
    (pairs,) = pair.batches(10**6)
    return {name: value.item() ** 0.5 / len(logits) for name, value in rounding(pair, pairs, clean, logits).items()}


def test_errors_of_several_prompts_average_out(model: OlmoForCausalLM, tokens: Tensor) -> None:
    logits = model.run(tokens[:1], logits_to_keep=1).logits[:, 0]
    clean = logits.double().log_softmax(-1)
    one, four = (
        uncertainty(contrast(model, some, some.roll(1, 1), 5, 7, -1, None), clean.expand(n, -1), logits.expand(n, -1))
        for n, some in ((1, tokens[:1]), (4, tokens[:1].expand(4, -1)))
    )
    assert four["logit_difference"] == pytest.approx(one["logit_difference"] / 2)
