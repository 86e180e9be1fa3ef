"""Head scores: hand-built heads score as constructed, random heads as their patterns give."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.head_atlas import SPAN, head_atlas, induction_scores, repeated_spans
from workbench.errors import WorkbenchError

LAYER, HEAD, SHARP = 1, 2, 300.0
FULL = {"olmo3": {"layer_types": ["full_attention"] * 4}}


def look_back(model: OlmoForCausalLM, distance: int) -> None:
    """Make one head attend to the token `distance` before the query, by rotary position alone.

    With k = (1, …, 1, 0, …, 0) and q the same turned by the angles of `distance` steps backwards, the score of a key d
    steps back is Σ cos(θ (d − distance)).
    """
    attention = model.model.layers[LAYER].self_attn
    angles = model.model.rotary_emb["full_attention"].inv_freq * distance
    half, width = len(angles), attention.head_dim
    place = slice(HEAD * width, HEAD * width + width)
    query = torch.cat([angles.cos(), -angles.sin()])
    key = torch.cat([torch.ones(half), torch.zeros(half)])
    with torch.no_grad():
        for projection, norm, vector in (
            (attention.q_proj, attention.q_norm, SHARP * query),
            (attention.k_proj, attention.k_norm, SHARP * key),
        ):
            projection.weight[place] = 0
            projection.bias[place] = vector
            if norm is not None:
                norm.weight[place] = SHARP


@pytest.mark.parametrize(("distance", "measure"), [(1, "previous"), (0, "self")])
def test_a_hand_built_head_scores_one(
    make_model: Callable[..., OlmoForCausalLM], family: str, tokens: Tensor, distance: int, measure: str
) -> None:
    model = make_model(family, attention_bias=True, **FULL.get(family, {}))
    look_back(model, distance)
    best = head_atlas(model, tokens, samples=0).rank(measure).iloc[0]
    assert (best.layer, best["head"]) == (LAYER, HEAD)
    assert best[measure] == pytest.approx(1, abs=1e-3)
    assert best.distance == pytest.approx(distance, abs=1e-2)
    assert best.entropy == pytest.approx(0, abs=1e-2)


def test_measures_are_means_over_the_pattern(model: OlmoForCausalLM, tokens: Tensor) -> None:
    repeated = torch.cat([tokens, tokens[:, :5]], dim=1)
    pattern = model.run(repeated, capture="blocks.*.attn.pattern").stack("attn.pattern")[..., 1:, :].double()
    atlas = head_atlas(model, repeated, samples=0)
    position = torch.arange(repeated.shape[1])
    same = (repeated[:, 1:, None] == repeated[:, None]) & (position < position[1:, None])  # batch query key
    on_copies = (pattern * same[None, :, None]).sum(-1)  # layer batch head query
    has_copy = same.any(-1)[None, :, None].expand_as(on_copies)
    expected = {
        "entropy": torch.special.entr(pattern).sum(-1).mean(dim=(1, 3)),
        "first": pattern[..., 0].mean(dim=(1, 3)),
        "distance": (pattern * (position[1:, None] - position)).sum(-1).mean(dim=(1, 3)),
        "duplicate": (on_copies * has_copy).sum(dim=(1, 3)) / has_copy.sum(dim=(1, 3)),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(atlas[name].values, values, atol=1e-5, err_msg=name)


def test_texts_at_once_or_one_by_one_are_the_same(
    model: OlmoForCausalLM, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = head_atlas(model, tokens, samples=3).table()
    monkeypatch.setattr("workbench.analyses.support.memory.TOKENS", 1)
    apart = head_atlas(model, tokens, samples=3).table()
    np.testing.assert_allclose(together.select_dtypes("number"), apart.select_dtypes("number"), atol=1e-5)


def test_repeated_spans_point_after_the_first_copy() -> None:
    rows, targets = repeated_spans(vocab_size=99, samples=50, seed=0)
    assert rows.shape == targets.shape
    for row, target in zip(rows.tolist(), targets.tolist(), strict=True):
        queries = [q for q, key in enumerate(target) if key >= 0]
        assert len(queries) == SPAN - 1
        for query in queries:
            assert row.index(row[query]) == target[query] - 1 < query
            assert row[query + 1] == row[target[query]]
        assert len(set(row)) == len(row) - SPAN
    distances = {
        int(q - t) for q, t in zip(*(x[targets >= 0] for x in (torch.arange(64).expand(50, -1), targets)), strict=True)
    }
    assert len(distances) > 10, "the position of the first copy should vary"


def test_a_perfect_induction_head_scores_one(model: OlmoForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock model with a perfect induction pattern, so that only the score is tested."""

    def run(batch: Tensor, capture: object, captures_only: bool) -> object:
        pattern = torch.zeros(len(batch), 1, batch.shape[1], batch.shape[1])
        for n, row in enumerate(batch.tolist()):
            for query, token in enumerate(row):
                first = row.index(token)
                pattern[n, 0, query, first + 1 if first < query else 0] = 1
        positions = torch.arange(batch.shape[1])
        statistics = capture.reduce(pattern, positions, positions)
        return type("Run", (), {"stack": lambda self, name: statistics[None]})()

    monkeypatch.setattr(model, "run", run, raising=False)
    assert (induction_scores(model, samples=4, seed=0) == 1).all()


def test_chance_is_what_a_random_model_scores(model: OlmoForCausalLM, tokens: Tensor) -> None:
    atlas = head_atlas(model, tokens, samples=24)
    sees_the_first_copy = [layer for layer, kind in enumerate(model.model.kinds) if kind == "full_attention"]
    assert (atlas["induction_error"].values[sees_the_first_copy] > 0).all()
    assert atlas["induction"].values.max() < 0.15


def test_the_seed_decides(model: OlmoForCausalLM) -> None:
    first, again, other = (induction_scores(model, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_entropy_is_at_most_that_of_equal_weights(model: OlmoForCausalLM, tokens: Tensor) -> None:
    assert (head_atlas(model, tokens, samples=0)["entropy"].values <= math.log(tokens.shape[1])).all()


def test_cancelling_stops_the_run_with_its_own_exception(model: OlmoForCausalLM, tokens: Tensor) -> None:
    class Cancelled(Exception):
        pass

    def cancel(fraction: float, text: str) -> None:
        if fraction >= 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        head_atlas(model, tokens, progress=cancel)


def test_progress_rises_to_one(model: OlmoForCausalLM, tokens: Tensor) -> None:
    heard: list[float] = []
    head_atlas(model, tokens, samples=2, progress=lambda fraction, text: heard.append(fraction))
    assert heard == sorted(heard) and heard[0] == 0 and heard[-1] == 1


def test_too_little_is_refused(
    model: OlmoForCausalLM, tokens: Tensor, make_model: Callable[..., OlmoForCausalLM]
) -> None:
    with pytest.raises(WorkbenchError, match="at least 2"):
        head_atlas(model, tokens[0, :1])
    with pytest.raises(WorkbenchError, match="samples is 1"):
        head_atlas(model, tokens, samples=1)
    with pytest.raises(WorkbenchError, match="vocabulary of 20 is too small to draw 48"):
        head_atlas(make_model("olmo", vocab_size=20), tokens % 20)
