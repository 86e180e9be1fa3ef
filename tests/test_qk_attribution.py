"""Attention scores by pairs of sources: their sum, and a source that is taken away."""

import pytest
from random_transcoders import transcoders

from hooks import edits
from workbench import WorkbenchError
from workbench.features import qk_attribution

LENGTH, LAYER, HEAD = 9, 3, 2


def score(run, query, key, layer=LAYER, head=HEAD):
    return float(run[f"blocks.{layer}.attn.scores"][0, head, query, key])


@pytest.fixture
def scored(pair, tokens):
    return pair.ours.run(tokens[:1, :LENGTH], capture=["blocks.*.attn.scores", "blocks.*.attn.pattern"])


def test_pairs_sum_to_the_score(pair, tokens, scored):
    found = qk_attribution(
        pair.ours, tokens[0, :LENGTH], LAYER, HEAD, transcoders(pair.ours, [0, 2], skip=True), query=-2, key=5
    )
    assert found.score == pytest.approx(score(scored, LENGTH - 2, 5), abs=1e-5)
    assert found.values.sum(dtype=float) == pytest.approx(found.score, abs=1e-4)
    assert found.weight == pytest.approx(float(scored[f"blocks.{LAYER}.attn.pattern"][0, HEAD, -2, 5]), abs=1e-6)


@pytest.mark.parametrize("writes", ["mlp_out", "mlp_out_raw"])
def test_pairs_sum_to_the_difference_of_two_scores(model, tokens, writes):
    run = model.run(tokens[:1, :LENGTH], capture="blocks.*.attn.scores")
    found = qk_attribution(
        model, tokens[0, :LENGTH], 1, 0, transcoders(model, [0], writes=writes), query=7, key=6, against=4
    )
    wanted = score(run, 7, 6, 1, 0) - score(run, 7, 4, 1, 0)
    assert found.values.sum(dtype=float) == pytest.approx(wanted, abs=1e-4)
    assert found.score == pytest.approx(wanted, abs=1e-5) and found.pairs()["value"].abs().is_monotonic_decreasing
    assert found.rows[0] == f"token @7 {tokens[0, 7]}" and f"− token @4 {tokens[0, 4]}" in found.columns
    assert {"L0H3 @7", "L0 error @7", "L0 decoder bias @7", "bias @7"} <= set(found.rows)
    assert any(row.startswith("L0 F") for row in found.rows)


@pytest.mark.parametrize("case", ["olmo"], indirect=True)
def test_a_row_is_what_the_score_loses_without_the_source_at_the_query(pair, tokens):
    """OLMo 1 has no norm of queries; the divisor of its norm before attention is held."""
    model, ids, query, key = pair.ours, tokens[:1, :LENGTH], 8, 3
    clean = model.run(ids, capture=["embed", f"blocks.{LAYER}.ln1.scale", "blocks.*.attn.scores", "blocks.1.mlp_out"])
    found = qk_attribution(model, ids[0], LAYER, HEAD, query=query, key=key)
    held = edits.patch(f"blocks.{LAYER}.ln1.scale", clean)
    for site, row in (("embed", found.rows[0]), ("blocks.1.mlp_out", f"L1 error @{query}")):
        less = edits.add(f"blocks.{LAYER}.resid_pre", -clean[site][0, query], positions=[query])
        run = model.run(ids, capture=f"blocks.{LAYER}.attn.scores", edits=[held, less])
        lost = score(clean, query, key) - score(run, query, key)
        assert found.values[found.rows.index(row)].sum(dtype=float) == pytest.approx(lost, abs=1e-4)


def test_the_key_of_the_largest_weight_is_taken(model, tokens):
    run = model.run(tokens[:1, :LENGTH], capture="blocks.2.attn.pattern")
    found = qk_attribution(model, tokens[0, :LENGTH], 2, 1)
    key = int(run["blocks.2.attn.pattern"][0, 1, -1].argmax())
    assert f"to {key} (" in found.title and found.columns[0].startswith(f"token @{key} ")
    assert len(found.strongest(5).rows) == 5 and found.plot().to_dict()["data"][0]["type"] == "heatmap"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": 8, "query": 3}, "cannot attend from position 3 to 8, which is after it"),
        ({"layer": 4}, "no layer 4"),
        ({"head": 9}, "no head 9"),
        ({"key": 20}, "no position 20"),
    ],
)
def test_what_cannot_be_attended_to_is_refused(model, tokens, change, said):
    with pytest.raises(WorkbenchError, match=said):
        qk_attribution(model, tokens[0, :LENGTH], **{"layer": 2, "head": 1} | change)
