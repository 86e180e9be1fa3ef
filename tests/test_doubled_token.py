"""A trained model with a known circuit (`doubled_token`): its nodes carry the variables, and the circuit is found."""

import numpy as np
import pytest
import torch
from doubled_token import (
    CIRCUIT,
    NODES,
    OTHERS,
    answers,
    causal_model,
    doubled_token_model,
    exchanged,
    one_doubled,
    outputs,
    pairs_of_rows,
    siit_losses,
    untrained,
)
from sklearn.metrics import roc_auc_score
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.circuit import circuit
from workbench.analyses.faithfulness import faithfulness


@pytest.fixture(scope="module")
def model() -> OlmoForCausalLM:
    return doubled_token_model()


@pytest.fixture(scope="module")
def rows() -> tuple[Tensor, Tensor]:
    """Base rows and source rows that training did not draw."""
    return pairs_of_rows(256, torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def prompts() -> tuple[Tensor, Tensor, list[int], list[int]]:
    """Rows with one doubled letter, rows with another one, and both letters."""
    clean = one_doubled(48, torch.Generator().manual_seed(8))
    corrupted, letters = clean.roll(1, 0), causal_model(clean)["answer"].argmax(-1)
    differs = letters != letters.roll(1)
    return clean[differs], corrupted[differs], letters[differs].tolist(), letters.roll(1)[differs].tolist()


def distance(logits: Tensor, wanted: Tensor) -> Tensor:
    """The total variation between predictions and probabilities, in 0 … 1: row."""
    return (logits.softmax(-1) - wanted).abs().sum(-1) / 2


def test_the_causal_model_is_the_task() -> None:
    begin, ask = 10, 11
    rows = torch.tensor(
        [[begin, 1, 2, 2, 3, 4, 5, 6, 7, ask], [begin, 1, 1, 2, 3, 3, 5, 6, 7, ask], [begin, *range(8), ask]]
    )
    wanted = torch.zeros(3, 12)
    wanted[0, 2], wanted[1, [1, 3]], wanted[2, begin] = 1, 0.5, 1
    assert torch.equal(causal_model(rows)["answer"], wanted)
    none = {"doubled": torch.zeros_like(rows, dtype=torch.bool)}
    assert causal_model(rows, none)["answer"][:, begin].tolist() == [1, 1, 1]


def test_each_variable_is_carried_by_its_node(model: OlmoForCausalLM, rows: tuple[Tensor, Tensor]) -> None:
    """Interchange interventions: a node's output in the source rows has the effect that its variable has."""
    base, source = rows
    of_source, variables = outputs(model, source), causal_model(source)
    plain = causal_model(base)["answer"]
    assert distance(answers(model, base), plain).mean() < 0.03
    for variable, node in NODES.items():
        wanted = causal_model(base, {variable: variables[variable]})["answer"]
        found = answers(model, base, exchanged(node, of_source))
        assert distance(found, wanted).mean() < 0.08 and distance(found, plain).mean() > 0.7


def test_all_other_nodes_are_without_effect(model: OlmoForCausalLM, rows: tuple[Tensor, Tensor]) -> None:
    base, source = rows
    of_source, plain = outputs(model, source), answers(model, base).softmax(-1)
    for node in OTHERS:
        assert distance(answers(model, base, exchanged(node, of_source)), plain).mean() < 0.04
    together = answers(model, base, *(exchanged(node, of_source) for node in OTHERS))
    assert distance(together, plain).mean() < 0.06


def test_the_known_edges_come_first_and_carry_the_effect(
    model: OlmoForCausalLM, prompts: tuple[Tensor, Tensor, list[int], list[int]]
) -> None:
    found = circuit(model, *prompts, exact=len(CIRCUIT))
    known = np.array([name in CIRCUIT for name in found.names])
    assert known.sum() == len(CIRCUIT)
    assert roc_auc_score(known, np.abs(found.values)) == 1.0
    assert set(found.top(len(CIRCUIT)).names) == CIRCUIT
    proof = faithfulness(model, found, *prompts, sizes=[len(CIRCUIT)], draws=3)
    share = dict(zip(proof.lines, proof.values[:, 1].tolist(), strict=True))
    assert 0.8 < share["best edges"] < 1.05
    assert abs(share["without them"]) < 0.05 and abs(share["random edges"]) < 0.05


def test_a_step_of_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model = untrained()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before, after = (taken(model, optimizer) for _ in range(2))
    assert after < before


def taken(model: OlmoForCausalLM, optimizer: torch.optim.Optimizer) -> float:
    """The loss of a step on the same rows, which is then taken."""
    loss = torch.stack(siit_losses(model, 0, torch.Generator().manual_seed(1))).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
