"""Composition and circuits of heads, against the whole matrices and against runs."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench import checkpoints, metrics
from workbench.analyses.head_circuits import copying_scores, head_circuits, read_embeddings, unembedding
from workbench.analyses.head_composition import head_composition
from workbench.analyses.support.head_matrices import head_matrices
from workbench.analyses.trajectory import trajectory
from workbench.errors import WorkbenchError


def test_scores_are_those_of_the_whole_matrices(model: OlmoForCausalLM) -> None:
    found = head_composition(model, samples=2)
    heads = model.config.num_attention_heads
    writer, reader = head_matrices(model, 0).ov.product()[1], head_matrices(model, 2)
    qk, ov = reader.qk.product()[2], reader.ov.product()[2]
    for kind, read in (("q", qk), ("k", qk.T), ("v", ov)):
        score = (writer @ read).norm() / (writer.norm() * read.norm())
        assert found[kind].values[1, heads + 2] == pytest.approx(float(score), rel=1e-4)


def test_readers_are_in_later_layers(model: OlmoForCausalLM) -> None:
    found = head_composition(model, samples=2)["k"]
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    writes, reads = np.repeat(np.arange(layers - 1), heads), np.repeat(np.arange(1, layers), heads)
    assert (np.isfinite(found.values) == (writes[:, None] < reads)).all()
    assert found.rows[0] == "L0H0" and found.columns[-1] == f"L{layers - 1}H{heads - 1}"
    assert (found.values[np.isfinite(found.values)] <= 1 + 1e-5).all()


def test_random_matrices_are_at_their_floor_and_a_wired_pair_is_above(make_model) -> None:
    model = make_model("olmo", hidden_size=64)
    before = head_composition(model, distance=1)["k"]
    floor = before.provenance
    assert np.nanmean(before.values) == pytest.approx(floor["random_mean"], rel=0.1)
    width = model.model.layers[0].self_attn.head_dim
    writes = model.W_O[0, 1]  # d_head d_model
    model.model.layers[2].self_attn.k_proj.weight.data[:width] = writes  # the keys of head 0 read what L0H1 writes
    after = head_composition(model)["k"]
    best = after.rank().iloc[0]
    assert (best.iloc[2], best.iloc[3]) == ("L0H1", "L2H0")
    assert best["value"] > floor["random_highest"] > floor["random_mean"] + floor["random_deviation"]


def test_scores_in_the_first_layer_are_those_of_a_run(model: OlmoForCausalLM) -> None:
    distance, token, key = 3, 7, 11
    ids = torch.tensor([[key, 1, 2, token]])
    scores = model.run(ids, capture="blocks.0.attn.scores")["blocks.0.attn.scores"][0, 1, 3, 0]
    all_keys = head_circuits(model, 0, 1, token, distance=distance, top=model.config.vocab_size)
    ranked = {text: value for text, value in zip(all_keys.text[:, 2], all_keys.values[:, 2], strict=True)}
    assert ranked[str(key)] == pytest.approx(float(scores), abs=1e-4)
    of_key = head_circuits(model, 0, 1, key, distance=distance, top=model.config.vocab_size)
    ranked = {text: value for text, value in zip(of_key.text[:, 4], of_key.values[:, 4], strict=True)}
    assert ranked[str(token)] == pytest.approx(float(scores), abs=1e-4)


def test_what_a_head_writes_is_its_output_in_a_run(model: OlmoForCausalLM) -> None:
    token, head = 7, 2
    run = model.run(
        torch.tensor([[token]]), capture=["blocks.0.attn.result", "blocks.0.ln1.scale"]
    )  # attends to itself
    result = run["blocks.0.attn.result"][0, 0, head]
    if not model.model.blocks[0].norm_first:
        result = result * run["blocks.0.ln1.scale"][0, 0]
    found = head_circuits(model, 0, head, token, top=5)
    logits = result @ unembedding(model)
    assert list(found.text[:, 0]) == [str(i) for i in logits.topk(5).indices.tolist()]
    np.testing.assert_allclose(found.values[:, 0], logits.topk(5).values, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.values[:, 1], -(-logits).topk(5).values, rtol=1e-3, atol=1e-5)


def test_copying_scores(make_model) -> None:
    model = make_model("olmo2")
    values = torch.linalg.eigvals(read_embeddings(model) @ head_matrices(model, 1).ov.product()[2] @ unembedding(model))
    expected = values.real.sum() / values.abs().sum()
    assert copying_scores(model).values[1, 2] == pytest.approx(float(expected), abs=1e-3)
    block, through = model.model.layers[1], unembedding(model) @ read_embeddings(model)  # d_model d_model
    width, norm = block.self_attn.head_dim, block.post_attention_layernorm.weight.float()
    values = torch.randn(model.config.hidden_size, width, generator=torch.Generator().manual_seed(0))
    block.self_attn.v_proj.weight.data[:width] = values.T
    block.self_attn.o_proj.weight.data[:, :width] = ((through @ values).T / norm).T  # O U E V is positive definite
    assert copying_scores(model).values[1, 0] == pytest.approx(1, abs=1e-3)
    block.self_attn.o_proj.weight.data[:, :width] *= -1
    assert copying_scores(model).values[1, 0] == pytest.approx(-1, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"layer": 9}, "no layer 9"),
        ({"head": 9}, "no head 9"),
        ({"token": 10**6}, "no token"),
        ({"distance": -1}, "-1"),
    ],
)
def test_what_does_not_exist_is_refused(model: OlmoForCausalLM, change, what) -> None:
    with pytest.raises(WorkbenchError, match=what):
        head_circuits(model, **{"layer": 0, "head": 0, "token": 5} | change)


def test_too_few_random_matrices_and_one_layer_are_refused(make_model) -> None:
    with pytest.raises(WorkbenchError, match="samples is 1"):
        head_composition(make_model("olmo"), samples=1)
    with pytest.raises(WorkbenchError, match="one layer"):
        head_composition(make_model("olmo", num_hidden_layers=1))


def test_along_a_run(tmp_path, make_model, tokenizer) -> None:
    for step in (1, 2):
        make_model("olmo", seed=step).save_pretrained(tmp_path / f"step{step}")
        tokenizer.save_pretrained(tmp_path / f"step{step}")
    found = trajectory(checkpoints.series(str(tmp_path)), metrics.composition("k"), cache=None)
    last = head_composition(make_model("olmo", seed=2))["k"]
    table = found.table().set_index(["line", "step"])["value"]
    assert table["L0H1, L1H2", 2] == pytest.approx(float(last.values[1, 2]), rel=1e-4)
    assert np.isfinite(found.values).all()  # no line for heads of which none can read the other
    with pytest.raises(WorkbenchError, match="choices: q, k, v"):
        metrics.composition("x")


def test_tensors_stay_finite_with_half_precision(make_model) -> None:
    model = make_model("olmo2").to(torch.bfloat16)
    found: Tensor = torch.from_numpy(head_composition(model, samples=2)["v"].values.copy())
    assert found.nan_to_num(0).isfinite().all() and found.nanmean() > 0
