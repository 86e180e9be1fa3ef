"""Activation patching: the resumed, batched cells are those of one whole forward pass a cell."""

import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM, edits
from workbench.analyses.activation_patching import activation_patching


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out"])
def test_cells_are_those_of_whole_forward_passes(model: OlmoForCausalLM, tokens: Tensor, site: str) -> None:
    corrupted, clean = tokens[:1], tokens[:1].clone()
    clean[0, 3] = corrupted[0, 3] % 90 + 1
    grid = activation_patching(model, clean, corrupted, 5, 7, site=site)["logit_difference"]

    def difference(logits: Tensor) -> float:
        return float(logits[0, -1, 5] - logits[0, -1, 7])

    one, zero = (difference(model.run(ids).logits) for ids in (clean, corrupted))
    source = model.run(clean, capture=f"blocks.*.{site}")
    for layer in range(4):
        name = f"blocks.{layer}.{site}"
        for position in range(tokens.shape[1]):
            edit = edits.replace(name, source[name][:, [position]], positions=[position])
            expected = (difference(model.run(corrupted, edits=[edit]).logits) - zero) / (one - zero)
            assert grid.values[layer, position] == pytest.approx(expected, abs=1e-3)


def test_patching_all_that_differs_brings_the_answer_back(model: OlmoForCausalLM, tokens: Tensor) -> None:
    corrupted, clean = tokens[:1], tokens[:1].clone()
    clean[0, 3] = corrupted[0, 3] % 90 + 1
    grid = activation_patching(model, clean, corrupted, 5, 7)["logit_difference"]
    assert grid.values[0, 3] == pytest.approx(1.0, abs=1e-3)
    assert torch.from_numpy(grid.values[0, :3].copy()).abs().max() < 1e-3
