"""Training of dictionaries: planted directions come back, a stopped training goes on, measures are what they say."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from hooks import edits
from tests.test_dictionaries import random_dictionary
from workbench import WorkbenchError, features, record
from workbench.analyses.support.mean_loss import mean_loss
from workbench.features import Stored, Streamed, TrainingSettings
from workbench.features.sources import ReadAndWritten

SITE, MLP = "blocks.1.resid_post", ("blocks.2.mlp_in", "blocks.2.mlp_out")
SMALL = TrainingSettings(features=48, k=4, batches=12, save_every=5, warmup=2, dead_after=100)


class Planted:
    """Sparse mixtures of known directions: each activation is a sum of a few of them, with random weights and noise."""

    reads = writes = "blocks.0.resid_post"
    checkpoints, family, identity = ("planted",), "", {}

    def __init__(self, width=32, directions=48, active=3, sources=1, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.directions = F.normalize(torch.randn(directions, sources * width, generator=generator), dim=1)
        self.active, self.width = active, width

    def weights(self, generator):
        """How much of each direction is in each of 512 activations."""
        chosen = torch.rand(512, len(self.directions), generator=generator).argsort(1)[:, : self.active]
        amounts = 1 + torch.rand(512, self.active, generator=generator)
        return torch.zeros(512, len(self.directions)).scatter(1, chosen, amounts)

    def batch(self, number):
        generator = torch.Generator().manual_seed(number)
        weights = self.weights(generator)
        x = weights @ self.directions + 0.3 + 0.01 * torch.randn(512, self.directions.shape[1], generator=generator)
        x = x.unflatten(1, (-1, self.width))
        return ReadAndWritten(x, x)


@pytest.fixture
def texts():
    return torch.randint(1, 99, (40, 12), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("gate", ["topk", "batchtopk"])
def test_planted_directions_come_back(gate):
    planted = Planted()
    settings = TrainingSettings(72, 3, gate, batches=300, learning_rate=1e-2, dead_after=2000, warmup=10, seed=1)
    d = features.train(planted, settings)
    cosines = F.normalize(planted.directions, dim=1) @ F.normalize(d.decoder, dim=1).T
    assert cosines.max(1).values.mean() >= 0.95
    x = planted.batch(10_000).read[:, 0]
    assert d.error(x).square().sum() < 0.1 * (x - x.mean(0)).square().sum()
    assert d.encode(x).l0 == pytest.approx(3, abs=0.3)


def test_the_rows_of_the_decoder_have_norm_1():
    d = features.train(Planted(), SMALL)
    torch.testing.assert_close(d.decoder.norm(dim=1), torch.ones(48))


def test_the_exported_dictionary_is_the_trained_one():
    """The scaling of the activations is in the weights: it reconstructs what training saw."""
    planted = Planted()
    trainer = features.training._Trainer(planted, SMALL)
    for _ in range(12):
        trainer.advance()
    d, x = trainer.dictionary(), planted.batch(40).read
    w = {name: tensor.detach() for name, tensor in trainer.weights.items()}
    pre = (trainer.reading(x) - w["decoder_bias"]) @ w["encoder"] + w["encoder_bias"]
    size = trainer.writing.size
    torch.testing.assert_close(
        d.encode(x[:, 0]).dense(), (pre * (pre > d.gate.threshold / size)) * size, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("writes", [None, MLP[1]])
def test_a_killed_training_goes_on_to_the_same_weights(model, texts, tmp_path, writes):
    def source():
        return Streamed({"m": model}, texts, MLP[0], writes, batch_tokens=60)

    whole = features.train(source(), SMALL)

    def killed(fraction, _):
        if fraction > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.train(source(), SMALL, tmp_path / "run", progress=killed)
    assert 0 < torch.load(tmp_path / "run" / "training.pt", weights_only=True)["step"] < SMALL.batches
    resumed = features.train(source(), SMALL, tmp_path / "run")
    again = features.train(source(), SMALL, tmp_path / "run")  # finished: nothing is trained
    for name in ("encoder", "encoder_bias", "decoder", "decoder_bias"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name))
        assert torch.equal(getattr(again, name), getattr(whole, name))
    assert torch.equal(resumed.gate.threshold, whole.gate.threshold)


def test_kept_activations_train_to_the_same_weights_when_stopped(model, texts, tmp_path):
    def source():
        return Streamed({"m": model}, texts, SITE, batch_tokens=60, keep=True)

    kept = source()
    first = [kept.batch(number).read for number in range(8)]  # a round
    again = [kept.batch(number).read for number in range(8, 16)]
    assert {tuple(x.flatten().tolist()) for x in first} == {tuple(x.flatten().tolist()) for x in again}
    whole = features.train(source(), SMALL)

    def killed(fraction, _):
        if fraction > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.train(source(), SMALL, tmp_path, progress=killed)
    assert torch.equal(features.train(source(), SMALL, tmp_path).encoder, whole.encoder)


def test_another_training_in_the_folder_is_refused(model, texts, tmp_path):
    source = Streamed({"m": model}, texts, SITE, batch_tokens=60)
    features.train(source, SMALL, tmp_path)
    with pytest.raises(WorkbenchError, match="another training: seed 0, not 1; give another folder"):
        features.train(source, replace(SMALL, seed=1), tmp_path)
    with pytest.raises(WorkbenchError, match="another training: texts"):
        features.train(Streamed({"m": model}, texts[1:], SITE, batch_tokens=60), SMALL, tmp_path)
    (tmp_path / "training.pt").write_bytes(b"PK broken")
    with pytest.raises(WorkbenchError, match=r"training.pt is damaged"):
        features.train(source, SMALL, tmp_path)
    (tmp_path / "training.json").write_text("[]")
    with pytest.raises(WorkbenchError, match=r"training.json is damaged"):
        features.train(source, SMALL, tmp_path)


def test_a_recording_trains_too(model, texts, tmp_path):
    stored = record(model, texts, list(MLP), tmp_path / "activations", checkpoint="m")
    source = Stored(stored, *MLP, batch_tokens=50)
    assert source.batch(0).read.shape == (50, 1, 32)
    rows = torch.cat([source.batch(number).read[:, 0] for number in range(9)])
    whole = stored[MLP[0]][:]
    where = (rows[:, None] == whole).all(-1)
    assert where.any(1).all() and where.any(0).sum() >= len(rows)  # each once in a round, but for equal rows
    assert not torch.equal(source.batch(0).read, source.batch(9).read)
    d = features.train(source, SMALL)
    assert (d.kind, d.reads, d.writes, d.model) == ("transcoder", *MLP, "m")
    with pytest.raises(WorkbenchError, match=r"'embed' was not recorded; .* holds blocks.2.mlp_in"):
        Stored(stored, "embed")


def test_a_crosscoder_reads_several_checkpoints(make_model, texts):
    models = {"a": make_model("olmo2", seed=0), "b": make_model("olmo2", seed=1)}
    d = features.train(Streamed(models, texts, SITE, batch_tokens=60), SMALL)
    assert (d.kind, d.sources, d.family) == ("crosscoder", ("a", "b"), "olmo2")
    found = features.quality(d, models, texts)
    assert set(found) == {"a", "b"}
    with pytest.raises(WorkbenchError, match="missing: b"):
        features.quality(d, {"a": models["a"]}, texts)
    with pytest.raises(WorkbenchError, match="different families"):
        Streamed({"a": models["a"], "c": make_model("olmo3")}, texts, SITE)


def test_two_columns_of_one_checkpoint_have_the_same_norms(model, texts):
    d = features.train(Streamed({"a": model, "b": model}, texts, SITE, batch_tokens=60), SMALL)
    norms = d.directions.norm(dim=-1)
    assert torch.equal(norms[:, 0], norms[:, 1])


class PlantedInOne(Planted):
    """Two sources with the same directions, but for some that only the second has."""

    def __init__(self, exclusive=8):
        super().__init__(sources=1)
        self.exclusive = exclusive
        self.checkpoints = ("a", "b")

    def batch(self, number):
        weights = self.weights(torch.Generator().manual_seed(number))
        here = weights.clone()
        here[:, : self.exclusive] = 0
        x = torch.stack([here @ self.directions, weights @ self.directions], 1)
        return ReadAndWritten(x, x)


def test_directions_planted_in_one_source_are_exclusive_and_no_others():
    planted = PlantedInOne()
    settings = TrainingSettings(72, 3, batches=300, learning_rate=1e-2, dead_after=2000, warmup=10, seed=1)
    d = features.train(planted, settings)
    cosines = F.normalize(planted.directions, dim=1) @ F.normalize(d.directions[:, 1], dim=1).T
    found = cosines.max(1).values > 0.9
    assert found.float().mean() >= 0.9
    norms = d.directions.norm(dim=-1)
    share = (norms[:, 1] / norms.sum(1))[cosines.argmax(1)]  # of the second source, of each planted direction
    exclusive = torch.arange(len(share)) < planted.exclusive
    assert (share[found & exclusive] > 0.7).all() and (share[found & ~exclusive] < 0.6).all()


@pytest.mark.parametrize("place", [(SITE, SITE), MLP])
def test_the_measures_are_what_they_say(model, texts, place):
    d = random_dictionary("topk", *place)
    [found] = features.quality(d, model, texts).values()
    run = model.run(texts, capture=list(place))
    y = run[place[1]]
    error = d.error(run[place[0]], y).double()
    assert found.explained == pytest.approx(
        1 - float(error.square().sum() / (y - y.mean((0, 1))).square().sum()), rel=1e-4
    )
    assert found.l0 == pytest.approx(d.encode(run[place[0]]).l0)
    assert found.dead == int((d.encode(run[place[0]]).dense() > 0).any(0).any(0).logical_not().sum())
    assert found.loss == pytest.approx(mean_loss(model, texts), rel=1e-5)
    with model.tapped(edits=features.replace(d)):
        assert found.replaced == pytest.approx(mean_loss(model, texts), rel=1e-5)
    with model.tapped(edits=edits.replace(place[1], y.mean((0, 1)))):
        assert found.ablated == pytest.approx(mean_loss(model, texts), rel=1e-5)
    assert found.recovered == pytest.approx((found.ablated - found.replaced) / (found.ablated - found.loss))
    assert list(found.table()["tokens"]) == [texts.numel()]


def test_texts_of_several_lengths_are_measured_alike(model, texts):
    d = random_dictionary()
    ids = [texts[0], texts[1, :7], texts[2, :5]]
    [found] = features.quality(d, model, ids).values()
    with model.tapped(edits=features.replace(d)):
        assert found.replaced == pytest.approx(mean_loss(model, ids), rel=1e-5)


def test_products_in_bfloat16_change_little():
    planted = Planted()
    one, other = (features.train(planted, replace(SMALL, half=half)) for half in (False, True))
    assert F.cosine_similarity(one.decoder, other.decoder).mean() > 0.98
    assert not torch.equal(one.encoder, other.encoder)


def test_dead_features_are_revived():
    planted = Planted()
    x = torch.cat([planted.batch(number).read[:, 0] for number in range(500, 505)])
    dead = []
    for weight in (0.0, 1 / 4):
        trainer = features.training._Trainer(planted, replace(SMALL, auxiliary=weight, batches=100, learning_rate=3e-2))
        with torch.no_grad():
            trainer.weights["encoder_bias"][:24] = -6.0
        for _ in range(100):
            trainer.advance()
        dead.append(int((trainer.dictionary().encode(x).dense() == 0).all(0).sum()))
    assert dead[0] >= 20 and dead[1] < dead[0] - 5


@pytest.mark.parametrize(
    "change",
    [{"k": 0}, {"features": 3, "k": 4}, {"gate": "relu"}, {"batches": 0}, {"learning_rate": 0}, {"auxiliary": -1}],
)
def test_settings_below_their_least_are_refused(change):
    with pytest.raises(WorkbenchError):
        TrainingSettings(**change)
