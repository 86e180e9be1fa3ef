"""Influence is the dot product of gradients: against backward passes of each row, known answers and planted rows."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM
from workbench import WorkbenchError, checkpoints, corpus
from workbench.corpus.directional import directional_derivatives, factors
from workbench.corpus.gradients import gradient_of
from workbench.corpus.influence import quantiles, random_places
from workbench.texts import as_texts

VOCAB = 99


def backward(model: OlmoForCausalLM, ids: Tensor, last: int) -> Tensor:
    """The gradient of the loss, averaged over the last tokens, as one vector; by an ordinary backward pass."""
    model.zero_grad()
    logits = model(input_ids=ids[None]).logits[0, :-1]
    F.cross_entropy(logits[-last:], ids[1:][-last:]).backward()
    found = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    model.zero_grad()
    return found


def random_texts(lengths: Sequence[int], seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, VOCAB, (length,), generator=generator) for length in lengths]


@pytest.fixture
def series(tmp_path, make_model, tokenizer):
    for seed, step in enumerate((0, 10)):
        make_model("olmo", seed=seed, num_hidden_layers=2).save_pretrained(tmp_path / "run" / f"step{step}")
    tokenizer.save_pretrained(tmp_path / "run")
    return checkpoints.series(str(tmp_path / "run"))


def test_scores_are_dot_products_of_the_gradients_of_each_row(pair):
    model = pair.ours
    rows, prediction = random_texts([9, 14, 5, 14]), random_texts([8], seed=6)[0]
    rows[0][3] = prediction[2] = model.config.pad_token_id or 0  # its embedding has no gradient
    expected = np.array([float(backward(model, row, len(row) - 1) @ backward(model, prediction, 3)) for row in rows])
    found = directional_derivatives(model, gradient_of(model, prediction, 3), as_texts(rows))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert all(weight.grad is None for weight in model.parameters())


def test_a_score_is_the_change_of_the_loss_along_the_gradient(model):
    """A central difference, without any derivative of the row's loss; norms are computed in float32, the rest in 64."""
    model, row, size = copy.deepcopy(model).double(), random_texts([12])[0], 2e-3
    gradient = gradient_of(model, random_texts([8], seed=6)[0], 3)

    def loss(amount: float) -> float:
        moved = {name: value.detach() + amount * gradient[name] for name, value in model.named_parameters()}
        logits = torch.func.functional_call(model, moved, kwargs={"input_ids": row[None]}).logits[0, :-1]
        return float(F.cross_entropy(logits, row[1:]))

    found = directional_derivatives(model, gradient, as_texts([row]))
    assert found[0] == pytest.approx((loss(size) - loss(-size)) / (2 * size), rel=1e-3)


@pytest.mark.parametrize("length", [9, 150])
def test_thin_matrices_in_place_of_a_gradient_give_the_same_scores(length: int):
    """The gradient of a short text has a low rank in each layer of this width, that of a long text has not."""
    model, _ = checkpoints.load("tiny-olmo@step1000")
    prediction, rows = random_texts([length], seed=2)[0], random_texts([12, 20, 12])
    gradient = gradient_of(model, prediction, None)
    thin = [factors(value)[0] is not None for name, value in gradient.items() if "layers" in name]
    assert all(thin) if length == 9 else not any(thin)
    direction = torch.cat([value.flatten() for value in gradient.values()]).double()
    expected = np.array([float(backward(model, row, len(row) - 1).double() @ direction) for row in rows])
    found = directional_derivatives(model, gradient, as_texts(rows))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("rank", [0, 1, 3, 20, 30, 60])
def test_the_factors_of_a_matrix_give_it_back(rank: int):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(128, rank, generator=generator) @ torch.randn(rank, 200, generator=generator)
    inner, outer = factors(matrix)
    if rank == 60:
        assert inner is None and (matrix == outer.T).all()
    else:
        assert inner is not None and len(inner) == len(outer) == max(rank, 1)
        assert (outer.T @ inner - matrix).abs().max() < 1e-4


def test_the_influence_of_a_row_on_itself_is_its_squared_norm(model):
    row = random_texts([12])[0]
    found = directional_derivatives(model, gradient_of(model, row, None), as_texts([row]))
    assert found[0] == pytest.approx(float(backward(model, row, 11).square().sum()), rel=1e-5)


def test_checkpoints_are_summed_with_their_rates(series, tokens):
    rows, rates = random_texts([9, 12]), [0.5, 2.0]
    found = corpus.influence(series, tokens[0], rows, rates=rates)
    expected = np.zeros(2)
    for checkpoint, rate in zip(series, rates, strict=True):
        model = checkpoints.load(checkpoint)[0]
        prediction = backward(model, tokens[0], 1)
        expected += [rate * float(backward(model, row, len(row) - 1) @ prediction) for row in rows]
    assert found["score"].values == pytest.approx(expected, rel=1e-4)
    assert found["score"].names == ("row 0", "row 1")


def test_the_cosine_of_a_row_with_itself_is_one_in_every_metric(series, tokens):
    others = random_texts([9, 12, 7])
    for precondition in ("none", "adam"):
        found = corpus.influence(
            series,
            tokens[0],
            [tokens[0], *others],
            predicted=None,
            rates=[1, 0],
            cosine=True,
            precondition=precondition,
        )["score"].values
        assert found[0] == pytest.approx(1, rel=1e-4)
        assert (np.abs(found[1:]) < 0.99).all()


def test_adam_divides_by_the_root_mean_square_of_the_rows(series, tokens):
    rows = random_texts([9, 12])
    found = corpus.influence(series[:1], tokens[0], rows, rates=[1], precondition="adam", background=tokens)
    model = checkpoints.load(series[0])[0]
    scale = torch.stack([backward(model, row, len(row) - 1) for row in tokens]).square().mean(0).sqrt() + 1e-8
    direction = backward(model, tokens[0], 1) / scale
    expected = [float(backward(model, row, len(row) - 1) @ direction) for row in rows]
    assert found["score"].values == pytest.approx(expected, rel=1e-3)
    assert "estimated" in found["score"].provenance["precondition"]


def test_a_planted_row_comes_first(tmp_path, make_model, tokenizer):
    """A few steps of gradient descent on one row among others: its own text is predicted by no other row as well."""
    model = make_model("olmo2", num_hidden_layers=2)
    rows = random_texts([12] * 40, seed=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for step in range(4):
        model.save_pretrained(tmp_path / "run" / f"step{step}")
        model(input_ids=rows[7][None], labels=rows[7][None]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tokenizer.save_pretrained(tmp_path / "run")
    found = corpus.influence(checkpoints.series(str(tmp_path / "run")), rows[7], rows, predicted=None)
    assert found.rank("score")["name"][0] == "row 7"
    assert found["quantile"].values[7] == pytest.approx(1 - 0.5 / len(rows))


def test_quantiles_are_shares_of_the_background():
    background = np.array([1.0, 2.0, 2.0, 5.0])
    assert quantiles(np.array([0.0, 2.0, 3.0, 9.0]), background).tolist() == [0, 0.5, 0.75, 1]


def test_the_background_decides_the_quantiles_and_not_the_scores(series, tokens):
    rows, background = random_texts([9, 12]), random_texts([9] * 7, seed=1)
    alone = corpus.influence(series, tokens[0], rows)
    beside = corpus.influence(series, tokens[0], rows, background=background)
    others = corpus.influence(series, tokens[0], background)["score"].values
    assert (alone["score"].values == beside["score"].values).all()
    assert beside["quantile"].values == pytest.approx([(others < score).mean() for score in alone["score"].values])


def test_random_places_are_different_rows_in_order():
    sizes = [3, 0, 2, 4]
    assert random_places(sizes, 9, 0) == [(step, row) for step, size in enumerate(sizes) for row in range(size)]
    some = random_places([32] * 50, 100, seed=1)
    assert len(set(some)) == 100 and some == sorted(some) and some != random_places([32] * 50, 100, seed=2)
    with pytest.raises(WorkbenchError, match="at most the 9 rows of the steps"):
        random_places(sizes, 10, 0)


def test_wrong_arguments_are_refused(series, tokens):
    one = tokens[0]
    for options, message in [
        ({"precondition": "kfac"}, "precondition='kfac'; choices: none, adam"),
        ({"rates": [1.0]}, "1 rates and 2 checkpoints"),
        ({"predicted": 14}, "predicted=14; a text of 14 tokens has 1 to 13"),
    ]:
        with pytest.raises(WorkbenchError, match=message):
            corpus.influence(series, one, tokens, **options)
    with pytest.raises(WorkbenchError, match="a row has 1 token"):
        corpus.influence(series, one, [one, one[:1]])
    with pytest.raises(WorkbenchError, match="without checkpoints"):
        corpus.influence([], one, tokens)
