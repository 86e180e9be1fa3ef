"""Edges by attribution, beside exact patching and plain hooks on transformers' models."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hooks import OlmoForCausalLM, edits
from tests.fixtures import ONE_FAMILY
from workbench import WorkbenchError
from workbench.analyses.circuit import Circuit, circuit
from workbench.analyses.faithfulness import faithfulness
from workbench.analyses.support.edge_graph import WRITTEN, Graph, outputs
from workbench.analyses.support.edge_pairs import Sides, sides_of
from workbench.analyses.support.edge_runs import run_edges
from workbench.analyses.support.edge_slopes import slopes
from workbench.analyses.support.prompt_pairs import contrast
from workbench.result_files import load_result

CASES = ("olmo", "olmo-gqa-tied", "olmo-mqa-clip", "olmo-bias", "olmo2", "olmo2-gqa-bias", "olmo3", "olmo3-gqa-bias")
ANSWER, OTHER = 5, 6


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def corrupted(tokens: Tensor) -> Tensor:
    """The texts with one other token."""
    other = tokens.clone()
    other[:, 3] = 7
    return other


def sides(model: OlmoForCausalLM, clean: Tensor, corrupted: Tensor, replacement: str = "counterfactual") -> Sides:
    pair = contrast(model, clean, corrupted, ANSWER, OTHER, -1, None)
    return sides_of(model, pair, replacement)(pair.batches(1000)[0])


def logit_differences(logits: Tensor) -> Tensor:
    """The measure of each text, float64: … vocab -> …"""
    return (logits[..., ANSWER] - logits[..., OTHER]).double()


def without(mask: Tensor, edges: Tensor) -> Tensor:
    """All edges but one, for each (target, source) in `edges`: cell target source."""
    kept = mask.repeat(len(edges), 1, 1)
    kept[torch.arange(len(edges)), edges[:, 0], edges[:, 1]] = False
    return kept


def test_outputs_of_nodes_sum_to_the_residual_stream(pair: Any, tokens: Tensor) -> None:
    run = pair.ours.run(tokens, capture=[*WRITTEN, "blocks.3.resid_post"])
    total = outputs(pair.ours, Graph.of(pair.ours), run).sum(0)
    torch.testing.assert_close(total, run["blocks.3.resid_post"], atol=1e-4, rtol=1e-4)


def test_all_edges_are_the_clean_run_and_no_edges_the_corrupted_one(
    pair: Any, tokens: Tensor, other_tokens: Tensor
) -> None:
    mask, both = Graph.of(pair.ours).mask(), sides(pair.ours, tokens, other_tokens)
    found = run_edges(pair.ours, torch.stack([mask, mask & False]), both.outs[0], both.replaced)
    for logits, ids in zip(found, (tokens, other_tokens), strict=True):
        torch.testing.assert_close(logits, pair.theirs(ids).logits[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if "clip" not in case])  # clipping has no derivative
def test_scores_are_the_derivatives_of_exact_runs(pair: Any, tokens: Tensor, corrupted: Tensor) -> None:
    """With the replacement of one edge a small way from its clean output, the measure falls by score times this way."""
    model, way, mask = pair.ours, 0.01, Graph.of(pair.ours).mask()
    both, found = sides(model, tokens, corrupted), circuit(model, tokens, corrupted, ANSWER, OTHER, steps=0, exact=0)
    edges = mask.nonzero()[:: len(mask.nonzero()) // 40]
    scores = torch.tensor(found.values)[:: len(mask.nonzero()) // 40]
    near = both.outs + way * (both.replaced - both.outs)
    beyond = both.outs - way * (both.replaced - both.outs)
    before, after = (
        logit_differences(run_edges(model, without(mask, edges), both.outs[0], replaced)).mean(-1)
        for replaced in (beyond, near)
    )
    torch.testing.assert_close(
        ((before - after) / (2 * way)).float(), scores, atol=0.01 * abs(found.values).max(), rtol=0.02
    )


def test_edges_from_the_embedding_sum_to_the_effect(model: OlmoForCausalLM, tokens: Tensor, corrupted: Tensor) -> None:
    """The completeness of integrated gradients, since every path begins with an edge from the embedding."""
    found = circuit(model, tokens, corrupted, ANSWER, OTHER, steps=48, exact=0)
    clean, other = (logit_differences(model.run(ids).logits[:, -1]).mean().item() for ids in (tokens, corrupted))
    assert found.effect == pytest.approx(clean - other, rel=1e-4)
    table = found.table()
    assert table.loc[table["source"] == "embed", "value"].sum() == pytest.approx(found.effect, rel=5e-3)


def test_edges_into_the_logits_sum_to_the_effect_where_the_last_norm_is_linear(
    make_model: Callable[..., OlmoForCausalLM], family: str, tokens: Tensor, other_tokens: Tensor
) -> None:
    model = make_model(family)
    model.model.norm = nn.Identity()
    found = circuit(model, tokens, other_tokens, ANSWER, OTHER, steps=1, exact=60)
    table = found.table().query("input == 'logits'")
    assert table["value"].sum() == pytest.approx(found.effect, rel=1e-3)
    patched = table.dropna(subset="exact")
    assert len(patched) > 5
    np.testing.assert_allclose(patched["value"], patched["exact"], atol=1e-4 * abs(found.effect))


def linear(make_model: Callable[..., OlmoForCausalLM]) -> OlmoForCausalLM:
    """A model without norms and MLPs whose heads attend to all tokens alike."""
    model = make_model("olmo")
    model.model.norm = nn.Identity()
    for block in model.model.blocks:
        block.self_attn.q_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
        for name in (block.attn_norm, block.mlp_norm):
            setattr(block, name, nn.Identity())
    return model


@pytest.mark.parametrize("replacement", ["counterfactual", "mean", "zero"])
def test_scores_of_a_linear_model_are_exact(
    make_model: Callable[..., OlmoForCausalLM], tokens: Tensor, other_tokens: Tensor, replacement: str
) -> None:
    found = circuit(
        linear(make_model), tokens, other_tokens, ANSWER, OTHER, steps=0, exact=2000, replacement=replacement
    )
    table = found.table()
    assert table.loc[table["input"] == "v", "value"].abs().max() > 0.01 * abs(found.effect)
    assert table.loc[table["input"].isin(["q", "k", "mlp"]), "value"].abs().max() == 0
    np.testing.assert_allclose(found.values, found.exact, atol=2e-5 * np.abs(found.values).max())
    assert found.correlation == pytest.approx(1)


EDGES = ("L0H1 → L2H3 q", "L1H2 → L2H3 k", "embed → L3H0 v", "L1H2 → L2 MLP", "L2 MLP → logits")


@pytest.mark.parametrize("case", ["olmo", "olmo2", "olmo3"])
def test_exact_edges_are_those_of_plain_hooks(pair: Any, tokens: Tensor, other_tokens: Tensor) -> None:
    model, graph, theirs = pair.ours, Graph.of(pair.ours), pair.theirs
    both, names = sides(model, tokens, other_tokens), graph.edges()
    edges = graph.mask().nonzero()[[names.index(edge) for edge in EDGES]]
    found = logit_differences(run_edges(model, without(graph.mask(), edges), both.outs[0], both.replaced))
    whole = logit_differences(theirs(tokens).logits[:, -1]).detach()
    for edge, value in zip(EDGES, found, strict=True):
        source, target = edge.split(" → ")
        clean, other = (written_by(theirs, ids, source) for ids in (tokens, other_tokens))
        wanted = logit_differences(read_without(theirs, tokens, other - clean, target))
        assert (wanted - whole).abs().max() > 0.01, f"{edge} has no effect to compare"
        torch.testing.assert_close(value, wanted, atol=1e-3, rtol=1e-3, msg=edge)


def seen(modules: dict[str, nn.Module], model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """The first inputs of modules in a run, and their outputs as `name out`."""
    kept: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        return lambda module, given, out: kept.update({name: given[0], f"{name} out": out})

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    model(ids)
    for handle in handles:
        handle.remove()
    return kept


@torch.no_grad()
def written_by(model: Any, ids: Tensor, source: str) -> Tensor:
    """What a node adds to the residual stream of transformers' model: batch pos d_model."""
    if source == "embed":
        return model.model.embed_tokens(ids)
    layer = model.model.layers[int(source[1])]
    norm_last = hasattr(layer, "post_feedforward_layernorm")
    modules = {"o": layer.self_attn.o_proj, "mlp": layer.mlp, "norm": layer.post_attention_layernorm}
    if norm_last:
        modules["mlp norm"] = layer.post_feedforward_layernorm
    kept = seen(modules, model, ids)
    if source.endswith("MLP"):
        return kept["mlp norm out" if norm_last else "mlp out"]
    d_head = layer.self_attn.head_dim
    own = slice(int(source[3]) * d_head, (int(source[3]) + 1) * d_head)
    part = kept["o"][..., own] @ layer.self_attn.o_proj.weight[:, own].T
    if norm_last:
        divisor = (kept["norm"].pow(2).mean(-1, keepdim=True) + layer.post_attention_layernorm.variance_epsilon).sqrt()
        part = part / divisor * layer.post_attention_layernorm.weight
    return part


@torch.no_grad()
def read_without(model: Any, ids: Tensor, change: Tensor, target: str) -> Tensor:
    """The last logits of transformers' model in which one input reads the residual stream with a change."""
    if target == "logits":
        handle = model.model.norm.register_forward_pre_hook(lambda module, given: (given[0] + change,))
    elif target.endswith("MLP"):
        layer = model.model.layers[int(target[1])]
        norm_last = hasattr(layer, "post_feedforward_layernorm")
        reader = layer.mlp if norm_last else layer.post_attention_layernorm
        handle = reader.register_forward_pre_hook(lambda module, given: (given[0] + change, *given[1:]))
    else:
        layer = model.model.layers[int(target[1])]
        norm_last = hasattr(layer, "post_feedforward_layernorm")
        stream = seen({"layer": layer}, model, ids)["layer"] + change
        projection = getattr(layer.self_attn, f"{target[-1]}_proj")
        read = projection(stream if norm_last else layer.input_layernorm(stream))
        d_head = layer.self_attn.head_dim
        own = slice(int(target[3]) * d_head, (int(target[3]) + 1) * d_head)

        def hook(module: nn.Module, given: Any, out: Tensor) -> Tensor:
            out = out.clone()
            out[..., own] = read[..., own]
            return out

        handle = projection.register_forward_hook(hook)
    logits = model(ids).logits[:, -1]
    handle.remove()
    return logits


def test_an_mlp_that_reads_the_stream_has_the_gradient_of_its_own_copy(model: OlmoForCausalLM, tokens: Tensor) -> None:
    """The gradients of all targets sum to that of the embedding, which every target reads."""
    embed = model.run(tokens, capture="embed", captures_only=True)["embed"].detach().requires_grad_()
    total = sum(slope.double().sum(0) for _, slope in slopes(model, embed, logit_differences))
    (wanted,) = torch.autograd.grad(logit_differences(model.run(resid=embed, grad=True).logits[:, -1]).sum(), embed)
    torch.testing.assert_close(total, wanted.double(), atol=1e-3, rtol=1e-3)


def test_a_metric_of_the_logits_is_a_measure(model: OlmoForCausalLM, tokens: Tensor, corrupted: Tensor) -> None:
    wanted = circuit(model, tokens, corrupted, ANSWER, steps=1, exact=3)
    for metric in (lambda logits: logits[:, 0, ANSWER], lambda logits: logits[:, 0, ANSWER].mean()):
        found = circuit(model, tokens, corrupted, metric=metric, steps=1, exact=3)
        assert found.measure == "metric" and found.effect == pytest.approx(wanted.effect, rel=1e-4)
        np.testing.assert_allclose(found.values, wanted.values, atol=1e-5)
        np.testing.assert_allclose(found.exact, wanted.exact, atol=1e-4)
        proof = faithfulness(model, found, tokens, corrupted, metric=metric, sizes=[400], draws=2)
        np.testing.assert_allclose(proof.values[:, -1], [1, 0, 1, 1, 1], atol=1e-3)


@ONE_FAMILY
def test_a_circuit_is_saved_and_its_table_names_the_edges(
    model: OlmoForCausalLM, tokens: Tensor, corrupted: Tensor, tmp_path: Any
) -> None:
    found = circuit(model, tokens, corrupted, ANSWER, exact=2)
    found.save(tmp_path / "circuit.npz")
    again = load_result(tmp_path / "circuit.npz")
    assert isinstance(again, Circuit) and again.table().equals(found.table()) and again.effect == found.effect
    strong = found.top(2).table()
    assert strong["exact"].notna().all() and found.table()["exact"].notna().sum() == 2
    named = circuit(model, tokens, corrupted, ANSWER, exact=[strong_name := found.top(2).names[1]])
    known = np.isfinite(named.exact)
    assert [name for name, is_known in zip(named.names, known, strict=True) if is_known] == [strong_name]
    np.testing.assert_allclose(named.exact[known], found.top(2).exact[1], atol=1e-5)
    assert list(strong.columns[:4]) == ["source", "target", "input", "value"]
    assert set(found.table()["input"]) == {"q", "k", "v", "mlp", "logits"}
    assert len(found.plot().data[0].y) <= 30


def test_what_cannot_be_is_refused_in_words(model: OlmoForCausalLM, tokens: Tensor, corrupted: Tensor) -> None:
    for options, words in (
        ({"replacement": "noise"}, "replacement='noise'; choices: counterfactual, mean, zero"),
        ({"measure": "loss"}, "measure='loss'; choices: logit, probability, kl"),
        ({"steps": -1}, "steps is -1"),
    ):
        with pytest.raises(WorkbenchError, match=words):
            circuit(model, tokens, corrupted, ANSWER, **options)
    with pytest.raises(WorkbenchError, match="too small to explain"):
        circuit(model, tokens, tokens, ANSWER)
    with model.tapped(edits=edits.zero("blocks.1.mlp_out")), pytest.raises(WorkbenchError, match="with edits"):
        circuit(model, tokens, corrupted, ANSWER)
