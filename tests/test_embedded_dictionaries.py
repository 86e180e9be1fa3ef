"""The dictionaries that come with the embedded series: complete, small enough, and as good as their card says."""

import json

import pytest
import torch

from workbench import Texts, checkpoints, features
from workbench.features.files import EMBEDDED_DICTIONARIES
from workbench.tiny_olmo import card
from workbench.tiny_olmo.train_dictionaries import CARD, CROSSCODER, LAST, PLANS, SCORES, SOURCES

LIMIT = 40_000_000
SCORED = json.loads(SCORES.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def last():
    return checkpoints.load(LAST)


def test_each_that_is_planned_is_there_and_has_scores():
    assert features.embedded() == sorted(f"tiny-olmo@{name}" for name in PLANS)
    assert set(SCORED) == set(PLANS)


def test_they_are_small_enough():
    assert sum(path.stat().st_size for path in EMBEDDED_DICTIONARIES.rglob("*") if path.is_file()) <= LIMIT


@pytest.mark.parametrize("name", PLANS)
def test_each_says_what_it_is_and_fits(name, last):
    d = features.load(f"tiny-olmo@{name}")
    ids, reads, writes, settings = PLANS[name]
    assert (d.reads, d.writes, len(d), d.gate.k) == (reads, writes or reads, settings.features, settings.k)
    assert (d.sources or (d.model,)) == ids and d.family == last[0].config.model_type
    d.check_fits(last[0])


def test_the_crosscoder_has_eight_checkpoints_and_both_other_finals():
    d = features.load(f"tiny-olmo@{CROSSCODER}")
    assert d.sources == SOURCES
    run = [name for name in d.sources if "order" not in name]
    assert len(run) >= 8 and {f"{LAST}-order2", f"{LAST}-order3"} <= set(d.sources)


def test_the_card_has_these_scores():
    text = CARD.read_text(encoding="utf-8")
    assert card.put_between(text, "scores", card.dictionary_table(SCORED)) == text


@pytest.mark.parametrize("name", ["step6000/blocks.2.resid_post", "step6000/blocks.2.mlp"])
def test_the_scores_are_about_those_of_other_texts(name, last):
    """The card's scores are of held-out rows; these are of a built-in set, so they differ somewhat."""
    model, tokenizer = last
    texts = Texts.read("tiny-olmo/english", tokenizer)[:6]
    [found] = features.quality(features.load(f"tiny-olmo@{name}"), model, texts).values()
    [said] = SCORED[name].values()
    assert found.explained == pytest.approx(said["explained"], abs=0.15)
    assert found.recovered == pytest.approx(said["recovered"], abs=0.15)
    assert torch.isfinite(torch.tensor(found.replaced))


def test_a_graph_finds_the_plural_that_a_verb_agrees_with(last):
    """In "The cats near the tree", the "s" is what raises "were" over "was" most, by features at its position."""
    model, tokenizer = last
    transcoders = {name: features.load(name) for name in features.embedded() if name.endswith(".mlp")}
    ids = tokenizer("The cats near the tree", return_tensors="pt")["input_ids"]
    graph = features.attribution_graph(model, ids, transcoders, " were", " was", tokenizer=tokenizer)
    table = graph.table().set_index("name")
    assert table[table["kind"] == "token"]["effect"].idxmax() == "token @2 s"
    assert table[table["kind"] == "feature"]["effect"].idxmax().endswith("@2")
    assert graph.rounding < 1e-5 and graph.agreement > 0.7
