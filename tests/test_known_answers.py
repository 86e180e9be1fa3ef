"""The analyses find the known facts on induction heads, in the embedded series and in a model trained here.

The embedded model predicts the second copy of random tokens by a circuit (Olsson et al. 2022): a head attends to the
previous token, and induction heads, whose keys read what it wrote, to what followed the first copy.
"""

import math
import random
from collections.abc import Iterable
from statistics import median

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Olmo2Config

from hooks import OlmoForCausalLM, edits
from workbench import checkpoints
from workbench.analyses.ablation import METHODS, ablation
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.attribution_patching import agreement, attribution_patching
from workbench.analyses.circuit import Circuit, circuit
from workbench.analyses.faithfulness import faithfulness
from workbench.analyses.head_atlas import head_atlas, repeated_spans
from workbench.analyses.path_patching import path_patching
from workbench.analyses.support.heads import head_name
from workbench.results import Grid, Measures

Head = tuple[int, int]
PAIRS = 8
FIRST, SECOND, SPAN = 8, 40, 20  # start positions of the copies of a span, and its length
ASKED = 12  # tokens of the second copy before the predicted one


@pytest.fixture(scope="module")
def tiny() -> OlmoForCausalLM:
    return checkpoints.load("tiny-olmo", dtype="float32")[0]


@pytest.fixture(scope="module")
def atlas(tiny: OlmoForCausalLM) -> Measures:
    return head_atlas(tiny, random_rows(tiny), samples=32, seed=1)


@pytest.fixture(scope="module")
def induction(atlas: Measures) -> list[Head]:
    """The heads that the atlas finds."""
    found = above(atlas["induction"], 0.5)
    assert found, "the last checkpoint should have induction heads"
    return found


def above(grid: Grid, bound: float) -> list[Head]:
    return [(int(layer), int(head)) for layer, head in np.argwhere(grid.values > bound)]


def best(grid: Grid, n: int) -> list[Head]:
    """The n cells furthest from zero, the furthest first."""
    order = np.argsort(-np.abs(grid.values), axis=None)[:n]
    return [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, grid.values.shape), strict=True)]


def random_rows(model: OlmoForCausalLM) -> Tensor:
    """Rows of 60 different random tokens: pair pos."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randperm(model.config.vocab_size, generator=generator)[:60] for _ in range(PAIRS)])


def repeated_rows(rows: Tensor, span: int) -> Tensor:
    """Rows in which a span is repeated, up to a given number of its tokens."""
    return torch.cat([rows[:, :SECOND], rows[:, FIRST : FIRST + span]], dim=1)


def advantage(model: OlmoForCausalLM, rows: Tensor, targets: Tensor, heads: Iterable[Head]) -> float:
    """The loss elsewhere minus the loss on a second copy, in nats, with some heads ablated."""
    without = [edits.zero(f"blocks.{layer}.attn.z", heads=[head]) for layer, head in heads]
    logits = model.run(rows, edits=without).logits[:, :-1]
    losses = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
    second = targets[:, :-1] >= 0
    return float(losses[~second].mean() - losses[second].mean())


def test_the_repeated_text_advantage_rests_on_the_induction_heads(tiny: OlmoForCausalLM, induction: list[Head]) -> None:
    """Equally many other random heads change little; a few draws contain a head that the induction heads depend on."""
    rows, targets = repeated_spans(tiny.config.vocab_size, samples=12, seed=7)
    whole = advantage(tiny, rows, targets, [])
    layers, heads = tiny.config.num_hidden_layers, tiny.config.num_attention_heads
    others = [(layer, head) for layer in range(layers) for head in range(heads) if (layer, head) not in induction]
    draws = [random.Random(seed).sample(others, len(induction)) for seed in range(5)]
    assert whole > 3
    assert advantage(tiny, rows, targets, induction) < 0.1 * whole
    assert median(advantage(tiny, rows, targets, draw) for draw in draws) > 0.8 * whole


@pytest.mark.parametrize("method", METHODS)
def test_ablation_finds_the_circuit(tiny: OlmoForCausalLM, atlas: Measures, induction: list[Head], method: str) -> None:
    """Without the best induction head, or the head that it depends on, the loss on a second copy is high."""
    rows = repeated_rows(random_rows(tiny)[:4], SPAN)
    second = torch.zeros_like(rows, dtype=torch.bool)
    second[:, SECOND + 1 :] = True
    options = {"draws": 2} if method == "resample" else {}
    loss = ablation(tiny, rows, method=method, scored=second, **options)["loss"].values
    for head in (best(atlas["induction"], 1)[0], best(atlas["previous"], 1)[0]):
        assert loss[head] > 5
    assert np.median(loss[:, :-1]) < 0.1, "most heads should have no effect"


def test_patching_and_attribution_agree_on_which_heads_matter(tiny: OlmoForCausalLM, induction: list[Head]) -> None:
    """The token after the first copy is exchanged: the heads that carry it to the end make the prediction."""
    random_tokens = random_rows(tiny)
    clean = repeated_rows(random_tokens, ASKED)
    answer, other = random_tokens[:, FIRST + ASKED], random_tokens[:, -1]
    corrupted = clean.clone()
    corrupted[:, FIRST + ASKED] = other
    exact, estimate = (
        patching(tiny, clean, corrupted, answer.tolist(), other.tolist(), site="attn.z", by="head")
        for patching in (activation_patching, attribution_patching)
    )
    name = "logit_difference"
    assert agreement(exact, estimate).values[list(exact).index(name)] > 0.9
    assert best(exact[name], 1) == best(estimate[name], 1)
    assert set(best(exact[name], 3)) == set(best(estimate[name], 3)) >= set(induction)


def test_the_previous_token_head_acts_through_the_keys_of_the_induction_heads(
    tiny: OlmoForCausalLM, atlas: Measures, induction: list[Head]
) -> None:
    random_tokens = random_rows(tiny)
    clean = repeated_rows(random_tokens, ASKED)
    corrupted = clean.clone()
    corrupted[:, FIRST : FIRST + ASKED] = random_tokens[:, -ASKED:]  # nothing to be found by what preceded it
    answer = random_tokens[:, FIRST + ASKED].tolist()
    path = path_patching(tiny, clean, corrupted, answer, receivers=induction, inputs="k")["logit"]
    assert best(path, 1) == best(atlas["previous"], 1)
    assert path.values.max() > 0.8
    edges = circuit(tiny, clean[:8], corrupted[:8], answer[:8], exact=12)
    reader, writer = (head_name(*best(atlas[kind], 1)[0]) for kind in ("induction", "previous"))
    into_keys = edges.table().query(f"target == '{reader}' and input == 'k'").sort_values("value", ascending=False)
    assert into_keys["source"].iloc[0] == writer and into_keys["value"].iloc[0] > 2 * into_keys["value"].iloc[1]
    assert f"{writer} → {reader} k" in edges.top(3).names
    assert into_keys["exact"].iloc[0] > 0.8 * edges.effect
    assert edges.correlation > 0.8


def copying_rows(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of 48 tokens that begin with 12 different ones and repeat them after a random gap; and where."""
    rows = torch.rand(n, 48, generator=generator).argsort(1)
    second = 12 + torch.randint(0, 20, (n, 1), generator=generator)
    return rows.scatter(1, second + torch.arange(12), rows[:, :12]), second


def copying_loss(model: OlmoForCausalLM, rows: Tensor, second: Tensor) -> Tensor:
    """The loss on the second copy without its first token, which cannot be predicted."""
    logits = model(rows, use_cache=False).logits
    at = second + torch.arange(11)
    predicted = logits.take_along_dim(at[..., None], dim=1)
    return F.cross_entropy(predicted.flatten(0, 1), rows.gather(1, at + 1).flatten())


def trained_to_copy(n_layers: int, most_steps: int) -> tuple[OlmoForCausalLM, int]:
    """A small model trained until it copies, and the steps it took."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    sizes = {"vocab_size": 48, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4}
    config = Olmo2Config(num_hidden_layers=n_layers, max_position_embeddings=48, pad_token_id=None, **sizes)
    model = OlmoForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-4, fused=True)
    steps, loss = 0, math.inf
    while steps < most_steps and loss > 0.2:
        loss = copying_loss(model, *copying_rows(32, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return model.eval(), steps


@torch.no_grad()
def held_out(model: OlmoForCausalLM) -> float:
    return float(copying_loss(model, *copying_rows(128, torch.Generator().manual_seed(1))))


def test_two_layers_form_induction_heads_and_one_does_not() -> None:
    """In the number of steps that two layers need, one layer learns little more than the set of tokens in the row."""
    two, steps = trained_to_copy(2, most_steps=400)
    one, _ = trained_to_copy(1, most_steps=steps)
    assert held_out(two) < 0.3 and held_out(one) > 2.5
    of_two, of_one = (head_atlas(model, copying_rows(16, torch.Generator().manual_seed(2))[0]) for model in (two, one))
    assert best(of_two["induction"], 1)[0][0] == 1 and of_two["induction"].values.max() > 0.3
    assert of_two["previous"].values[0].max() > 0.2, "a previous-token head should be in the first layer"
    assert of_one["induction"].values.max() < 0.1
    writers, readers = ({head_name(*head) for head in above(of_two[kind], 0.2)} for kind in ("previous", "induction"))
    found, share = copying_circuit(two)
    table = found.top(len(found.names)).table()
    assert set(table.query("source == 'embed'")["target"][: len(writers)]) == writers
    between = table[table["source"].str.contains("H") & table["target"].str.contains("H")][: len(readers)]
    assert set(between["input"]) == {"k"} and set(between["source"]) <= writers and set(between["target"]) <= readers
    assert found.correlation > 0.8
    assert share["best edges"] > 0.8 and share["random edges"] < 0.2 and share["without them"] < 0.2


def copying_circuit(model: OlmoForCausalLM) -> tuple[Circuit, dict[str, float]]:
    """The edges that carry which token followed the first copy, and the share of the effect that a third of them keep.

    In the corrupted rows, the token before that one is another.
    """
    rows, second = copying_rows(16, torch.Generator().manual_seed(2))
    clean = [row[: at + 6] for row, at in zip(rows, second[:, 0].tolist(), strict=True)]
    corrupted = [row.clone() for row in clean]
    for row, last in zip(corrupted, rows[:, -1], strict=True):
        row[5] = last
    prompts = (clean, corrupted, rows[:, 6].tolist())
    found = circuit(model, *prompts, exact=8)
    proof = faithfulness(model, found, *prompts, sizes=[len(found.names) // 3], draws=3)
    return found, dict(zip(proof.lines, proof.values[:, 1].tolist(), strict=True))
