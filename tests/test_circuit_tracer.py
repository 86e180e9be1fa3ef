"""Attribution graphs in the JSON of circuit-tracer: its keys, ids, links and index."""

import json

import pytest
from texts_of_analyses import transcoders

from workbench import WorkbenchError, features
from workbench.features.circuit_tracer import cantor
from workbench.features.graph_labels import feature_labels

NODE = {  # circuit-tracer's keys with their types; None where it allows null
    "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float,
    "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str,
    "influence": (float, type(None)), "activation": (float, type(None)),
}  # fmt: skip
METADATA = {
    "slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str, "node_threshold": float,
    "schema_version": int,
}  # fmt: skip
TYPES = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}


@pytest.fixture(scope="module")
def asked(make_model, tokens, tokenizer):
    model = make_model("olmo2")
    return model, features.attribution_graph(model, tokens[0, :6], transcoders(model), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def written(asked, tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("graphs") / "one.json"
    labels = feature_labels(asked[0], asked[1].pruned(), transcoders(asked[0]), tokenizer)
    assert features.write_circuit_tracer(asked[1], path, labels=labels, tokenizer=tokenizer) == path
    return json.loads(path.read_text())


def test_it_has_their_keys(written):
    assert set(written) == {"metadata", "qParams", "nodes", "links"}
    for keys, found in ((METADATA, [written["metadata"]]), (NODE, written["nodes"])):
        for one in found:
            assert set(keys) <= set(one) and all(isinstance(one[key], kind) for key, kind in keys.items())
    assert set(written["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    assert {node["feature_type"] for node in written["nodes"]} == TYPES
    assert written["metadata"]["scan"].startswith("custom-") and len(written["metadata"]["transcoder_list"]) == 4


def test_ids_are_unique_and_links_are_edges(asked, written):
    small = asked[1].pruned()
    ids = [node["node_id"] for node in written["nodes"]]
    assert len(set(ids)) == len(ids) == len(small.nodes)
    places = {one: number for number, one in enumerate(ids)}
    assert written["links"]
    for link in written["links"]:
        assert link["weight"] == small.values[places[link["target"]], places[link["source"]]] != 0
    assert len(written["links"]) == (small.values != 0).sum()


def test_nodes_are_those_of_the_graph(asked, written):
    small, whole = asked[1].pruned(), asked[1]
    influence = dict(zip(whole.names, whole.nodes["influence"], strict=True))
    for name, row, node in zip(small.names, small.nodes.itertuples(), written["nodes"], strict=True):
        assert node["ctx_idx"] == row.position
        if row.kind == "feature":
            assert node["layer"] == str(row.layer) and node["activation"] == row.value
            assert node["feature"] == cantor(row.layer, row.feature) and node["clerp"].startswith("raises w")
        if row.kind == "logit":
            assert node["layer"] == "5" and node["clerp"].endswith(f"(p={row.weight:.3f})")
        else:
            most = whole.nodes["influence"][whole.nodes["influence"] >= influence[name]].sum()
            assert node["influence"] == pytest.approx(most / whole.nodes["influence"].sum())
    assert [node["is_target_logit"] for node in written["nodes"] if node["feature_type"] == "logit"][:2] == [
        True,
        False,
    ]
    assert len({cantor(a, b) for a in range(20) for b in range(20)}) == 400


def test_the_index_lists_each_graph_once(asked, tmp_path):
    for name in ("a", "b", "a"):
        features.write_circuit_tracer(asked[1], tmp_path / f"{name}.json")
    found = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [one["slug"] for one in found] == ["b", "a"]
    assert found[1] == json.loads((tmp_path / "a.json").read_text())["metadata"]


def test_what_cannot_be_written_is_said(asked, tmp_path):
    for name in ("graph.txt", "graph-metadata.json"):
        with pytest.raises(WorkbenchError, match=r"ending in \.json"):
            features.write_circuit_tracer(asked[1], tmp_path / name)
    (tmp_path / "graph-metadata.json").write_text("[]")
    with pytest.raises(WorkbenchError, match="lists no graphs"):
        features.write_circuit_tracer(asked[1], tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_names_that_people_gave_are_labels(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, graph = asked
    row = graph.nodes[graph.nodes["kind"] == "feature"].iloc[0]
    features.name_feature(transcoders(model)["blocks.0"], int(row["feature"]), "mine")
    labels = feature_labels(model, graph, transcoders(model))
    assert labels[graph.names[0]] == "mine" and len(set(labels.values())) > 1
