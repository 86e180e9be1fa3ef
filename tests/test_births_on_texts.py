"""Births on texts: known answers of latent scaling, losses without features, families and random groups."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hooks import edits
from tests.test_dictionaries import random_dictionary
from workbench import WorkbenchError, features
from workbench.features import Dictionary, Gate
from workbench.features.births_on_texts import BirthSums
from workbench.features.compare_sources import SourceSums
from workbench.features.families import clusters, families_of, random_groups
from workbench.features.reading import read_by
from workbench.texts import as_texts

ENDS = ("run@step10", "run@step10-order2")
SITE, WIDTH, SHARED = "blocks.1.resid_post", 24, 16
PLANTED = SHARED  # a direction that only the second end has
SOURCES = ("run@step0", "run@step10", "run@step10-order2")


@pytest.fixture(scope="module")
def models(make_model):
    named = zip(SOURCES, (0, 1, 2), strict=True)
    return {name: make_model("olmo2", seed=seed, vocab_size=99) for name, seed in named}


@pytest.fixture(scope="module")
def crosscoder():
    return random_dictionary("topk", SITE, SITE, SOURCES, provenance={"sizes": [0.5, 1.0, 2.0]})


@pytest.fixture(scope="module")
def texts():
    drawn = np.random.default_rng(3)
    return as_texts([torch.from_numpy(drawn.integers(1, 99, length)) for length in (9, 12, 12, 7, 15)])


def planted_activations(tokens=4000, seed=0):
    """Activations of two ends, token source d_model: sparse sums of directions that both have, and one that only the
    second has; and the directions: direction d_model, orthonormal."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q[: SHARED + 1]
    amounts = torch.rand(tokens, SHARED + 1, generator=generator) + 0.5
    amounts *= torch.rand(tokens, SHARED + 1, generator=generator) < 0.15
    both = amounts.clone()
    both[:, PLANTED] = 0
    noise = 0.05 * torch.randn(2, tokens, WIDTH, generator=generator)
    return torch.stack([both @ directions, amounts @ directions], 1) + noise.transpose(0, 1), directions


def of_columns(columns, directions):
    """A crosscoder of the two ends, whose features are pairs of numbers of directions, None for no direction."""
    parts = torch.zeros(len(columns), 2, WIDTH)
    for feature, pair in enumerate(columns):
        for end, number in enumerate(pair):
            if number is not None:
                parts[feature, end] = directions[number]
    decoder = parts.flatten(1)
    encoder = decoder / decoder.square().sum(1, keepdim=True)
    n = len(columns)
    gate = Gate("jumprelu", threshold=torch.full((n,), 0.3))
    made = (encoder.T.clone(), torch.zeros(n), decoder, torch.zeros(2 * WIDTH), gate, SITE, SITE)
    return Dictionary(*made, sources=ENDS, provenance={"sizes": [1.0, 1.0]})


def births_of(dictionary, x):
    born = features.births(dictionary)
    sums = BirthSums(dictionary, torch.ones(2), [0, 1], born)
    sums.add(x, x, None, torch.arange(len(x)) % 2)
    return sums.result()


def compared_ends(dictionary, x):
    """The table of `compare_sources` for both ends, by feature."""
    sums = SourceSums(dictionary, 0, 1)
    sums.add(x)
    return sums.table().sort_values("feature")


RIGHT = [*((number, number) for number in range(SHARED)), (None, PLANTED)]


def test_a_feature_planted_in_one_end_is_exclusive_and_no_other_is():
    x, directions = planted_activations()
    found = births_of(of_columns(RIGHT, directions), x)
    assert np.flatnonzero(found.exclusive).tolist() == [PLANTED]
    assert found.holding_ends[PLANTED].tolist() == [False, True] and found.holding_ends[:PLANTED].all()
    assert abs(found.in_error[PLANTED, 0]) < 0.05 and abs(found.in_reconstruction[PLANTED, 0]) < 0.1
    np.testing.assert_allclose(found.in_error[:PLANTED], 1, atol=0.1)
    np.testing.assert_allclose(found.scaled, found.norms, atol=0.1)  # nothing to scale: all was written
    np.testing.assert_allclose(found.counts / len(x), 0.15, atol=0.03)
    np.testing.assert_allclose(found.mean[:PLANTED], 1, atol=0.1)
    np.testing.assert_allclose(found.density[:PLANTED, 0], found.counts[:PLANTED] / len(x), atol=0.02)
    assert found.density[PLANTED, 0] < 0.01


def test_a_shared_feature_whose_direction_shrank_to_nothing_is_found_in_the_error():
    x, directions = planted_activations()
    found = births_of(of_columns([(None, 0), *RIGHT[1:]], directions), x)
    assert found.apart[0] == 1 and found.holding_ends[0].tolist() == [False, True]
    assert found.in_error[0, 0] > 0.9 and found.scaled[0, 0] > 0.9
    assert np.flatnonzero(found.exclusive).tolist() == [PLANTED]


def test_a_shared_feature_that_was_split_in_two_is_found_in_the_reconstruction():
    x, directions = planted_activations()
    found = births_of(of_columns([(None, 0), *RIGHT[1:], (0, None)], directions), x)
    assert found.holding_ends[0].tolist() == [False, True]
    assert abs(found.in_error[0, 0]) < 0.1 and found.in_reconstruction[0, 0] > 0.9
    assert (found.twin[0], found.twin[-1]) == (len(found) - 1, 0) and found.likeness[0] > 0.8
    assert np.flatnonzero(found.exclusive).tolist() == [PLANTED]


@pytest.mark.parametrize("columns", [RIGHT, [(None, 0), *RIGHT[1:]], [(None, 0), *RIGHT[1:], (0, None)]])
def test_a_comparison_of_two_ends_names_the_features_that_are_exclusive_among_ends(columns):
    x, directions = planted_activations()
    dictionary = of_columns(columns, directions)
    found, compared = births_of(dictionary, x), compared_ends(dictionary, x)
    assert np.flatnonzero(compared["only"] == "B").tolist() == np.flatnonzero(found.exclusive).tolist() == [PLANTED]
    smaller = range(len(found)), found.end_norms.argmin(1)
    for name in ("in_error", "in_reconstruction"):
        np.testing.assert_allclose(compared[name], getattr(found, name)[smaller], atol=1e-4)


@pytest.mark.parametrize(("share", "is_new"), [(0.2, False), (0.9, True)])
def test_a_feature_is_in_one_end_only_if_the_activations_have_half_of_what_is_written_there(share, is_new):
    """The last feature is active with direction 3, and writes in the first end what stands there in part."""
    x, directions = planted_activations()
    unused = torch.linalg.qr(directions.T, mode="complete").Q[:, -1]
    x[:, 0] += share * (x[:, 0] @ directions[3])[:, None] * unused
    dictionary = of_columns([*RIGHT, (3, 3)], directions)
    dictionary.decoder[-1] = torch.cat([unused, torch.zeros(WIDTH)])
    found, compared = births_of(dictionary, x), compared_ends(dictionary, x)
    assert found.refit[-1] == pytest.approx(share, abs=0.05) and abs(found.in_error[-1, 1]) < 0.1
    assert bool(found.exclusive[-1]) is is_new and (compared["only"].iloc[-1] == "A") is is_new
    np.testing.assert_allclose(compared["refit_a"].iloc[-1], share * compared["size_a"].iloc[-1], rtol=0.1)
    np.testing.assert_allclose(found.refit[:-1], 1, atol=0.1)


def test_births_after_scaling_are_those_of_the_scaled_norms_and_rare_features_have_none():
    x, directions = planted_activations()
    found = births_of(of_columns(RIGHT, directions), x[:60])
    rare = found.counts < 30
    assert rare.all() and np.isnan(found.scaled).all() and np.isnan(found.after_scaling().born).all()
    assert not found.exclusive.any() and found.families().empty
    whole = births_of(of_columns(RIGHT, directions), x)
    assert np.array_equal(whole.after_scaling().norms, whole.scaled)
    assert np.array_equal(whole.table()["born scaled"], whole.after_scaling().born, equal_nan=True)


def test_counts_are_those_of_a_scan_and_firing_is_among_them(crosscoder, models, texts, tmp_path):
    found = features.births_on_texts(crosscoder, models, texts)
    scan = features.of(models, texts, crosscoder, tmp_path / "scan")
    assert found.tokens == texts.tokens and np.array_equal(found.counts, scan.counts.numpy())
    assert (found.density * found.tokens <= found.counts[:, None] + 1e-3).all() and found.density.max() > 0
    assert np.array_equal(found.norms, features.births(crosscoder).norms) and found.need.size == 0
    backwards = dict(reversed(models.items()))
    again = features.births_on_texts(crosscoder, backwards, texts)
    assert np.array_equal(again.density, found.density) and np.array_equal(again.mean, found.mean)


def test_the_need_is_the_slope_of_the_loss(crosscoder, models, texts):
    small = replace(crosscoder, decoder=crosscoder.decoder * 0.003)
    found = features.births_on_texts(small, models, texts, need=True)
    often = np.argsort(-found.counts)[:4].tolist()
    losses = features.token_losses_without(small, models, [[], *([one] for one in often)], texts).double()
    rise = (losses[1:] - losses[:1]).nansum((2, 3)).numpy() / found.counts[often][:, None]
    np.testing.assert_allclose(found.need[often], rise, atol=0.03 * abs(rise).max())


def test_no_features_taken_away_change_no_loss(crosscoder, models, texts):
    found = features.token_losses_without(crosscoder, models, [[], [3], [3, 7, 7]], texts)
    assert found.shape == (3, 3, len(texts), texts.longest)
    for source, model in enumerate(models.values()):
        for row, ids in enumerate(texts):
            logits = model.run(ids[None]).logits[0, :-1]
            wanted = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            torch.testing.assert_close(found[0, source, row, 1 : len(ids)], wanted, rtol=1e-4, atol=1e-5)
            assert found[0, source, row, 0].isnan() and found[0, source, row, len(ids) :].isnan().all()
    silent = (features.births_on_texts(crosscoder, models, texts).counts == 0).nonzero()[0].tolist()
    assert silent
    without = features.token_losses_without(crosscoder, models, [[], silent], texts)
    assert torch.equal(without[0].nan_to_num(), without[1].nan_to_num())


def test_token_losses_without_a_feature_are_those_of_the_edit_by_hand(crosscoder, models, texts):
    ids = texts[2][None]
    x = torch.stack([model.run(ids, capture=SITE)[SITE] for model in models.values()], 2)
    firing = crosscoder.encode(x)
    feature = int(firing.indices[0, 4, 0])
    amounts = firing.of(feature)
    found = features.token_losses_without(crosscoder, models, [[feature]], ids, sources=[SOURCES[1]])[0, 0, 0, 1:]
    written = amounts[..., None] * crosscoder.directions[feature, 1]
    logits = models[SOURCES[1]].run(ids, edits=edits.add(SITE, -written)).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    sae = random_dictionary("topk")
    feature = int(sae.encode(x[:, :, 0]).indices[0, 4, 0])
    model = models[SOURCES[0]]
    logits = model.run(ids, edits=features.switch_off(sae, feature)).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    torch.testing.assert_close(features.token_losses_without(sae, model, [[feature]], ids)[0, 0, 0, 1:], wanted)


def test_an_effect_along_the_run_is_what_the_logit_loses_without_the_feature(crosscoder, models):
    """In each checkpoint and final; and nothing where the feature writes nothing."""
    ids = torch.tensor([[5, 17, 3, 42, 8, 9]])
    firing = crosscoder.encode(read_by(crosscoder, models, ids[:, :5]))
    absent = int(firing.indices[0, 4, 0])
    parts = crosscoder.decoder.clone().unflatten(1, (len(SOURCES), -1))
    parts[absent, 0] = 0
    planted = replace(crosscoder, decoder=parts.flatten(1))
    found = features.effects_along_run(planted, models, ids, 7, 11, position=4, most=10_000)
    effect, ends = found
    assert set(effect.lines[1:]) == {f"feature {n}" for n in firing.indices[firing.values > 0].tolist()}
    assert list(effect.x) == [0, 10] and ends.columns == ("step10", "step10-order2")
    for place, (name, model) in enumerate(models.items()):
        plain = model.run(ids[:, :5]).logits[0, -1]
        for line in (effect.lines[1], f"feature {absent}"):
            edit = features.switch_off_in(planted, int(line.split()[1]), models, ids[:, :5], source=name)
            fall = plain - model.run(ids[:, :5], edits=edit).logits[0, -1]
            row = effect.lines.index(line)
            given = effect.values[row, place] if place < 2 else ends.values[row - 1, 1]
            assert given == pytest.approx(float(fall[7] - fall[11]), abs=1e-4)
        if place < 2:
            assert effect.values[0, place] == pytest.approx(float(plain[7] - plain[11]), abs=1e-4)
    assert effect.values[effect.lines.index(f"feature {absent}"), 0] == 0
    few = features.effects_along_run(planted, models, ids, most=2).effect
    assert len(few.lines) == 3 and few.title.endswith(str(int(models[ENDS[0]].run(ids).logits[0, -1].argmax())))
    for said, options in {"most is 0": {"most": 0}, "position": {"position": 6}, "is active": {"position": 4}}.items():
        silent = replace(planted, encoder_bias=torch.full_like(planted.encoder_bias, -1e6))
        with pytest.raises(WorkbenchError, match=said):
            features.effects_along_run(silent, models, ids, **options)


def test_the_need_of_a_group_is_beside_random_groups(crosscoder, models, texts):
    counts = features.births_on_texts(crosscoder, models, texts).counts
    group = np.argsort(-counts)[:3].tolist()
    curves = features.group_need(crosscoder, models, group, texts, last=4, draws=2)
    assert curves.lines == (
        "loss",
        "rise without the group",
        "rise without random ones, lowest",
        "rise without random ones, highest",
    )
    assert list(curves.x) == [0, 10] and (curves.values[2] <= curves.values[3]).all()
    losses = features.token_losses_without(crosscoder, models, [[], group], texts, sources=SOURCES[:2]).double()
    kept = torch.stack(
        [losses[:, :, row, length - 4 : length].flatten(2) for row, length in enumerate(texts.lengths)], 2
    ).mean((2, 3))
    np.testing.assert_allclose(curves.values[:2], [kept[0], kept[1] - kept[0]], rtol=1e-4, atol=1e-6)


def test_families_are_born_together_and_active_together():
    likeness = np.full((7, 7), 0.1)
    for group in ([0, 1, 2], [3, 4]):
        likeness[np.ix_(group, group)] = 0.8
    born = np.array([5, 5, 9, 5, 5, 5, np.nan])
    assert families_of(likeness, born, np.ones(7, bool)).tolist() == [0, 0, -1, 1, 1, -1, -1]
    assert families_of(likeness, born, np.arange(7) > 0).tolist() == [-1, -1, -1, 0, 0, -1, -1]
    assert [group.tolist() for group in clusters(likeness)] == [[0, 1, 2], [3, 4]]


def test_random_groups_are_as_large_and_about_as_often_active():
    counts = np.random.default_rng(0).integers(0, 1000, 400)
    group = [7, 30, 200, 399]
    groups = random_groups(counts, group, 6, seed=1)
    assert groups == random_groups(counts, group, 6, seed=1) != random_groups(counts, group, 6, seed=2)
    for one in groups:
        assert len(set(one)) == 4 and not set(one) & set(group)
        np.testing.assert_allclose(np.sort(counts[one]), np.sort(counts[group]), atol=60)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda d, m, t: features.births_on_texts(random_dictionary(), m, t), "births need a crosscoder"),
        (lambda d, m, t: features.births_on_texts(d, {SOURCES[0]: m[SOURCES[0]]}, t), f"missing: {SOURCES[1]}, "),
        (lambda d, m, t: features.token_losses_without(d, m, [[80]], t), "no feature 80; this crosscoder has"),
        (lambda d, m, t: features.token_losses_without(d, m, [[1]], t, sources=["x"]), "no source 'x'"),
        (lambda d, m, t: features.group_need(d, m, [], t), "the group of features is empty"),
        (lambda d, m, t: features.group_need(d, m, range(41), t), "the group has 41 of 80 features"),
        (lambda d, m, t: features.group_need(d, m, [1], t, last=7), "at least 8"),
    ],
)
def test_what_cannot_be_measured_is_refused(crosscoder, models, texts, call, sentence):
    with pytest.raises(WorkbenchError, match=sentence):
        call(crosscoder, models, texts)
