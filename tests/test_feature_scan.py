"""Where features are active, and cards of features, against a brute-force scan."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from hooks import edits
from tests.test_dictionaries import FEATURES, GATES, PLACES, SITE, random_dictionary
from workbench import WorkbenchError, features
from workbench.activations import shards
from workbench.analyses.logit_lens import unembed
from workbench.analyses.support.mean_loss import mean_loss
from workbench.features import scan as scan_module

MLP = PLACES[1]


@pytest.fixture
def texts():
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(1, 99, (length,), generator=generator) for length in (9, 14, 5, 9, 9, 3)]


def brute_force(model, texts, d):
    """The activations of all features at all tokens: a list of pos feature, one for each text."""
    return [d.encode(model.run(ids[None], capture=d.reads)[d.reads][0]).dense() for ids in texts]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("place", [(SITE, SITE), MLP])
def test_a_scan_is_the_brute_force_scan(model, texts, tmp_path, gate, place):
    d = random_dictionary(gate, *place)
    scan = features.of(model, texts, d, tmp_path / "scan")
    wanted = brute_force(model, texts, d)
    whole = torch.cat(wanted)
    torch.testing.assert_close(scan.density, (whole > 0).float().mean(0))
    torch.testing.assert_close(scan.peak, whole.amax(0).clamp_min(0), atol=1e-4, rtol=1e-4)
    for feature in range(FEATURES):
        text, position, value = scan.places(feature)
        assert (value[:-1] >= value[1:]).all()
        found = {(int(t), int(p)) for t, p in zip(text, position, strict=True)}
        assert found == {(t, int(p)) for t, acts in enumerate(wanted) for p in (acts[:, feature] > 0).nonzero()[:, 0]}
        expected = torch.stack([wanted[t][p, feature] for t, p in zip(text, position, strict=True)]) if found else value
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)


def test_a_stopped_scan_goes_on_and_a_damaged_file_is_made_again(model, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(scan_module, "BATCH_TOKENS", 10)
    d = random_dictionary()
    whole = features.of(model, texts, d, tmp_path / "whole")

    def killed(fraction, _):
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.of(model, texts, d, tmp_path / "scan", progress=killed)
    parts = sorted((tmp_path / "scan").glob("part-*"))
    assert len(parts) > 1
    parts[0].write_bytes(parts[0].read_bytes()[:-3])
    written = []
    monkeypatch.setattr(
        scan_module, "write_shard", lambda path, *rest: written.append(path) or shards.write_shard(path, *rest)
    )
    found = features.of(model, texts, d, tmp_path / "scan")
    assert parts[0] in written and not set(parts[1:]) & set(written)
    for name in ("starts", "text", "position", "value"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    written.clear()
    again = features.of(model, texts, d, tmp_path / "scan")
    assert written == [] and torch.equal(again.value, whole.value)


def test_another_scan_in_the_folder_is_refused(model, texts, tmp_path):
    features.of(model, texts, random_dictionary(), tmp_path)
    with pytest.raises(WorkbenchError, match="another dictionary, model or set of texts; give another folder"):
        features.of(model, texts, random_dictionary(seed=1), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="cannot be written"):
        features.of(model, texts, random_dictionary(), tmp_path / "file")


def test_without_a_folder_the_scan_is_in_the_cache(model, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    d = random_dictionary()
    one = features.of(model, texts, d)
    [folder] = (tmp_path / "olmo-workbench" / "features").iterdir()
    assert torch.equal(features.of(model, texts, d, folder).value, one.value)


@pytest.mark.parametrize("place", [(SITE, SITE), MLP])
def test_a_card_is_what_a_brute_force_look_finds(model, texts, tmp_path, tokenizer, place):
    d = random_dictionary("topk", *place)
    scan = features.of(model, texts, d, tmp_path)
    feature = int(scan.counts.argmax())
    found = features.card(model, d, feature, scan, tokenizer=tokenizer, examples=4, around=2)
    acts = [one[:, feature] for one in brute_force(model, texts, d)]
    flat = torch.cat(acts)
    active = flat[flat > 0]
    assert (found.count, found.density) == (len(active), len(active) / len(flat))
    assert (found.peak, found.mean) == pytest.approx((float(active.max()), float(active.mean())), rel=1e-4)
    assert [one.value for one in found.top] == pytest.approx(
        sorted((float(a.max()) for a in acts), reverse=True)[:4], rel=1e-4
    )
    assert sum(found.histogram[1]) == len(active)
    ranks = [round(r * (len(active) - 1) / 3) for r in range(4)]
    assert [one.value for one in found.quantiles] == pytest.approx(
        active.sort(descending=True).values[ranks].tolist(), rel=1e-4
    )
    for one in found.top:
        ids = texts[one.text].tolist()
        assert list(one.tokens) == [f"w{i}" if i else "pad" for i in ids[one.start : one.start + len(one.tokens)]]
        assert one.values == pytest.approx(
            acts[one.text][one.start : one.start + len(one.values)].tolist(), rel=1e-4, abs=1e-5
        )
    off = features.switch_off(d, feature)
    tops = [texts[one.text] for one in found.top]
    with model.tapped(edits=off):
        without = mean_loss(model, tops)
    assert found.loss_change == pytest.approx(without - mean_loss(model, tops), rel=1e-3, abs=1e-5)
    assert len(found.table()) == 8 and len(found.raised) == len(found.lowered) == 4


def test_logit_effects_are_those_of_what_the_feature_writes_at_the_end(model, texts, tmp_path):
    d = random_dictionary()
    scan = features.of(model, texts, d, tmp_path)
    feature = int(scan.counts.argmax())
    found = features.card(model, d, feature, scan, examples=1)
    [example] = found.top
    last = "blocks.3.resid_post"
    stream = model.run(texts[example.text][None], capture=last)[last][0, example.position]
    change = unembed(model, stream) - unembed(model, stream - example.value * d.decoder[feature])
    change = (change - change.mean()).detach()
    assert found.raised[0] == (str(int(change.argmax())), pytest.approx(float(change.max()), rel=1e-3))
    assert found.lowered[0] == (str(int(change.argmin())), pytest.approx(float(change.min()), rel=1e-3))
    elsewhere = replace(d, reads="blocks.1.mlp_out_raw", writes="blocks.1.mlp_out_raw")
    assert features.card(model, elsewhere, feature, features.of(model, texts, elsewhere, tmp_path / "b")).raised == ()


def test_neighbours_are_the_nearest_directions(model, texts, tmp_path):
    d, other, wide = random_dictionary(), random_dictionary(seed=2), random_dictionary(sources=("a", "b"))
    copied = replace(other, decoder=other.decoder.index_copy(0, torch.tensor([7]), 2 * d.decoder[[3]]))
    found = features.nearest(d, 3, {"other": copied, "wide": wide})
    assert (found[0].dictionary, found[0].feature, found[0].cosine) == ("other", 7, pytest.approx(1.0))
    assert {one.dictionary for one in features.nearest(d, 3, {"wide": wide})} <= {"wide at a", "wide at b"}
    cosines = F.cosine_similarity(copied.decoder, d.decoder[3][None])
    assert [one.cosine for one in features.nearest(d, 3, {"o": copied}, most=5)] == pytest.approx(
        cosines.sort(descending=True).values[:5].tolist(), abs=1e-6
    )


def test_a_crosscoder_has_scans_and_cards(make_model, texts, tmp_path):
    models = {"a": make_model("olmo2", seed=0), "b": make_model("olmo2", seed=1)}
    d = random_dictionary(sources=("a", "b"))
    scan = features.of(models, texts, d, tmp_path)
    stacked = torch.stack([model.run(texts[1][None], capture=SITE)[SITE][0] for model in models.values()], 1)
    acts = d.encode(stacked).dense()
    feature = int(acts.sum(0).argmax())
    text, position, value = scan.places(feature)
    wanted = acts[:, feature]
    torch.testing.assert_close(value[text == 1].sort().values, wanted[wanted > 0].sort().values, atol=1e-4, rtol=1e-4)
    found = features.card(models, d, feature, scan, source="a")
    top = found.top[0].text
    ids = texts[top][None]
    both = torch.stack([model.run(ids, capture=SITE)[SITE] for model in models.values()], 2)
    written = d.encode(both).of(feature)[..., None] * d.directions[feature, 0]
    change = [edits.add(SITE, -written)]
    one = features.card(models, d, feature, scan, source="a", examples=1)
    with models["a"].tapped(edits=change):
        without = mean_loss(models["a"], ids)
    assert one.loss_change == pytest.approx(without - mean_loss(models["a"], ids), rel=1e-3, abs=1e-5)
    assert position.max() < 14


def test_a_feature_that_is_never_active_has_a_card(model, texts, tmp_path):
    d = random_dictionary("relu")
    d = replace(d, encoder_bias=torch.full((FEATURES,), -1e4))
    found = features.card(model, d, 5, features.of(model, texts, d, tmp_path), prompt=texts[0][None], strengths=[1.0])
    assert (found.count, found.peak, found.top, found.loss_change) == (0, 0.0, (), None)
    assert len(found.steered) == 1 and len(found.table()) == 0


def test_steered_texts_are_greedy_and_begin_unsteered(model, texts, tmp_path):
    d = random_dictionary()
    scan = features.of(model, texts, d, tmp_path)
    feature = int(scan.counts.argmax())
    found = features.card(model, d, feature, scan, prompt=texts[0][None], strengths=[0.0, 5.0])
    plain = model.generate(texts[0][None], max_new_tokens=24, do_sample=False)[0, 9:]
    assert found.steered[0].text == " ".join(map(str, plain.tolist()))
    assert found.steered[1].text != found.steered[0].text


def test_wrong_features_and_scans_are_refused(model, texts, tmp_path):
    d = random_dictionary()
    scan = features.of(model, texts, d, tmp_path)
    for feature in (-1, FEATURES, "3", True):
        with pytest.raises(WorkbenchError, match="features 0 to 79"):
            features.card(model, d, feature, scan)
        with pytest.raises(WorkbenchError, match="features 0 to 79"):
            scan.places(feature)
    smaller = replace(d, encoder=d.encoder[:, :40], encoder_bias=d.encoder_bias[:40], decoder=d.decoder[:40])
    with pytest.raises(WorkbenchError, match="the scan is of 80 features, and the dictionary has 40"):
        features.card(model, smaller, 3, scan)
