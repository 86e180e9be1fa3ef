"""Edges by attribution, beside exact patching and plain hooks on transformers' models."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.circuit import circuit
from workbench.analyses.support.edge_graph import WRITTEN, Graph, outputs
from workbench.analyses.support.edge_pairs import sides_of
from workbench.analyses.support.edge_runs import run_edges
from workbench.analyses.support.prompt_pairs import contrast

CASES = ("olmo", "olmo-gqa-tied", "olmo-mqa-clip", "olmo-bias", "olmo2", "olmo2-gqa-bias", "olmo3", "olmo3-gqa-bias")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


def both_ends(model: OlmoForCausalLM, clean: Tensor, corrupted: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(model.run(ids, logits_to_keep=1).logits[:, -1] for ids in (clean, corrupted))


def test_outputs_of_nodes_sum_to_the_residual_stream(pair, tokens: Tensor) -> None:
    run = pair.ours.run(tokens, capture=[*WRITTEN, "blocks.3.resid_post"])
    torch.testing.assert_close(
        outputs(Graph.of(pair.ours), run).sum(0), run["blocks.3.resid_post"], atol=1e-4, rtol=1e-4
    )


def test_all_edges_are_the_clean_run_and_no_edge_the_corrupted_one(pair, tokens: Tensor, other_tokens: Tensor) -> None:
    model = pair.ours
    mask = Graph.of(model).mask()
    both = sides_of(model, contrast(model, tokens, other_tokens, 5, None, -1, None), "counterfactual")
    sides = both(contrast(model, tokens, other_tokens, 5, None, -1, None).batches(1000)[0])
    found = run_edges(model, torch.stack([mask, mask & False]), sides.outs[0], sides.replaced)
    for logits, wanted in zip(found, both_ends(model, tokens, other_tokens), strict=True):
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)


def test_edges_from_the_embedding_sum_to_the_effect(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    found = circuit(model, tokens, other_tokens, 5, 6, steps=64, exact=0)
    table = found.table()
    clean, corrupted = ((logits[:, 5] - logits[:, 6]).mean().item() for logits in both_ends(model, tokens, other_tokens))
    assert found.effect == pytest.approx(clean - corrupted, rel=1e-4)
    assert table.loc[table["source"] == "embed", "value"].sum() == pytest.approx(found.effect, rel=0.02)
