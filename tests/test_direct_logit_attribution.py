"""A logit is the sum of the contributions of all parts."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM, edits
from tests.fixtures import Pair
from workbench.analyses.direct_logit_attribution import (
    by_head,
    by_layer,
    direct_logit_attribution,
    head_sources,
)
from workbench.errors import WorkbenchError

ALL_HEADS = [(layer, head) for layer in range(4) for head in range(4)]


@pytest.mark.parametrize("against", [None, 7])
@pytest.mark.parametrize("position", [-1, 4])
def test_parts_sum_to_the_logit(pair: Pair, tokens: Tensor, against: int | None, position: int) -> None:
    parts = direct_logit_attribution(pair.ours, tokens[0], 5, against, position=position)
    logits = pair.theirs(tokens[:1]).logits[0, position].detach()
    expected = float(logits[5] - (0 if against is None else logits[against]))
    assert parts.values.astype(np.float64).sum() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert parts.total == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_parts_are_named(pair: Pair, tokens: Tensor) -> None:
    names = direct_logit_attribution(pair.ours, tokens[0], 5).names
    config = pair.ours.config
    per_layer = config.num_attention_heads + 1 + config.attention_bias
    assert names[0] == "embed" and names[1] == "L0H0" and names[-1] == "L3 MLP"
    assert len(set(names)) == len(names) == 1 + per_layer * config.num_hidden_layers


def test_a_part_of_the_last_layer_is_what_the_logit_loses_with_it(model: OlmoForCausalLM, tokens: Tensor) -> None:
    """Only the final norm follows the last MLP; with its scale fixed, removing the MLP removes its contribution."""
    parts = direct_logit_attribution(model, tokens[0], 5, 7)
    scale = model.run(tokens[:1], capture="ln_final.scale")["ln_final.scale"]
    without = model.run(
        tokens[:1], edits=[edits.zero("blocks.3.mlp_out"), edits.replace("ln_final.scale", scale)]
    ).logits[0, -1]
    lost = parts.total - float(without[5] - without[7])
    assert parts.values[parts.names.index("L3 MLP")] == pytest.approx(lost, abs=1e-5)


def test_layers_and_heads_are_the_same_parts(pair: Pair, tokens: Tensor) -> None:
    parts = direct_logit_attribution(pair.ours, tokens[0], 5)
    layers, heads = by_layer(parts), by_head(parts)
    assert layers.names[:3] == ("embed", "L0 attention", "L0 MLP") and len(layers.names) == 9
    assert layers.values.sum() == pytest.approx(parts.values.sum(), abs=1e-4) and layers.total == parts.total
    assert heads.columns == ("0", "1", "2", "3", "MLP")
    for layer in range(4):
        assert heads.values[layer, 2] == parts.values[parts.names.index(f"L{layer}H2")]
        assert heads.values[layer, 4] == parts.values[parts.names.index(f"L{layer} MLP")]


def test_sources_sum_to_the_heads_part(pair: Pair, tokens: Tensor) -> None:
    parts = direct_logit_attribution(pair.ours, tokens[0], 5, 7, position=9)
    sources = head_sources(pair.ours, tokens[0], 5, 7, heads=ALL_HEADS, position=9)
    expected = [parts.values[parts.names.index(name)] for name in sources.rows]
    np.testing.assert_allclose(sources.values.sum(1), expected, atol=1e-5)
    assert (sources.values[:, 10:] == 0).all(), "later tokens should contribute nothing"


def test_tokens_are_named_by_their_text(model: OlmoForCausalLM, tokens: Tensor, tokenizer: object) -> None:
    by_text = direct_logit_attribution(model, tokens[0], "w5", "w7", tokenizer=tokenizer)
    assert by_text.total == direct_logit_attribution(model, tokens[0], 5, 7).total
    assert "w5 over that of w7" in by_text.title


@pytest.mark.parametrize(
    ("token", "options", "sentence"),
    [
        (99, {}, "no token 99; ids are 0 to 98"),
        ("w5 w6", {}, r"'w5 w6' is 2 tokens"),
        (5, {"position": 14}, "no position 14; there are 14"),
    ],
)
def test_what_is_not_there_is_refused(
    model: OlmoForCausalLM, tokens: Tensor, tokenizer: object, token: int | str, options: dict[str, int], sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        direct_logit_attribution(model, tokens[0], token, tokenizer=tokenizer, **options)
    with pytest.raises(WorkbenchError, match="no head 4"):
        head_sources(model, tokens[0], 5, heads=[(0, 4)])


def test_no_gradient_is_left_behind(model: OlmoForCausalLM, tokens: Tensor) -> None:
    direct_logit_attribution(model, tokens[0], 5)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
