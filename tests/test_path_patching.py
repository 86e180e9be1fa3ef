"""Path patching: with all other parts frozen, the effect of a path is a sum that can be computed directly."""

import numpy as np
import pytest
from torch import Tensor

from hooks import OlmoForCausalLM, edits
from tests.fixtures import Pair
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.path_patching import path_patching
from workbench.errors import WorkbenchError

LAYERS, HEADS = 4, 4


def written_out(model: OlmoForCausalLM, clean: Tensor, corrupted: Tensor, sender: tuple[int, int]) -> Tensor:
    """What a sender's change adds directly to the residual stream: batch pos d_model. Index n_heads means the MLP."""
    layer, head = sender
    if head == HEADS:
        mlp = f"blocks.{layer}.mlp_out"
        return model.run(corrupted, capture=mlp)[mlp] - model.run(clean, capture=mlp)[mlp]
    z, out = f"blocks.{layer}.attn.z", f"blocks.{layer}.attn_out"
    other = model.run(corrupted, capture=z)[z][:, :, [head]]
    after = model.run(clean, edits=edits.replace(z, other, heads=[head]), capture=out)[out]
    return after - model.run(clean, capture=out)[out]


def share(model: OlmoForCausalLM, logits: Tensor, clean: Tensor, corrupted: Tensor) -> float:
    """A run's logit difference, normalised: 0 for the clean run, 1 for the corrupted one."""
    here, zero, one = (
        float((x[:, -1, 5] - x[:, -1, 7]).mean())
        for x in (logits, model.run(clean).logits, model.run(corrupted).logits)
    )
    return (here - zero) / (one - zero)


def close(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, abs=2e-4 * max(1.0, abs(expected)))


@pytest.mark.parametrize("case", ["olmo-mqa-clip", "olmo-bias", "olmo2-gqa-bias", "olmo3-mqa-tied"])
def test_a_frozen_path_to_the_logits_is_a_sum(pair: Pair, tokens: Tensor, other_tokens: Tensor) -> None:
    model = pair.ours
    grid = path_patching(model, tokens, other_tokens, 5, 7)["logit_difference"]
    resid = model.run(tokens, capture="blocks.3.resid_post")["blocks.3.resid_post"]
    for sender in ((0, 1), (2, 3), (3, 0), (1, HEADS), (3, HEADS)):
        changed = resid + written_out(model, tokens, other_tokens, sender)
        logits = model.lm_head(model.model.norm(changed)).detach()
        assert close(grid.values[sender], share(model, logits, tokens, other_tokens))


@pytest.mark.parametrize(("case", "letter"), [("olmo-gqa-tied", "v"), ("olmo2-gqa-bias", "q"), ("olmo3-gqa-bias", "k")])
def test_a_frozen_path_to_a_head_is_a_sum(pair: Pair, tokens: Tensor, other_tokens: Tensor, letter: str) -> None:
    model, receiver = pair.ours, (2, 3)
    group = HEADS // model.config.num_key_value_heads
    head = receiver[1] if letter == "q" else receiver[1] // group
    site = f"blocks.2.attn.{letter}"
    grid = path_patching(model, tokens, other_tokens, 5, 7, receivers=[receiver], inputs=letter)["logit_difference"]
    assert grid.values.shape == (2, HEADS + 1), "only layers before the receiver should have an effect"
    resid = model.run(tokens, capture="blocks.2.resid_pre")["blocks.2.resid_pre"]
    for sender in ((0, 0), (1, 2), (0, HEADS), (1, HEADS)):
        changed = resid + written_out(model, tokens, other_tokens, sender)
        read = model.run(resid=changed, start_at_layer=2, stop_at_layer=3, capture=site)[site][:, :, [head]]
        logits = model.run(tokens, edits=edits.replace(site, read, heads=[head])).logits
        assert close(grid.values[sender], share(model, logits, tokens, other_tokens))


def test_receivers_in_several_layers_are_changed_together(
    model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor
) -> None:
    """A sender after the first receiver affects only the later receiver."""
    both = path_patching(model, tokens, other_tokens, 5, receivers=[(1, 0), (3, 2)], inputs="kv")["logit"].values
    late = path_patching(model, tokens, other_tokens, 5, receivers=[(3, 2)], inputs="kv")["logit"].values
    np.testing.assert_array_equal(both[1:], late[1:])
    assert np.abs(both[0] - late[0]).max() > 1e-6


def test_nothing_lies_between_the_last_layer_and_the_logits(
    model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor
) -> None:
    """In the last layer, patching a head changes only the direct path and the path through its own MLP."""
    paths = path_patching(model, tokens, other_tokens, 5, 7, mlps="recomputed")["logit_difference"]
    whole = activation_patching(model, other_tokens, tokens, 5, 7, site="attn.z", by="head")["logit_difference"]
    np.testing.assert_allclose(paths.values[-1, :-1], whole.values[-1], atol=1e-6)
    assert np.abs(paths.values[0, :-1] - whole.values[0]).max() > 1e-4, "earlier heads should have indirect effects too"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"receivers": [(0, 1)]}, "receivers in layer 0 have no heads before them; leave out: L0H1"),
        ({"receivers": [(2, 0), (-4, 3)]}, "receivers in layer 0 have no heads before them; leave out: L0H3"),
        ({"receivers": [(4, 1)]}, "no layer 4"),
        ({"receivers": [(1, 4)]}, "no head 4"),
        ({"receivers": []}, "receivers is empty"),
        ({"receivers": [(1, 1)], "inputs": "qz"}, "inputs='qz'"),
        ({"mlps": "melted"}, "choices: frozen, recomputed"),
    ],
)
def test_paths_that_are_not_there_are_refused(
    model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        path_patching(model, tokens, other_tokens, 5, **options)


def test_titles_name_the_receivers(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    grid = path_patching(model, tokens, other_tokens, 5, receivers=[(2, 1), (2, -1)], inputs="kv")["kl"]
    assert "kv of L2H1, L2H3" in grid.title
    assert grid.provenance["at 0"] == pytest.approx(0, abs=1e-9) and grid.provenance["at 1"] > 0
