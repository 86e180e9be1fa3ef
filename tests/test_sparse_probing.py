"""A label that is one feature is read from one feature, and a shuffled label from none."""

import numpy as np
import pytest
import torch

from workbench import Texts, WorkbenchError, features
from workbench.features import Dictionary, Gate

SITE, WIDTH, FEATURES = "embed", 32, 80


@pytest.fixture
def family() -> str:
    """One family is enough: the analysis sees only states."""
    return "olmo2"


@pytest.fixture
def planted(model):
    """Texts of three labels, each told by ten last tokens; a dictionary whose features 3, 5 and 7 read them, and
    whose others are random."""
    kinds = torch.arange(90) % 3
    ids = torch.randint(40, 99, (90, 4), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 10 + torch.arange(90) % 30
    read = model.get_input_embeddings().weight.detach().float()[10:40]
    encoder = torch.randn(WIDTH, FEATURES, generator=torch.Generator().manual_seed(1))
    bias = torch.zeros(FEATURES)
    for kind, feature in enumerate((3, 5, 7)):
        own = torch.arange(30) % 3 == kind
        encoder[:, feature] = torch.linalg.pinv(read) @ (5.0 * own)  # 5 at its own tokens, 0 at the others
        bias[feature] = -1
    sae = Dictionary(encoder, bias, encoder.T.clone(), torch.zeros(WIDTH), Gate("relu"), SITE, SITE)
    return sae, Texts(ids, labels=[("a", "b", "c")[kind] for kind in kinds])


def test_a_feature_that_is_the_label_is_found_alone(planted, model):
    found = features.sparse_probing(planted[0], model, planted[1], ks=(1, 2), folds=3)
    lines = dict(zip(found.accuracy.lines, found.accuracy.values, strict=True))
    assert (lines["features"] == 1).all() and (found.accuracy.errors[0] == 0).all()
    assert (lines["coordinates"] < lines["whole state"]).all()
    best = found.best.groupby("label").first()
    assert best["feature"].to_dict() == {"a": 3, "b": 5, "c": 7}
    assert np.allclose(best["with"], 4, atol=1e-3) and np.allclose(best["without"], 0)


def test_shuffled_labels_are_read_by_chance(planted, model):
    sae, texts = planted
    mixed = np.random.default_rng(2).permutation(texts.labels)
    found = features.sparse_probing(sae, model, texts, mixed, ks=(1, 2), folds=3).accuracy
    assert (abs(found.values - 0.5) < 4 * found.errors + 1e-9).all() and (found.errors > 0).all()
    control = features.sparse_probing(sae, model, texts, ks=(1, 2), folds=3).accuracy
    assert (abs(control.values[-1] - 0.5) < 4 * control.errors[-1]).all()


def test_a_rare_label_does_not_make_a_constant_guess_good(planted, model):
    """One text in six has the label, and it is in no state: always guessing the others is right in 5 of 6."""
    sae, texts = planted
    rare = np.random.default_rng(3).permutation(["x"] * 15 + ["y"] * 75)
    found = features.sparse_probing(sae, model, texts, rare, ks=(1,), folds=3).accuracy
    assert (abs(found.values - 0.5) < 0.2).all()


def test_mean_over_tokens_and_lengths(planted, model):
    """A text that is read at its last token alone is one of one token, and padding is not read."""
    sae, texts = planted
    ragged = [row[n % 3 :] for n, row in enumerate(texts.ids)]
    last, single = (
        features.sparse_probing(sae, model, some, texts.labels, ks=(1,), folds=3, position=position)
        for some, position in ((ragged, -1), (texts.ids[:, -1:], "mean"))
    )
    assert np.allclose(last.accuracy.values, single.accuracy.values)
    assert last.best.equals(single.best)
    pooled = features.sparse_probing(sae, model, ragged, texts.labels, ks=(1,), folds=3, position="mean")
    lengths = np.array([len(row) for row in ragged])
    assert not np.allclose(pooled.best["with"][0], 4) and (lengths > 1).all()


def test_a_crosscoder_reads_all_of_its_sources(planted, model, make_model):
    sae, texts = planted
    sources = ("run@step0", "run@step1")
    encoder = torch.cat([torch.zeros_like(sae.encoder), sae.encoder])
    both = Dictionary(
        encoder, sae.encoder_bias, encoder.T.clone(), torch.zeros(2 * WIDTH), sae.gate, SITE, SITE, sources=sources
    )
    models = {sources[0]: make_model("olmo2", seed=3), sources[1]: model}
    found, alone = (
        features.sparse_probing(one, given, texts, ks=(1,), folds=3) for one, given in ((both, models), (sae, model))
    )
    assert np.array_equal(found.accuracy.values[0], alone.accuracy.values[0])
    assert found.best["feature"].tolist() == alone.best["feature"].tolist()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ks": ()}, "k is empty"),
        ({"ks": (0,)}, "k is 0; give numbers from 1 to 32"),
        ({"ks": (40,)}, "k is 40"),
        ({"labels": ["a"] * 90}, "needs two labels"),
        ({"position": 9}, "no position 9"),
    ],
)
def test_what_cannot_be_probed_is_one_sentence(planted, model, options, sentence):
    with pytest.raises(WorkbenchError, match=sentence):
        features.sparse_probing(planted[0], model, planted[1], **options)
