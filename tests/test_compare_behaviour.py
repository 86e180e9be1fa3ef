"""Differences of predictions equal those of the two distributions, for models in memory and by name."""

import math

import numpy as np
import pytest
import torch

from workbench.analyses.compare_behaviour import behaviour_summary, compare_behaviour, divergences
from workbench.analyses.token_losses import token_losses
from workbench.errors import WorkbenchError


@pytest.fixture
def two(make_model, family):
    return make_model(family, seed=1), make_model(family, seed=2)


def test_losses_are_those_of_each_model(two, tokens):
    measures = compare_behaviour(*two, tokens)
    for name, model in zip(("loss_a", "loss_b"), two, strict=True):
        assert np.allclose(measures[name].values, token_losses(model, tokens)["loss"].values, atol=1e-5, equal_nan=True)
    difference = measures["loss_b"].values - measures["loss_a"].values
    assert np.allclose(measures["loss_difference"].values, difference, atol=1e-6, equal_nan=True)


def test_divergences_are_their_formulas(two, tokens):
    measures = compare_behaviour(*two, tokens[:1])
    a, b = (model.run(tokens[:1]).logits[0, :-1].double().softmax(-1).numpy() for model in two)
    mean = (a + b) / 2
    expected = {
        "kl": (a * np.log(a / b)).sum(-1),
        "kl_reverse": (b * np.log(b / a)).sum(-1),
        "js": ((a * np.log(a / mean)).sum(-1) + (b * np.log(b / mean)).sum(-1)) / 2,
        "flip": a.argmax(-1) != b.argmax(-1),
        "overlap": [len(set(x.argsort()[-10:]) & set(y.argsort()[-10:])) / 10 for x, y in zip(a, b, strict=True)],
    }
    for name, values in expected.items():
        assert measures[name].values[0, 1:] == pytest.approx(np.array(values, dtype=float), rel=1e-3, abs=1e-5)
        assert np.isnan(measures[name].values[0, 0])
    assert (measures["js"].values[0, 1:] <= math.log(2)).all()


def test_a_model_behaves_like_itself(model, tokens):
    measures = compare_behaviour(model, model, tokens)
    for name in ("loss_difference", "kl", "kl_reverse", "flip"):
        assert not np.nan_to_num(measures[name].values).any()
    assert np.nanmax(measures["js"].values) < 1e-6
    assert (measures["overlap"].values[:, 1:] == 1).all()


def test_exchanging_the_two_exchanges_the_measures(two, tokens):
    there, back = compare_behaviour(*two, tokens), compare_behaviour(*two[::-1], tokens)
    assert np.array_equal(there["kl"].values, back["kl_reverse"].values, equal_nan=True)
    assert np.allclose(there["js"].values, back["js"].values, atol=1e-6, equal_nan=True)


def test_one_after_the_other_is_the_same_as_side_by_side(tmp_path, two, tokens, tokenizer):
    for name, model in zip("ab", two, strict=True):
        model.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path)
    ids = [str(tmp_path / name) for name in "ab"]
    side_by_side = compare_behaviour(*two, tokens)
    for pair in (ids, [two[0], ids[1]], [ids[0], two[1]]):
        in_turn = compare_behaviour(*pair, tokens)
        assert all(np.array_equal(in_turn[n].values, side_by_side[n].values, equal_nan=True) for n in side_by_side)


@pytest.mark.parametrize("window", [2, 5, 13, 14, 99])
def test_a_long_text_is_read_in_windows_that_leave_out_nothing(make_model, tokens, window):
    two = make_model("olmo", seed=1), make_model("olmo", seed=2)
    values = compare_behaviour(*two, tokens, window=window)["js"].values
    assert values.shape == tuple(tokens.shape)
    assert np.isfinite(values[:, 1:]).all()
    whole = compare_behaviour(*two, tokens)["js"].values
    assert np.allclose(values[:, 1:window], whole[:, 1:window], atol=1e-5)


def test_the_summary_is_the_mean_of_what_is_defined(two, tokens):
    measures = compare_behaviour(*two, tokens)
    summary = dict(zip(*(lambda s: (s.names, s.values))(behaviour_summary(measures)), strict=True))
    assert summary == pytest.approx({name: np.nanmean(curves.values) for name, curves in measures.items()}, rel=1e-5)
    parts = behaviour_summary(measures, unit="nats"), behaviour_summary(measures, unit="")
    assert [part.unit for part in parts] == ["nats", ""] and parts[1].names == ("overlap", "flip")
    assert summary == {name: value for part in parts for name, value in zip(part.names, part.values, strict=True)}
    words = behaviour_summary(measures, in_words=True)
    assert words.names[:3] == ("loss of B − loss of A", "loss of A", "loss of B")
    assert not any("_" in name for name in words.names) and np.array_equal(words.values, [*summary.values()])
    with pytest.raises(WorkbenchError, match="unit='bits'; choices: 'nats', ''"):
        behaviour_summary(measures, unit="bits")


def test_divergences_of_distributions_that_share_nothing():
    a, b = torch.tensor([[0.0, -200.0]]), torch.tensor([[-200.0, 0.0]])
    kl, reverse, js = divergences(a, b)
    assert js.item() == pytest.approx(math.log(2))
    assert kl.item() == reverse.item() == pytest.approx(200.0)


def test_what_cannot_be_compared_is_refused(two, make_model, family, tokens):
    with pytest.raises(WorkbenchError, match="99 and 120 tokens"):
        compare_behaviour(two[0], make_model(family, vocab_size=120), tokens)
    with pytest.raises(WorkbenchError, match="window=1"):
        compare_behaviour(*two, tokens, window=1)
    with pytest.raises(WorkbenchError, match="top=0"):
        compare_behaviour(*two, tokens, top=0)


def test_windows_are_those_of_the_model_that_takes_less(make_model, family, tokens):
    model, short = make_model(family), make_model(family, max_position_embeddings=6)
    for pair in ((model, short), (short, model)):
        windowed = compare_behaviour(*pair, tokens)
        alike = compare_behaviour(*pair, tokens, window=6)
        assert all(np.array_equal(windowed[n].values, alike[n].values, equal_nan=True) for n in windowed)
