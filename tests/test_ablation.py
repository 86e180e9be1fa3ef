"""Ablation: every cell is a run in which one part is replaced."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM, edits
from tests.fixtures import FAMILIES, ONE_FAMILY
from workbench.analyses.ablation import METHODS, ablation
from workbench.errors import WorkbenchError

LAYERS, HEADS, TARGET, POSITION = 4, 4, 5, 9
EACH_METHOD = pytest.mark.parametrize(("family", "method"), [*zip(FAMILIES, METHODS, strict=True)])
"""Every method and every family: what replaces a part does not depend on the family."""


def replacement(model: OlmoForCausalLM, tokens: Tensor, site: str, method: str) -> Tensor:
    """The replacement of a part, computed directly for two texts, each resampled from the other."""
    x = model.run(tokens, capture=site)[site]
    return {"zero": torch.zeros_like(x), "mean": x.mean((0, 1), keepdim=True), "resample": x.flip(0)}[method]


def outcomes(logits: Tensor, tokens: Tensor) -> tuple[float, float]:
    """The mean loss of all tokens but the first, and the target's mean log-probability."""
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    return float(loss), float(logits[:, POSITION].log_softmax(-1)[:, TARGET].mean())


@EACH_METHOD
def test_every_cell_is_a_run_with_one_part_replaced(model: OlmoForCausalLM, tokens: Tensor, method: str) -> None:
    grids = ablation(model, tokens, TARGET, method=method, position=POSITION)
    before = outcomes(model.run(tokens).logits, tokens)
    for layer in range(LAYERS):
        z, mlp = f"blocks.{layer}.attn.z", f"blocks.{layer}.mlp_out"
        heads = replacement(model, tokens, z, method)
        cells = [edits.replace(z, heads[:, :, [head]], heads=[head]) for head in range(HEADS)]
        cells.append(edits.replace(mlp, replacement(model, tokens, mlp, method)))
        for part, edit in enumerate(cells):
            after = outcomes(model.run(tokens, edits=edit).logits, tokens)
            for name, old, new in zip(("loss", "log_probability"), before, after, strict=True):
                assert grids[name].values[layer, part] == pytest.approx(new - old, abs=1e-4), (name, layer, part)


@EACH_METHOD
def test_texts_at_once_or_one_by_one_are_the_same(
    model: OlmoForCausalLM, tokens: Tensor, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = ablation(model, tokens, TARGET, method=method)
    monkeypatch.setattr("workbench.analyses.support.memory.TOKENS", 1)
    apart = ablation(model, tokens, TARGET, method=method)
    for name, grid in together.items():
        np.testing.assert_allclose(apart[name].values, grid.values, atol=1e-4)


def test_only_scored_tokens_count(model: OlmoForCausalLM, tokens: Tensor) -> None:
    """The loss of all tokens is the mean of the losses of two halves; the first token, not predicted, is in neither."""
    first = torch.zeros_like(tokens, dtype=torch.bool)
    first[:, :7] = True
    halves = [ablation(model, tokens, method="zero", scored=mask)["loss"].values for mask in (first, ~first)]
    whole = ablation(model, tokens, method="zero")["loss"].values
    np.testing.assert_allclose((6 * halves[0] + 7 * halves[1]) / 13, whole, atol=1e-5)
    assert np.abs(halves[0] - halves[1]).max() > 1e-3


def test_a_text_resampled_from_itself_is_itself(model: OlmoForCausalLM, tokens: Tensor) -> None:
    grid = ablation(model, tokens[:1], method="resample", reference=tokens[:1])["loss"]
    assert np.abs(grid.values).max() < 1e-5


def test_means_are_those_of_the_reference(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    grid = ablation(model, tokens, method="mean", reference=other_tokens[:, :9])["loss"]
    site = "blocks.2.mlp_out"
    mean = replacement(model, other_tokens[:, :9], site, "mean")
    after, before = (model.run(tokens, edits=edit).logits for edit in (edits.replace(site, mean), ()))
    change = outcomes(after, tokens)[0] - outcomes(before, tokens)[0]
    assert grid.values[2, -1] == pytest.approx(change, abs=1e-5)


@ONE_FAMILY
def test_the_seed_decides(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    texts = torch.cat([tokens, other_tokens, tokens.flip(1), other_tokens.flip(1)])
    first, again, other = (ablation(model, texts, method="resample", seed=seed)["loss"].values for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@ONE_FAMILY
def test_draws_are_averaged(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    """Each draw uses one random reference text; the result is the mean over draws, with its standard error."""
    options = {"method": "resample", "reference": other_tokens}
    grids = ablation(model, tokens[:1], TARGET, draws=5, seed=3, **options)
    outcomes = [
        ablation(model, tokens[:1], TARGET, draws=1, **options | {"reference": text}) for text in other_tokens.split(1)
    ]
    assert np.array_equal(grids["surprisal"].values, -grids["log_probability"].values)
    for name in ("loss", "log_probability", "surprisal"):
        one, other = (outcome[name].values for outcome in outcomes)
        drawn = (grids[name].values - other) / (one - other)  # the fraction of draws of the first text, in every cell
        share = np.round(5 * np.median(drawn)) / 5
        assert 0 < share < 1, "with this seed, both texts should be drawn"
        np.testing.assert_allclose(grids[name].values, share * one + (1 - share) * other, atol=1e-5)
        spread = np.abs(one - other) * np.sqrt(share * (1 - share) / 4)
        np.testing.assert_allclose(grids[f"{name}_error"].values, spread, atol=1e-5)


@ONE_FAMILY
def test_parts_and_targets_are_named(model: OlmoForCausalLM, tokens: Tensor, tokenizer: object) -> None:
    grids = ablation(model, tokens, "w5", tokenizer=tokenizer)
    assert grids["loss"].columns == ("0", "1", "2", "3", "MLP")
    assert "w5" in grids["log_probability"].title
    assert list(ablation(model, tokens)) == ["loss"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "melt"}, "no method 'melt'; choices: zero, mean, resample"),
        ({"tokens": torch.tensor([[3, 4, 5]]), "method": "resample"}, "no other text to resample from"),
        ({"reference": torch.tensor([[3, 4, 5]]), "method": "resample"}, "3 to 14 tokens cannot be resampled"),
        ({"method": "resample", "draws": 0}, "draws is 0"),
        ({"tokens": torch.tensor([3])}, "needs at least 2"),
        ({"scored": torch.zeros(2, 14, dtype=torch.bool)}, "no token to score"),
        ({"scored": torch.ones(2, 14)}, "should be a boolean mask"),
        ({"token": 99}, "no token 99"),
        ({"position": 14}, "no position 14"),
    ],
)
def test_what_cannot_be_ablated_is_refused(
    model: OlmoForCausalLM, tokens: Tensor, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        ablation(model, **{"tokens": tokens} | options)


@ONE_FAMILY
def test_progress_rises_to_one(model: OlmoForCausalLM, tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.analyses.support.memory.TOKENS", 1)
    heard: list[float] = []
    ablation(model, tokens, progress=lambda fraction, text: heard.append(fraction))
    assert heard == sorted(heard) and heard[0] == 0 and heard[-1] == 1
