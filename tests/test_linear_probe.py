"""A probe reads a label that the states contain, and does not read random labels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.linear_probe import linear_probe, probe_layer
from workbench.errors import WorkbenchError
from workbench.texts import Texts


def texts(n: int = 60, length: int = 5) -> Tensor:
    return torch.randint(1, 99, (n, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def family() -> str:
    """One family is enough: a probe sees only states."""
    return "olmo2"


@pytest.fixture(scope="module")
def two_kinds() -> tuple[Tensor, list[str]]:
    """Texts that end in one of two tokens, which is their label."""
    kinds = torch.arange(60) % 2
    batch = texts()
    batch[:, -1] = 10 + kinds
    return batch, ["even" if kind == 0 else "odd" for kind in kinds]


def test_a_planted_label_is_read_off_the_embedding_and_a_shuffled_one_is_not(
    model: OlmoForCausalLM, two_kinds: tuple[Tensor, list[str]]
) -> None:
    probe = linear_probe(model, *two_kinds, folds=3)
    held_out, shuffled, constant = probe.values
    assert probe.x_labels == ("embed", "0", "1", "2", "3")
    assert held_out[0] == 1 and held_out[-1] > 0.8 and probe.errors[0, 0] == 0 and np.isnan(probe.errors[2]).all()
    assert abs(shuffled - 0.5).mean() < 0.2 and (held_out - shuffled > 4 * probe.errors[1]).all()
    np.testing.assert_allclose(constant, 0.5)


def test_nothing_is_found_in_labels_that_have_nothing_to_do_with_the_texts(model: OlmoForCausalLM) -> None:
    labels = np.random.default_rng(1).permutation(["a", "b"] * 60)
    probe = linear_probe(model, texts(120), labels, folds=3)
    assert abs(probe.values[0] - 0.5).max() < 4 * probe.errors[0].max()


def test_the_last_token_alone_does_not_know_the_first_before_attention(model: OlmoForCausalLM) -> None:
    batch = texts(80)
    batch[:, 0], batch[:, -1] = 10 + torch.arange(80) % 2, 5
    labels = [str(n % 2) for n in range(80)]
    probe = linear_probe(model, batch, labels, folds=2)
    assert probe.values[0, 0] < 0.7 < probe.values[0, -1]
    for position in ("mean", 0, [0] * 80):
        assert linear_probe(model, batch, labels, position=position, folds=2).values[0, 0] > 0.9


def test_the_position_may_differ_between_texts(model: OlmoForCausalLM) -> None:
    """The label is the token at a place that each text has elsewhere."""
    batch, places, kinds = texts(60, 7), torch.arange(60) % 7, torch.arange(60) // 7 % 2
    batch[torch.arange(60), places] = 10 + kinds
    ragged = [row[: max(place + 1, 4)] for row, place in zip(batch, places.tolist(), strict=True)]
    probe = linear_probe(model, ragged, kinds.tolist(), position=places.tolist(), folds=2)
    assert probe.values[0, 0] == 1 > linear_probe(model, ragged, kinds.tolist(), position=0, folds=2).values[0, 0]


@pytest.mark.parametrize("position", [-1, "mean"])
def test_texts_of_different_lengths_are_read_as_if_alone(
    model: OlmoForCausalLM, monkeypatch: pytest.MonkeyPatch, position: int | str
) -> None:
    ragged = [text[: 2 + n % 4] for n, text in enumerate(texts(24))]
    labels = [n % 3 for n in range(24)]
    together = linear_probe(model, ragged, labels, folds=2, position=position)
    monkeypatch.setattr("workbench.analyses.support.memory.TOKENS", 1)
    np.testing.assert_allclose(
        linear_probe(model, ragged, labels, folds=2, position=position).values, together.values, atol=0.1
    )


def test_the_seed_decides(model: OlmoForCausalLM, two_kinds: tuple[Tensor, list[str]]) -> None:
    first, again = (linear_probe(model, *two_kinds, folds=2, seed=3).values for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_texts_of_one_group_are_on_one_side(model: OlmoForCausalLM) -> None:
    """The last token tells the label, but differs between groups: it helps only if a group is on both sides."""
    groups = np.arange(80) % 20
    batch, labels = texts(80), [str(group % 2) for group in groups]
    batch[:, -1] = torch.tensor(20 + groups)
    apart = linear_probe(model, batch, labels, groups=groups, folds=4).values[0, 0]
    assert apart < 0.7 < linear_probe(model, batch, labels, folds=4).values[0, 0]


# One layer in full


def test_a_layer_has_the_accuracy_of_the_curve_and_says_which_texts_are_wrong(
    model: OlmoForCausalLM, two_kinds: tuple[Tensor, list[str]]
) -> None:
    batch, labels = two_kinds
    wrong = [7, 30]  # texts of two labels with the wrong label
    swapped = [("odd" if label == "even" else "even") if n in wrong else label for n, label in enumerate(labels)]
    probe = probe_layer(model, Texts(batch, labels=tuple(swapped)), layer="embed", folds=5)
    assert probe.site == "embed" and probe.wrong == wrong
    assert probe.accuracy == pytest.approx(58 / 60)
    assert probe.accuracy == pytest.approx(linear_probe(model, batch, swapped).values[0, 0])
    assert probe.error == pytest.approx(linear_probe(model, batch, swapped).errors[0, 0])
    np.testing.assert_allclose(probe.confusion.values, np.array([[29, 1], [1, 29]]) / 30, rtol=1e-6)
    assert probe.confusion.text.tolist() == [["29 of 30", "1 of 30"], ["1 of 30", "29 of 30"]]
    assert probe.confusion.rows == probe.confusion.columns == ("even", "odd")
    assert (probe.texts["probability"][wrong] < 0.5).all() and (probe.texts["label"] == swapped).all()


def test_the_direction_of_a_probe_leads_from_label_to_label(
    model: OlmoForCausalLM, two_kinds: tuple[Tensor, list[str]]
) -> None:
    """Along it, the two mean states lie one length apart; added to the texts of one label, it turns their reading."""
    batch, labels = two_kinds
    probe = probe_layer(model, batch, labels, layer=1)
    direction = probe.direction("odd", "even")
    assert direction.site == "blocks.1.resid_post"
    unit = direction.vector.numpy() / direction.norm
    odd, even = (probe.states[[label == name for label in labels]] for name in ("odd", "even"))
    assert (odd.mean(0) - even.mean(0)) @ unit == pytest.approx(direction.norm, rel=1e-4)
    moved = model.run(batch[::2], edits=direction.edit(1.0), capture=direction.site)[direction.site][:, -1]
    assert (probe.classifier.predict(moved.numpy()) == "odd").mean() > 0.9
    back = probe.direction("even", "odd")
    torch.testing.assert_close(back.vector, -direction.vector)
    torch.testing.assert_close(probe.direction("even").vector, back.vector)


def test_a_probe_of_three_labels_has_a_direction_for_each_pair(model: OlmoForCausalLM) -> None:
    kinds, batch = torch.arange(60) % 3, texts()
    batch[:, -1] = 10 + kinds
    probe = probe_layer(model, batch, kinds.tolist(), layer="embed")
    embedding = model.get_input_embeddings().weight.detach()
    for toward, against in ((0, 1), (2, 0)):
        vector = probe.direction(toward, against).vector
        reading = embedding[10:13] @ vector
        assert reading.argmax() == toward and reading.argmin() == against
    assert (embedding[10:13] @ probe.direction(1).vector).argmax() == 1


@pytest.mark.parametrize(
    ("labels", "options", "sentence"),
    [
        (["a"] * 60, {}, "all 60 texts have the label 'a'"),
        (["a"] * 59 + ["b"], {}, "label 'b' has 1 text; with 5 folds each label needs at least 5"),
        (["a", "b"] * 29, {}, "there are 60 texts and 58 labels"),
        (["a", "b"] * 30, {"position": "max"}, "position is 'max'; choose a whole number"),
        (["a", "b"] * 30, {"position": [0, 1]}, "there are 60 texts and 2 positions"),
        (["a", "b"] * 30, {"position": 5}, "text 0 has 5 tokens, so no position 5"),
        (["a", "b"] * 30, {"folds": 1}, "folds is 1"),
        (["a", "b"] * 30, {"groups": [0] * 59}, "there are 60 texts and 59 groups"),
        (["a", "b"] * 30, {"groups": [0, 1] * 30}, "label 'a' has 1 group; with 5 folds"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    model: OlmoForCausalLM, labels: list[str], options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        linear_probe(model, texts(), labels, **options)
    with pytest.raises(WorkbenchError, match=sentence):
        probe_layer(model, texts(), labels, layer=0, **options)


def test_a_layer_or_label_that_is_not_there_is_refused(
    model: OlmoForCausalLM, two_kinds: tuple[Tensor, list[str]]
) -> None:
    with pytest.raises(WorkbenchError, match="no layer 4; choices: embed, 0 to 3"):
        probe_layer(model, *two_kinds, layer=4)
    with pytest.raises(WorkbenchError, match="no text has the label 'third'; labels: even, odd"):
        probe_layer(model, *two_kinds, layer=0).direction("third")
    with pytest.raises(WorkbenchError, match="the texts have no labels"):
        linear_probe(model, two_kinds[0])
