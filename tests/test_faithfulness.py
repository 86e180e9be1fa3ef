"""Circuits alone: exact at both ends, additive in a linear model, and the circuit of weights written by hand."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_circuit import ANSWER, OTHER, linear
from torch import Tensor

from hooks import OlmoConfig, OlmoForCausalLM
from workbench import TextPairs, Texts, WorkbenchError, checkpoints, metrics, trajectory
from workbench.analyses.circuit import circuit, edge_scores
from workbench.analyses.faithfulness import LINES, Faithfulness, faithfulness
from workbench.analyses.support.edge_graph import Graph
from workbench.analyses.support.edge_pairs import Study, measured_cells, sides_of
from workbench.analyses.support.prompt_pairs import contrast
from workbench.result_files import load_result

VOCAB, D_HEAD = 16, 32
TOKEN, PREVIOUS, FOUND, ALWAYS = slice(0, 16), slice(16, 32), slice(32, 48), 48  # axes of the residual stream
SLOW = [*range(8, 16), *range(24, 32)]  # axes of a head that rotate little within a short text


@pytest.fixture(scope="module")
def induction() -> OlmoForCausalLM:
    """Weights written by hand: L0H1 copies the previous token, and L1H0 finds where the token stood before.

    The other heads have random weights and write little.
    """
    config = OlmoConfig(
        vocab_size=VOCAB,
        hidden_size=2 * D_HEAD,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = OlmoForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    one = torch.eye(VOCAB)
    embed, unembed = model.model.embed_tokens.weight.data, model.lm_head.weight.data
    embed[:, TOKEN], embed[:, ALWAYS] = one, 1.0
    unembed[:, FOUND] = 4 * one
    first, second = (block.self_attn for block in model.model.blocks)
    before, finder = slice(D_HEAD, 2 * D_HEAD), slice(0, D_HEAD)  # rows of L0H1 and L1H0
    angle = model.model.rotary_emb.inv_freq
    for projection in (first.q_proj, first.k_proj, first.v_proj):
        projection.weight.data[before] = 0
    first.k_proj.weight.data[before, ALWAYS] = 4 * torch.cat([torch.ones(16), torch.zeros(16)])
    first.q_proj.weight.data[before, ALWAYS] = 4 * torch.cat([angle.cos(), -angle.sin()])  # turned back by one place
    first.v_proj.weight.data[D_HEAD : D_HEAD + VOCAB, TOKEN] = one
    first.o_proj.weight.data[PREVIOUS, D_HEAD : D_HEAD + VOCAB] = one
    for projection in (second.q_proj, second.k_proj, second.v_proj):
        projection.weight.data[finder] = 0
    second.q_proj.weight.data[SLOW, TOKEN] = 4 * one
    second.k_proj.weight.data[SLOW, PREVIOUS] = 4 * one
    second.v_proj.weight.data[0:VOCAB, TOKEN] = one
    second.o_proj.weight.data[FOUND, 0:VOCAB] = one
    return model


@pytest.fixture(scope="module")
def repeats() -> tuple[Tensor, Tensor, list[int]]:
    """Texts `… A B … A`, the same with another token for the first A, and the answers B."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(VOCAB, generator=generator)[:10] for _ in range(6)])
    clean, corrupted = rows.clone(), rows.clone()
    clean[:, -1] = corrupted[:, -1] = rows[:, 3]
    corrupted[:, 3] = rows[:, -1]
    return clean, corrupted, rows[:, 4].tolist()


CIRCUIT = {"embed → L0H1 v", "L0H1 → L1H0 k", "L1H0 → logits"}


def test_the_circuit_that_was_written_comes_first(
    induction: OlmoForCausalLM, repeats: tuple[Tensor, Tensor, list[int]]
) -> None:
    clean, corrupted, answers = repeats
    assert induction(clean).logits[:, -1].argmax(-1).tolist() == answers
    found = circuit(induction, clean, corrupted, answers)
    assert set(found.top(3).names) == CIRCUIT
    proof = faithfulness(induction, found, clean, corrupted, answers, sizes=[2, 3], draws=3)
    values = dict(zip(LINES, proof.values, strict=True))
    assert proof.x.tolist() == [0, 2, 3, len(found.names)]
    assert values["best edges"][2] > 0.95 and abs(values["best edges"][1]) < 0.01
    assert abs(values["without them"][2]) < 0.05 and values["without them"][0] == pytest.approx(1)
    assert abs(values["random edges"][2]) < 0.05
    assert proof.said().startswith(f"{values['best edges'][2]:.2f} of the effect with 3 of {len(found.names)} edges")


@pytest.mark.parametrize("replacement", ["counterfactual", "mean", "zero"])
def test_all_edges_are_one_and_none_are_zero(
    model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor, replacement: str
) -> None:
    found = circuit(model, tokens, other_tokens, ANSWER, OTHER, steps=1, exact=0, replacement=replacement)
    proof = faithfulness(model, found, tokens, other_tokens, ANSWER, OTHER, sizes=[400], draws=2)
    ends = np.array([[0.0, 1.0]] * len(LINES))
    ends[LINES.index("without them")] = [1.0, 0.0]
    np.testing.assert_allclose(proof.values[:, [0, -1]], ends, atol=1e-3)
    assert proof.deviation[[0, -1]] == pytest.approx([0, 0], abs=1e-3)
    assert proof.deviation[1] > 1e-3


def test_what_a_circuit_of_a_linear_model_lacks_is_the_score_of_the_edge_left_out(
    make_model: Callable[..., OlmoForCausalLM], tokens: Tensor, other_tokens: Tensor
) -> None:
    model = linear(make_model)
    found = circuit(model, tokens, other_tokens, ANSWER, OTHER, exact=0)
    every = len(found.names)
    proof = faithfulness(model, found, tokens, other_tokens, ANSWER, OTHER, sizes=[1, every - 1], draws=2)
    weakest, strongest = (found.values[np.argsort(np.abs(found.values))[place]] for place in (0, -1))
    best, rest = proof.values[:2]
    assert best[2] == pytest.approx(1 - weakest / found.effect, abs=1e-3)
    assert rest[1] == pytest.approx(1 - strongest / found.effect, abs=1e-3)


def test_node_circuits_have_all_edges_between_their_nodes(
    induction: OlmoForCausalLM, repeats: tuple[Tensor, Tensor, list[int]]
) -> None:
    """The three nodes of the circuit have nine edges: with eight, a node is missing."""
    clean, corrupted, answers = repeats
    found = circuit(induction, clean, corrupted, answers, exact=0)
    nodes = {"embed", "L0H1", "L1H0", "logits"}
    table = found.table()
    among = table[table["source"].isin(nodes) & table["target"].isin(nodes)]
    sizes = [len(among) - 1, len(among)]
    proof = faithfulness(induction, found, clean, corrupted, answers, sizes=sizes, draws=2)
    line = proof.values[LINES.index("nodes")]
    assert abs(line[1]) < 0.05 and line[2] > 0.95


@pytest.mark.parametrize("shape", [(3, 4, 2), (2, 2, 2)])
def test_connected_edges_lie_on_paths_of_kept_edges(shape: tuple[int, int, int]) -> None:
    """Against a search through the names of the edges."""
    graph, generator = Graph(*shape, neurons=((),) * shape[0]), torch.Generator().manual_seed(0)
    ends = {}
    for name in graph.edges():
        source, target = name.split(" → ")
        layer, *heads = target.split(" ")[0].split("H")
        ends[name] = source, [f"{layer}H{head}" for head in heads] or [target]
    kept = torch.rand(8, len(ends), generator=generator) < torch.tensor([[0.1], [0.2], [0.4], [0.7]]).repeat(2, 1)
    for row, found in zip(kept, graph.connected(kept, joined=False), strict=True):
        edges = {name: both for (name, both), is_kept in zip(ends.items(), row.tolist(), strict=True) if is_kept}
        reached, used = {"embed"}, {"logits"}
        for _ in range(2 * graph.layers + 2):
            reached |= {target for source, targets in edges.values() if source in reached for target in targets}
            used |= {source for source, targets in edges.values() if used & set(targets)}
        wanted = [name for name, (source, targets) in edges.items() if source in reached and used & set(targets)]
        assert [name for name, is_on in zip(ends, found.tolist(), strict=True) if is_on] == wanted


@pytest.mark.parametrize("replacement", ["counterfactual", "zero"])
def test_edges_that_lead_nowhere_change_nothing(
    model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor, replacement: str
) -> None:
    found = circuit(model, tokens, other_tokens, ANSWER, OTHER, steps=1, exact=0, replacement=replacement)
    graph = Graph.of(model)
    pair = contrast(model, tokens, other_tokens, ANSWER, OTHER, -1, None)
    kept = torch.rand(6, len(found.names), generator=torch.Generator().manual_seed(0)) < 0.06
    joined = not model.model.blocks[0].norm_first
    connected = graph.connected(kept, joined=joined, from_embedding=replacement == "counterfactual")
    assert 0 < connected.sum() < kept.sum()
    (batch,) = pair.batches(10**6)
    study = Study(model, pair, found.measure, sides_of(model, pair, replacement), [batch], 10**6)
    both = study.sides(batch)
    values, alone = (torch.cat(list(measured_cells(study, both, one))) for one in (kept, connected))
    torch.testing.assert_close(alone, values, rtol=0, atol=1e-4 * abs(found.effect) + 1e-5)


def test_proofs_are_saved_and_repeat(
    induction: OlmoForCausalLM, repeats: tuple[Tensor, Tensor, list[int]], tmp_path: Any
) -> None:
    clean, corrupted, answers = repeats
    found = circuit(induction, clean, corrupted, answers, exact=0)
    first, again, other = (
        faithfulness(induction, found, clean, corrupted, answers, seed=seed, draws=2) for seed in (0, 0, 1)
    )
    first.save(tmp_path / "proof.npz")
    loaded = load_result(tmp_path / "proof.npz")
    assert isinstance(loaded, Faithfulness) and loaded.said() == first.said() == again.said()
    assert (first.values == again.values).all() and (first.deviation != other.deviation).any()
    areas = first.areas
    assert areas["best edges"] > 0.9 and areas["without them"] < 0.1 and areas["best edges"] > areas["random edges"]


def test_what_is_no_circuit_of_the_model_is_refused_in_words(
    induction: OlmoForCausalLM, repeats: tuple[Tensor, Tensor, list[int]]
) -> None:
    clean, corrupted, answers = repeats
    found = circuit(induction, clean, corrupted, answers, exact=0)
    for given, options, words in (
        (found.top(3), {}, "the circuit has 3 edges and they are not the"),
        (found, {"sizes": [5, 1000]}, "no circuits of 1000 edges; this model has 0 to"),
        (found, {"draws": 1}, "draws is 1"),
    ):
        with pytest.raises(WorkbenchError, match=words):
            faithfulness(induction, given, clean, corrupted, answers, **options)


@pytest.mark.filterwarnings("ignore:the tokenizer of .* has ids up to 98")
def test_edges_and_circuits_along_a_run(
    induction: OlmoForCausalLM, repeats: tuple[Tensor, Tensor, list[int]], tokenizer: Any, tmp_path: Any
) -> None:
    """Two checkpoints: the written circuit with a head that writes nothing, and the whole."""
    clean, corrupted, answers = repeats
    half = copy.deepcopy(induction)
    half.model.layers[1].self_attn.o_proj.weight.data[:, :D_HEAD] = 0
    for step, model in enumerate((half, induction)):
        model.save_pretrained(tmp_path / f"step{step}")
        tokenizer.save_pretrained(tmp_path / f"step{step}")
    words = tuple(f"w{answer}" if answer else "pad" for answer in answers)
    pairs = TextPairs(Texts(clean, torch.ones_like(clean)), Texts(corrupted, torch.ones_like(clean)), words)
    found, series = circuit(induction, clean, corrupted, answers, exact=0), checkpoints.series(str(tmp_path))
    effect = trajectory(series, metrics.circuit_effect(found, 3, pairs, tokenizer, draws=2), cache=None)
    whole, own, others = effect.values[:3]
    assert effect.lines[:3] == ("all edges", "the circuit", "all other edges")
    assert abs(whole[0]) < 0.05 < found.effect and whole[1] == pytest.approx(found.effect, rel=1e-3)
    assert own == pytest.approx(whole, abs=0.05 * found.effect) and others == pytest.approx(0, abs=0.05 * found.effect)
    highest = float(effect.values[effect.lines.index("highest of random edges")].max())
    assert metrics.needed_from(effect, max(highest, 0.1), line=1) == 1
    shares = metrics.circuit_shares(effect)
    assert np.isnan(shares.values[:, 0]).all() and shares.values[0, 1] == pytest.approx(1, abs=0.05)
    assert shares.lines == effect.lines[1:] and metrics.needed_from(shares, "highest of random edges") == 1
    np.testing.assert_allclose(shares.values[:, 1], effect.values[1:, 1] / whole[1], rtol=1e-6)
    assert metrics.needed_from(shares, "the circuit", line=2) is None  # random edges are not above it
    with pytest.raises(WorkbenchError, match="no line 'random'; choices: the circuit, all other edges"):
        metrics.needed_from(shares, "random")
    with pytest.raises(WorkbenchError, match="the lines are the circuit, all other edges, random edges"):
        metrics.circuit_shares(shares)
    scores = trajectory(series, metrics.edge_scores(pairs, tokenizer, edges=found.top(3).names), cache=None)
    assert scores.lines == found.top(3).names and abs(scores.values[:, 0]).max() < 0.05
    assert scores.values[:, 1] == pytest.approx(found.top(3).values, rel=1e-3)
    with pytest.raises(WorkbenchError, match="no edge 'L0H0' in this model; its 46 edges: embed → L0H0 q, …, L1 MLP"):
        edge_scores(induction, clean, corrupted, answers, edges=["L0H0"])
