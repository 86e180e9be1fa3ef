"""Circuits with single neurons as nodes: scores add up to the MLP's, are derivatives of exact runs, rank neurons."""

import numpy as np
import pytest
import torch

from hooks import edits
from workbench import WorkbenchError
from workbench.analyses.circuit import circuit, edge_scores
from workbench.analyses.faithfulness import faithfulness
from workbench.analyses.support.edge_graph import Graph, neurons_in, outputs, written_sites
from workbench.analyses.support.edge_pairs import sides_of
from workbench.analyses.support.edge_runs import run_edges
from workbench.analyses.support.prompt_pairs import contrast

ANSWER, OTHER = 5, 6
NEURONS = [(1, 3), (1, 40), (3, 0)]
CASES = ["olmo", "olmo-bias", "olmo2-gqa-bias", "olmo3"]


@pytest.fixture
def corrupted(tokens):
    other = tokens.clone()
    other[:, 3] = 7
    return other


def sides(model, clean, corrupted, graph):
    pair = contrast(model, clean, corrupted, ANSWER, OTHER, -1, None)
    return sides_of(model, pair, "counterfactual", graph)(pair.batches(1000)[0])


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_outputs_with_neurons_sum_to_the_stream_and_to_each_mlp(pair, tokens):
    model, graph = pair.ours, Graph.of(pair.ours, NEURONS)
    run = model.run(tokens, capture=[*written_sites(graph), "blocks.3.resid_post"])
    found = outputs(model, graph, run)
    assert len(found) == len(graph.sources) == graph.mask().shape[1]
    torch.testing.assert_close(found.sum(0), run["blocks.3.resid_post"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[graph.mlp_sources(1)].sum(0), run["blocks.1.mlp_out"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES, indirect=True)
@pytest.mark.parametrize("replacement", ["counterfactual", "zero"])
def test_scores_of_neurons_and_the_rest_sum_to_those_of_the_mlp(pair, tokens, corrupted, replacement):
    given = (pair.ours, tokens, corrupted, ANSWER, OTHER)
    whole, split = (
        circuit(*given, steps=2, exact=0, replacement=replacement, neurons=neurons).table() for neurons in ([], NEURONS)
    )
    joined = split.assign(**{end: split[end].str.replace(r"N\d+$", "MLP", regex=True) for end in ("source", "target")})
    keys = ["source", "target", "input"]
    sums = joined.groupby(keys)["value"].sum()
    wanted = whole.set_index(keys)["value"]
    assert len(split) > len(whole) and set(sums.index) == set(wanted.index)
    np.testing.assert_allclose(sums[wanted.index], wanted, atol=2e-5 * wanted.abs().max())


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_runs_with_all_edges_and_with_none(pair, tokens, other_tokens):
    model, graph = pair.ours, Graph.of(pair.ours, NEURONS)
    mask, both = graph.mask(), sides(pair.ours, tokens, other_tokens, graph)
    found = run_edges(model, torch.stack([mask, mask & False]), both.outs[0], both.replaced, graph)
    for logits, ids in zip(found, (tokens, other_tokens), strict=True):
        torch.testing.assert_close(logits, pair.theirs(ids).logits[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_without_all_edges_of_a_neuron_its_activation_is_replaced(pair, tokens, corrupted):
    """All edges from a neuron taken away: in OLMo 1, the run in which its activation is that of the corrupted prompt.

    In OLMo 2 and 3 the divisor of the norm after the MLP still counts the neuron, and the stream does not.
    """
    model, graph, (layer, neuron) = pair.ours, Graph.of(pair.ours, NEURONS), NEURONS[0]
    both, kept = sides(model, tokens, corrupted, graph), graph.mask()
    source = graph.sources.index(f"L{layer} N{neuron}")
    kept[:, source] = False
    found = run_edges(model, kept[None], both.outs[0], both.replaced, graph)[0]
    change = both.replaced[source] - both.outs[source]
    wanted = model.run(tokens, edits=edits.apply(f"blocks.{layer}.mlp_out", lambda out: out + change))
    torch.testing.assert_close(found, wanted.logits[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_edges_that_are_not_connected_change_nothing(pair, tokens, other_tokens):
    model, graph = pair.ours, Graph.of(pair.ours, [*NEURONS, (0, 5)])
    both, mask = sides(model, tokens, other_tokens, graph), graph.mask()
    kept = torch.rand(8, int(mask.sum()), generator=torch.Generator().manual_seed(0)) < 0.08
    connected = graph.connected(kept, joined=not model.model.blocks[0].norm_first)
    assert (connected <= kept).all() and (connected != kept).any(1).all() and connected.any()
    masks = torch.zeros(2, 8, *mask.shape, dtype=torch.bool)
    masks[:, :, mask] = torch.stack([kept, connected])
    one, other = (run_edges(model, cells, both.outs[0], both.replaced, graph) for cells in masks)
    torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_scores_are_the_derivatives_of_exact_runs(pair, tokens, corrupted):
    model, way, graph = pair.ours, 0.01, Graph.of(pair.ours, NEURONS)
    found = circuit(model, tokens, corrupted, ANSWER, OTHER, steps=0, exact=0, neurons=NEURONS)
    both, mask = sides(model, tokens, corrupted, graph), graph.mask()
    of_neurons = [number for number, name in enumerate(found.names) if " N" in name]
    edges = sorted(of_neurons, key=lambda number: -abs(found.values[number]))[:12]
    pairs = mask.nonzero()[edges]
    kept = mask.repeat(len(edges), 1, 1)
    kept[torch.arange(len(edges)), pairs[:, 0], pairs[:, 1]] = False

    def measured(sign):
        replaced = both.outs + sign * way * (both.replaced - both.outs)
        logits = run_edges(model, kept, both.outs[0], replaced, graph).double()
        return (logits[..., ANSWER] - logits[..., OTHER]).mean(-1)

    slopes = (measured(-1) - measured(1)) / (2 * way)
    np.testing.assert_allclose(slopes, found.values[edges], atol=0.01 * abs(found.values[edges]).max(), rtol=0.02)


def test_the_neurons_that_matter_most_are_chosen(model, tokens, corrupted):
    found = circuit(model, tokens, corrupted, ANSWER, OTHER, steps=0, exact=2, neurons=5)
    chosen = neurons_in(found.names)
    every = [(layer, neuron) for layer in range(4) for neuron in range(model.config.intermediate_size)]
    table = circuit(model, tokens, corrupted, ANSWER, OTHER, steps=0, exact=0, neurons=every).table()
    last = table[(table["source"].str.contains("L3 N")) & (table["target"] == "logits")]
    effects = last.set_index("source")["value"].abs()  # of the last layer, a neuron acts on the logits only
    assert len(chosen) == 5 and found.provenance["neurons"] == 5 and np.isfinite(found.exact).sum() == 2
    of_last = [f"L3 N{neuron}" for layer, neuron in chosen if layer == 3]
    if not model.config.model_type.startswith("olmo2") and of_last:
        assert set(of_last) == set(effects.nlargest(len(of_last)).index)


def test_a_circuit_with_neurons_is_proved_and_followed(model, tokens, corrupted):
    found = circuit(model, tokens, corrupted, ANSWER, OTHER, steps=1, exact=0, neurons=NEURONS)
    proof = faithfulness(model, found, tokens, corrupted, ANSWER, OTHER, sizes=[20], draws=2)
    assert proof.values[0].tolist() == pytest.approx([0, proof.values[0, 1], 1], abs=1e-4)
    some = [name for name in found.names if " N" in name][:3]
    scores = edge_scores(model, tokens, corrupted, ANSWER, OTHER, edges=some, steps=1)
    whole = edge_scores(model, tokens, corrupted, ANSWER, OTHER, edges=[*some, "L3 N0 → logits"], steps=1)
    assert list(scores.names) == some and len(whole.values) == 4
    assert found.top(3).table()["input"].isin(["q", "k", "v", "mlp", "logits"]).all()


@pytest.mark.parametrize(
    ("neurons", "said"),
    [([(9, 0)], "no neuron 0 in layer 9"), ([(0, 48)], "no neuron 48 in layer 0"), (-1, "negative")],
)
def test_what_are_no_neurons_is_refused(model, tokens, corrupted, neurons, said):
    with pytest.raises(WorkbenchError, match=said):
        circuit(model, tokens, corrupted, ANSWER, OTHER, neurons=neurons)
