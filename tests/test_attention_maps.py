"""Maps equal the model's patterns; value norms are those of the vectors added to the residual stream."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from tests.fixtures import Pair
from workbench.analyses.attention_maps import attention_maps
from workbench.errors import WorkbenchError


def test_rows_sum_to_one(model: OlmoForCausalLM, tokens: Tensor) -> None:
    maps = attention_maps(model, tokens[0])
    np.testing.assert_allclose(maps.values.sum(-1), 1, atol=1e-6)


def test_maps_are_the_pattern(model: OlmoForCausalLM, tokens: Tensor) -> None:
    run = model.run(tokens[:1], capture="blocks.*.attn.pattern")
    maps = attention_maps(model, tokens[0], layers=[3, 1], heads=[2, 0], queries=[5, -1])
    assert maps.heads == ("L3H2", "L3H0", "L1H2", "L1H0")
    assert maps.queries == (5, tokens.shape[1] - 1)
    expected = torch.cat([run[f"blocks.{layer}.attn.pattern"][0, [2, 0]][:, [5, -1]] for layer in (3, 1)])
    np.testing.assert_allclose(maps.values, expected, atol=1e-6)


@pytest.mark.parametrize("weighting", ["probability", "value-norm"])
def test_a_stream_that_is_known_is_not_computed_again(model: OlmoForCausalLM, tokens: Tensor, weighting: str) -> None:
    stream = model.run(tokens[:1], stop_at_layer=2).resid
    chosen = {"layers": [3, 2], "heads": [1], "weighting": weighting}
    found, whole = (attention_maps(model, tokens[0], resid=resid, **chosen) for resid in (stream, None))
    assert np.array_equal(found.values, whole.values)
    other = attention_maps(model, tokens[0], resid=stream.flip(1), **chosen)
    assert not np.allclose(other.values, whole.values, atol=1e-3)
    with pytest.raises(ValueError, match="does not match input_ids"):
        attention_maps(model, tokens[0], resid=stream[:, 1:], **chosen)


def test_value_norms_are_those_of_what_is_added_to_the_residual_stream(pair: Pair, tokens: Tensor) -> None:
    """The first query sees one key, so the vector that this key moves is all that the head adds."""
    run = pair.ours.run(tokens[:1], capture="blocks.*.attn.result")
    maps = attention_maps(pair.ours, tokens[0], queries=[0], weighting="value-norm")
    expected = run.stack("attn.result")[:, 0, 0].norm(dim=-1).flatten()  # layer head -> row
    np.testing.assert_allclose(maps.values[:, 0, 0], expected, rtol=1e-4)


def test_value_norms_bound_what_the_head_adds(pair: Pair, tokens: Tensor) -> None:
    """Triangle inequality: the norms of the vectors moved from each key sum to at least the norm of their sum."""
    run = pair.ours.run(tokens[:1], capture="blocks.*.attn.result")
    maps = attention_maps(pair.ours, tokens[0], weighting="value-norm")
    arrived = run.stack("attn.result")[:, 0].norm(dim=-1).transpose(1, 2).flatten(0, 1)  # row query
    assert (maps.values.sum(-1) >= arrived.numpy() * (1 - 1e-4)).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": [4]}, "no layer 4; there are 4, numbered -4 … 3"),
        ({"heads": [-5]}, "no head -5"),
        ({"queries": [99]}, "no position 99; there are 14"),
        ({"queries": []}, "at least one layer, one head and one query"),
        ({"combine": "sum"}, "combine is 'sum'; choose from mean, max, or None"),
        ({"weighting": "rollout"}, "weighting is 'rollout'; choose from probability, value-norm"),
    ],
)
def test_what_is_not_there_is_refused(
    model: OlmoForCausalLM, tokens: Tensor, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        attention_maps(model, tokens[0], **options)


def test_a_batch_is_refused(model: OlmoForCausalLM, tokens: Tensor) -> None:
    with pytest.raises(WorkbenchError, match="not a batch of 2"):
        attention_maps(model, tokens)
