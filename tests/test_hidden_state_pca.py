"""Components are the directions of largest variance, with their shares of it."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.hidden_state_pca import hidden_state_pca, principal_components
from workbench.analyses.support.jackknife import jackknife_errors, text_groups
from workbench.errors import WorkbenchError
from workbench.texts import Texts


def test_components_are_those_of_scikit_learn(model: OlmoForCausalLM, tokens: Tensor) -> None:
    states = model.run(tokens, capture="blocks.2.resid_post")["blocks.2.resid_post"].flatten(0, 1)
    theirs = PCA(3, svd_solver="full").fit(states)
    points = hidden_state_pca(model, tokens, 2, components=3)
    np.testing.assert_allclose(np.abs(points.values), np.abs(theirs.transform(states)), atol=1e-3)
    pairs = zip(theirs.explained_variance_ratio_, points.share_errors, strict=True)
    assert points.axes == tuple(f"PC{n} ({s:.1%} ± {e:.1%} over 2 texts)" for n, (s, e) in enumerate(pairs, 1))
    np.testing.assert_allclose(points.shares, theirs.explained_variance_ratio_, atol=1e-5)


def test_errors_of_shares_are_those_of_the_components_without_groups_of_texts(
    model: OlmoForCausalLM, many_texts: Texts
) -> None:
    groups = text_groups(len(many_texts), 10)
    rests = [many_texts[groups != group] for group in range(10)]
    without = [hidden_state_pca(model, rest, 2, skip=1).shares for rest in rests]
    found = hidden_state_pca(model, many_texts, 2, skip=1)
    wanted = jackknife_errors(torch.tensor(found.shares), torch.tensor(np.array(without)), groups)
    np.testing.assert_allclose(found.share_errors, wanted, rtol=1e-3)
    assert found.texts == 23 and f"± {wanted[0]:.1%} over 23 texts" in found.axes[0]
    alone = hidden_state_pca(model, many_texts[0], 2)
    assert alone.share_errors is None and "±" not in alone.axes[0]


def test_all_components_hold_all_variance() -> None:
    states = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    points, shares = principal_components(states, 5)
    assert float(shares.sum()) == pytest.approx(1)
    assert (shares.diff() <= 0).all()
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(states.double(), states.double()))


def test_signs_do_not_depend_on_the_order_of_the_samples() -> None:
    states = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    points, _ = principal_components(states, 2)
    backwards, _ = principal_components(states.flip(0), 2)
    torch.testing.assert_close(backwards.flip(0), points)


def test_points_are_named_and_skipped(model: OlmoForCausalLM, tokens: Tensor, tokenizer: object) -> None:
    points = hidden_state_pca(model, tokens, -1, skip=2, tokenizer=tokenizer)
    assert points.names[0] == f"w{tokens[0, 2]}"
    assert len(points.names) == tokens.numel() - 4
    assert points.colour[0] == 2 and points.colour.max() == tokens.shape[1] - 1


@pytest.mark.parametrize(
    ("layer", "options", "sentence"),
    [
        (4, {}, "no layer 4"),
        (0, {"components": 4}, "components is 4; it should be 2 or 3"),
        (0, {"skip": 13}, "2 tokens are left after skipping 13 of each text"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    model: OlmoForCausalLM, tokens: Tensor, layer: int, options: dict[str, int], sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        hidden_state_pca(model, tokens, layer, **options)
