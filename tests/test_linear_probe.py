"""A probe reads a label that the states contain, and does not read random labels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.linear_probe import linear_probe
from workbench.errors import WorkbenchError


def texts(n: int = 60, length: int = 5) -> Tensor:
    return torch.randint(1, 99, (n, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def two_kinds() -> tuple[Tensor, list[str]]:
    """Texts that end in one of two tokens, which is their label."""
    kinds = torch.arange(60) % 2
    batch = texts()
    batch[:, -1] = 10 + kinds
    return batch, ["even" if kind == 0 else "odd" for kind in kinds]


def test_a_label_that_is_the_last_token_is_read_off_the_embedding(
    model: OlmoForCausalLM, two_kinds: tuple[Tensor, list[str]]
) -> None:
    probe = linear_probe(model, *two_kinds, splits=2)
    held_out, shuffled, constant = probe.values
    assert probe.x_labels == ("embed", "0", "1", "2", "3")
    assert held_out[0] == 1 and held_out[-1] > 0.8
    assert abs(shuffled - 0.5).mean() < 0.25
    np.testing.assert_allclose(constant, 0.5)


def test_the_last_token_alone_does_not_know_the_first_before_attention(model: OlmoForCausalLM) -> None:
    batch = texts(80)
    batch[:, 0], batch[:, -1] = 10 + torch.arange(80) % 2, 5
    probe = linear_probe(model, batch, [str(n % 2) for n in range(80)], splits=2)
    assert probe.values[0, 0] < 0.7 < probe.values[0, -1]
    assert linear_probe(model, batch, [str(n % 2) for n in range(80)], pool="mean", splits=2).values[0, 0] > 0.9


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_texts_of_different_lengths_are_read_as_if_alone(
    model: OlmoForCausalLM, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    ragged = [text[: 2 + n % 4] for n, text in enumerate(texts(24))]
    labels = [n % 3 for n in range(24)]
    together = linear_probe(model, ragged, labels, splits=2, pool=pool)
    monkeypatch.setattr("workbench.analyses.support.memory.TOKENS", 1)
    np.testing.assert_allclose(
        linear_probe(model, ragged, labels, splits=2, pool=pool).values, together.values, atol=0.1
    )


def test_the_seed_decides(model: OlmoForCausalLM, two_kinds: tuple[Tensor, list[str]]) -> None:
    first, again = (linear_probe(model, *two_kinds, splits=2, seed=3).values for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("labels", "options", "sentence"),
    [
        (["a"] * 60, {}, "all 60 texts have the label 'a'"),
        (["a"] * 59 + ["b"], {}, "label 'b' has 1 text; each label needs at least 2"),
        (["a", "b"] * 29, {}, "there are 60 texts and 58 labels"),
        (["a", "b"] * 30, {"pool": "max"}, "pool is 'max'; choose 'last' or 'mean'"),
        (["a", "b"] * 30, {"splits": 1}, "splits is 1"),
        (["a", "b"] * 30, {"held_out": 1.5}, "held_out is 1.5"),
        (["a", "b"] * 30, {"held_out": 0.01}, "too few to train and test a probe of 2 labels"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    model: OlmoForCausalLM, labels: list[str], options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        linear_probe(model, texts(), labels, **options)
