"""`features train`, `scan`, `card` and `born` print the numbers of their functions."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from random_transcoders import cross_layer
from texts_of_analyses import transcoders

from workbench import Texts, checkpoints, features, load_result
from workbench.command_line import common, main
from workbench.features import Gate

SITE = "blocks.1.resid_post"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_model, tokenizer):
    """A series of two random checkpoints, and texts."""
    folder = tmp_path_factory.mktemp("series")
    for seed, name in enumerate(("step0", "step10")):
        make_model("olmo2", seed=seed).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder)
    words = np.random.default_rng(0).integers(1, 99, (40, 12))
    lines = [json.dumps({"text": " ".join(f"w{word}" for word in row)}) for row in words]
    (folder / "texts.jsonl").write_text("\n".join(lines))

    labelled = [
        json.dumps({"text": f"{json.loads(line)['text']} w{number % 2 + 1}", "label": "ab"[number % 2]})
        for number, line in enumerate(lines)
    ]
    (folder / "labelled.jsonl").write_text("\n".join(labelled))
    return folder


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A folder with a dictionary that the command trained, and the table that it printed."""
    out, table = tmp_path_factory.mktemp("out") / "sae", folder / "measures.csv"
    given = ["--features", "40", "--k", "3", "--tokens", "20000", "--texts", str(folder / "texts.jsonl")]
    given += ["--probed", str(folder / "labelled.jsonl")]
    assert (
        main(["features", "train", f"{folder}@step10", "--site", SITE, *given, "--out", str(out), "--csv", str(table)])
        == 0
    )
    return out, pd.read_csv(table, comment="#")


def read(folder, tmp_path, *arguments):
    path = tmp_path / "out.csv"
    given = ["--texts", str(folder / "texts.jsonl"), "--out", str(tmp_path / "scan"), "--csv", str(path)]
    assert main(["features", *arguments, *given]) == 0
    return pd.read_csv(path, comment="#")


def test_train_writes_the_dictionary_and_its_measures(trained, folder):
    out, table = trained
    d = features.load(out)
    assert (d.reads, len(d), d.gate.k, d.model, d.family) == (SITE, 40, 3, f"{folder}@step10", "olmo2")
    model, tokenizer = checkpoints.load(f"{folder}@step10")
    texts = Texts.read(folder / "texts.jsonl", tokenizer)
    held_out = texts[torch.randperm(40, generator=torch.Generator().manual_seed(0))[:4]]
    [found] = features.quality(d, model, held_out).values()
    assert table.loc[0, "explained"] == pytest.approx(found.explained, rel=1e-4)
    assert table.loc[0, "recovered"] == pytest.approx(found.recovered, rel=1e-3)
    labelled = Texts.read(folder / "labelled.jsonl", tokenizer, label="label")
    probed = features.sparse_probing(d, model, labelled, ks=(1, 5)).accuracy.values
    np.testing.assert_allclose(table.loc[0, ["probe 1", "probe 5", "probe state"]].astype(float), [*probed[0], 1.0])


def test_scan_lists_every_feature(trained, folder, tmp_path):
    table = read(folder, tmp_path, "scan", str(trained[0]))
    model, tokenizer = checkpoints.load(f"{folder}@step10")
    texts = Texts.read(folder / "texts.jsonl", tokenizer)
    scan = features.of(model, texts, features.load(trained[0]), tmp_path / "other")
    assert list(table.sort_values("feature")["count"]) == scan.counts.tolist()
    assert table["count"].is_monotonic_decreasing


def test_card_shows_a_feature(trained, folder, tmp_path, capsys):
    scan = read(folder, tmp_path, "scan", str(trained[0]))
    feature = int(scan.loc[0, "feature"])
    options = ["--prompt", "w1 w2", "--strengths", "0", "3", "--others", str(trained[0])]
    numbers = read(folder, tmp_path, "card", str(trained[0]), str(feature), *options)
    assert numbers.loc[0, "count"] == scan.loc[0, "count"]
    near = pd.read_csv(tmp_path / "out-neighbours.csv", comment="#")
    assert near.loc[0, "feature"] == feature and near.loc[0, "cosine"] == pytest.approx(1)
    assert len(pd.read_csv(tmp_path / "out-steered.csv", comment="#")) == 2
    assert "Examples" in capsys.readouterr().out


def test_probe_reads_labels_from_few_features_and_saves_them(trained, folder, tmp_path):
    files = ["--csv", str(tmp_path / "p.csv"), "--save", str(tmp_path / "p.npz")]
    given = ["--texts", str(folder / "labelled.jsonl"), "--label", "label", "--best", "1", "3"]
    assert main(["features", "probe", str(trained[0]), *given, *files]) == 0
    model, tokenizer = checkpoints.load(f"{folder}@step10")
    texts = Texts.read(folder / "labelled.jsonl", tokenizer, label="label")
    wanted = features.sparse_probing(features.load(trained[0]), model, texts, ks=(1, 3))
    np.testing.assert_array_equal(load_result(tmp_path / "p.npz").values, wanted.accuracy.values)
    best = pd.read_csv(tmp_path / "p-best-features.csv", comment="#")
    assert list(best["feature"]) == list(wanted.best["feature"]) and wanted.accuracy.values[3, 0] == 1


def test_a_crosscoder_is_trained_scanned_and_shown(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "cross"
    given = ["--features", "20", "--k", "2", "--tokens", "8000", "--texts", str(folder / "texts.jsonl")]
    given += ["--probed", "none"]
    assert (
        main(["features", "train", f"{folder}@step0", f"{folder}@step10", "--site", SITE, *given, "--out", str(out)])
        == 0
    )
    assert features.load(out).sources == (f"{folder}@step0", f"{folder}@step10")
    table = read(folder, tmp_path, "scan", str(out))
    assert len(table) == 20
    read(folder, tmp_path, "card", str(out), str(int(table.loc[0, "feature"])))
    often = [str(feature) for feature in table["feature"][:2]]
    monkeypatch.setattr(common, "STATED", 0)
    saved = ["--save", str(tmp_path / "born.npz")]
    born = read(folder, tmp_path, "born", str(out), "--need", "--sort", "feature", "--without", *often, *saved)
    assert "births on texts: about " in capsys.readouterr().err
    models = {name: checkpoints.load(name)[0] for name in features.load(out).sources}
    tokenizer = checkpoints.tokenizer_of(f"{folder}@step0")
    texts = Texts.read(folder / "texts.jsonl", tokenizer)
    measured = features.births_on_texts(features.load(out), models, texts, need=True)
    kept, found = load_result(tmp_path / "born.npz")["births"], measured.table()
    np.testing.assert_array_equal(kept.norms, measured.norms)
    np.testing.assert_allclose(kept.need, measured.need, rtol=1e-3, atol=1e-6)
    assert list(born) == list(found) and list(born["count"]) == list(found["count"])
    np.testing.assert_allclose(born["need step10"], found["need step10"], rtol=1e-3, atol=1e-6)
    assert list(pd.read_csv(tmp_path / "out-checkpoints.csv", comment="#")["step"]) == [0, 10]
    without = pd.read_csv(tmp_path / "out-loss-without-2-features.csv", comment="#")
    curves = features.group_need(features.load(out), models, [int(one) for one in often], texts)
    np.testing.assert_allclose(without["rise without the group"], curves.values[1], rtol=1e-3, atol=1e-6)


def test_births_of_the_weights_alone_need_no_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "load", None)
    path = tmp_path / "born.csv"
    assert main(["features", "born", "--weights-only", "--sort", "apart", "--csv", str(path)]) == 0
    table = pd.read_csv(path, comment="#")
    assert len(table) == 1024 and table["apart"].is_monotonic_increasing
    assert "born in all ends" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "{}@step10"], "train needs a --site"),
        (
            ["train", "{0}@step10", "--site", SITE, "--texts", "{0}/texts.jsonl", "--probed", "{0}/texts.jsonl"],
            "no column",
        ),
        (
            ["train", "{0}@step10", "--site", "blocks.9.resid_post", "--texts", "{0}/texts.jsonl"],
            "no site 'blocks.9.resid_post'",
        ),
        (["train", "{}@step10", "--site", SITE], "or give --texts"),
        (
            ["train", "{}@step10", "--site", SITE, "--texts", "tiny-olmo/english", "--k", "9", "--features", "8"],
            "k is 9",
        ),
        (["scan", "nowhere"], "no dictionary 'nowhere'"),
        (["scan", "a", "b"], "scan takes one dictionary"),
        (["card", "tiny-olmo@step6000/none", "3"], "no embedded dictionary"),
        (["card", "a", "x"], "the number of a feature"),
        (["card"], "features card needs a NAME"),
        (["probe", "a", "b"], "probe takes one dictionary"),
        (["card", "a", "1", "--save", "{0}/card.npz"], "features card has no results to --save"),
        (["born", "a", "b"], "born takes one crosscoder or series"),
        (["born", "tiny-olmo@step6000/blocks.2.resid_post"], "births need a crosscoder"),
        (["born", "--weights-only", "--sort", "age"], "no column 'age' to sort by"),
        (["born", "--weights-only", "--need"], "--need and --without run the models"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(arguments, sentence, folder, capsys):
    assert main(["features", *(word.format(folder) for word in arguments)]) == 1
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said


def test_graph_lists_nodes_and_edges_and_writes_the_json_file(folder, tmp_path, capsys):
    model, tokenizer = checkpoints.load(f"{folder}@step10")
    names = [str(features.save(one, tmp_path / f"t{n}")) for n, one in enumerate(transcoders(model).values())]
    options = ["--dictionary", *names, "--token", "w5", "--against", "w6", "--checks", "3", "--nodes", "0.9"]
    files = ["--csv", str(tmp_path / "n.csv"), "--json", str(tmp_path / "g.json"), "--save", str(tmp_path / "g.npz")]
    assert main(["graph", "w1 w2 w3", "--checkpoint", f"{folder}@step10", *options, *files]) == 0
    ids = tokenizer("w1 w2 w3", return_tensors="pt")["input_ids"]
    wanted = features.attribution_graph(model, ids, {name: features.load(name) for name in names}, 5, 6, checks=3)
    small, found = wanted.pruned(0.9), load_result(tmp_path / "g.npz")
    np.testing.assert_allclose(found.values, wanted.values, atol=1e-5)
    nodes, edges = (pd.read_csv(tmp_path / f"n{part}.csv", comment="#") for part in ("", "-edges"))
    assert list(nodes["name"]) == [small.names[number] for number in small.strongest_inner()]
    np.testing.assert_allclose(edges["value"], small.edges()["value"], atol=1e-5)
    assert len(json.loads((tmp_path / "g.json").read_text())["nodes"]) == len(small.nodes)
    assert wanted.said() in " ".join(capsys.readouterr().out.split())


def test_graph_takes_a_cross_layer_transcoder(folder, tmp_path):
    model, tokenizer = checkpoints.load(f"{folder}@step10")
    made = cross_layer(model, skip=True)
    made = features.CrossLayerTranscoder(tuple(replace(one, gate=Gate("relu")) for one in made.layers), made.later)
    place = str(features.save_cross_layer(made, tmp_path / "clt"))
    files = ["--csv", str(tmp_path / "n.csv"), "--save", str(tmp_path / "g.npz")]
    given = ["graph", "w1 w2 w3", "--checkpoint", f"{folder}@step10", "--token", "w5", "--checks", "0", *files]
    assert main([*given, "--cross-layer", place]) == 0
    ids = tokenizer("w1 w2 w3", return_tensors="pt")["input_ids"]
    wanted = features.attribution_graph(model, ids, {place: features.load_cross_layer(place)}, 5, checks=0)
    found = load_result(tmp_path / "g.npz")
    np.testing.assert_allclose(found.values, wanted.values, atol=1e-5)
    assert found.transcoders == (place,) * len(made)
    edges = pd.read_csv(tmp_path / "n-edges.csv", comment="#")
    np.testing.assert_allclose(edges["value"], wanted.pruned().edges()["value"], atol=1e-5)


def test_graph_says_what_it_misses(folder, tmp_path, capsys):
    given = ["graph", "w1 w2", "--checkpoint", f"{folder}@step10"]
    assert main(given) == 1 and "name some with --dictionary" in capsys.readouterr().err
    assert main([*given, "--json", str(tmp_path / "g.txt")]) == 1 and "ending in .json" in capsys.readouterr().err
