"""A feature as a metric of `trajectory`: what it is at each checkpoint, of an SAE and of a crosscoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.test_dictionaries import random_dictionary
from workbench import Texts, WorkbenchError, checkpoints, features, metrics, trajectory
from workbench.activations.recording import weights_digest
from workbench.features.along_run import source_with_weights_of

SITE = "blocks.1.resid_post"


@pytest.fixture(scope="module")
def series(tmp_path_factory, make_model, tokenizer):
    """A series of three random checkpoints, stored in bfloat16."""
    folder = tmp_path_factory.mktemp("run")
    for seed, name in enumerate(("step0", "step10", "step20")):
        make_model("olmo2", seed=seed, vocab_size=99).to(torch.bfloat16).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder)
    return checkpoints.series(folder)


@pytest.fixture(scope="module")
def texts():
    drawn = np.random.default_rng(3)
    rows = torch.zeros(5, 15, dtype=torch.long)
    mask = torch.zeros(5, 15, dtype=torch.bool)
    for row, length in enumerate((9, 12, 12, 7, 15)):
        rows[row, :length] = torch.from_numpy(drawn.integers(1, 99, length))
        mask[row, :length] = True
    return Texts(rows, mask)


@pytest.fixture(scope="module")
def crosscoder(series):
    """Its weights are random; it knows two of the checkpoints, in bfloat16."""
    known = [one.id for one in series[:2]]
    digests = [weights_digest(checkpoints.load(name, dtype="bfloat16")[0]) for name in known]
    return random_dictionary("topk", SITE, SITE, known, provenance={"sizes": [0.5, 1.0], "weights": digests})


def test_of_a_crosscoder_it_is_the_births_on_the_same_texts(series, texts, crosscoder, tmp_path):
    run = series[:2]
    models = {one.id: checkpoints.load(one)[0] for one in run}
    found = features.births_on_texts(crosscoder, models, texts)
    scan = features.of(models, texts, crosscoder, tmp_path / "scan")
    for feature in np.argsort(-found.density.max(1))[:3].tolist():
        density = trajectory(run, metrics.feature_density(crosscoder, feature, scan), cache=None)
        np.testing.assert_allclose(density.values[0], found.density[feature], atol=1e-6)
        need = trajectory(run, metrics.feature_need(crosscoder, feature, scan), cache=tmp_path / "cache")
        losses = features.token_losses_without(crosscoder, models, [[], [feature]], texts).double()
        rise = (losses[1] - losses[0]).nansum((1, 2)).numpy() / found.counts[feature]
        np.testing.assert_allclose(need.values[0], rise, atol=1e-4)
        again = trajectory(run, metrics.feature_need(crosscoder, feature, scan), cache=tmp_path / "cache")
        assert np.array_equal(again.values, need.values)
    assert found.density[feature].max() > 0
    with pytest.raises(WorkbenchError, match="step20: this checkpoint is not one of those that the crosscoder reads"):
        trajectory(series, metrics.feature_density(crosscoder, 1, scan), cache=None)


def test_of_an_sae_each_checkpoint_is_encoded(series, texts):
    sae = random_dictionary("topk")
    for feature in (3, 17):
        density = trajectory(series, metrics.feature_density(sae, feature, texts), cache=None).values[0]
        need = trajectory(series, metrics.feature_need(sae, feature, texts), cache=None).values[0]
        for index, one in enumerate(series):
            model = checkpoints.load(one)[0]
            active, rise = 0, 0.0
            for ids in texts:
                x = model.run(ids[None], capture=SITE)[SITE]
                active += int((sae.encode(x).of(feature) > 0).sum())
                changed = [
                    model.run(ids[None], edits=edit).logits[0, :-1] for edit in ((), features.switch_off(sae, feature))
                ]
                losses = [torch.nn.functional.cross_entropy(one, ids[1:], reduction="sum").item() for one in changed]
                rise += losses[1] - losses[0]
            assert density[index] == pytest.approx(active / texts.tokens)
            assert need[index] == pytest.approx(rise / active if active else 0, abs=1e-4)


def test_sources_are_known_by_their_weights_in_any_dtype(series, crosscoder):
    for number, one in enumerate(series[:2]):
        for dtype in ("float32", "bfloat16"):
            assert source_with_weights_of(crosscoder, checkpoints.load(one, dtype=dtype)[0]) == number


def test_what_cannot_be_measured_is_refused(series, texts, crosscoder, tmp_path):
    with pytest.raises(WorkbenchError, match="give a scan of the texts"):
        metrics.feature_need(crosscoder, 1, texts)
    with pytest.raises(WorkbenchError, match="no feature 80"):
        metrics.feature_density(random_dictionary(), 80, texts)
    model = checkpoints.load(series[0])[0]
    with pytest.raises(WorkbenchError, match="does not know the weights"):
        source_with_weights_of(replace(crosscoder, provenance={}), model)
    scan = features.of(model, texts, random_dictionary("relu"), tmp_path / "scan")
    few = random_dictionary("topk", SITE, SITE, crosscoder.sources, provenance=crosscoder.provenance)
    short = replace(few, encoder=few.encoder[:, :9], encoder_bias=few.encoder_bias[:9], decoder=few.decoder[:9])
    with pytest.raises(WorkbenchError, match="the scan is of 80 features, and the dictionary has 9"):
        trajectory(series[:1], metrics.feature_need(short, 1, scan), cache=None)
