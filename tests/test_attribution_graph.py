"""Attribution graphs: sums of edges, and edges and effects against runs in which a node is taken away."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from random_transcoders import transcoder, transcoders

from hooks import edits
from workbench import WorkbenchError, features
from workbench.features.attribution_graph import attribution_graph, check_nodes
from workbench.features.graph_influence import cumulative, influences, on_paths, scores

LENGTH = 7
COLUMNS = ["kind", "layer", "position", "feature", "value"]


def deviation(graph):
    """The largest difference of a sum of edges from its value, by hand, as a share of the value's size."""
    known = graph.nodes["value"].notna()
    sums = graph.values.sum(1) + graph.nodes["constant"]
    return (np.abs(sums - graph.nodes["value"])[known] / (1 + np.abs(graph.nodes["value"][known]))).max()


VARIANTS = {
    "raw": {"writes": "mlp_out_raw"},
    "skip": {"skip": True, "writes": "mlp_out_raw"},
    "before the norm": {"reads": "resid_mid"},
    "layer norm": {"norming": "layer_norm"},
    "unit norm": {"norming": "unit_norm"},
    "centred": {"centred": True, "scale": 0.7},
}


@pytest.fixture(scope="module")
def graphs():
    """The graph of each family's model, by family."""
    return {}


@pytest.fixture
def graph(graphs, family, model, tokens):
    if family not in graphs:
        graphs[family] = attribution_graph(model, tokens[0, :LENGTH], transcoders(model))
    return graphs[family]


def test_a_graph_of_a_changed_model_is_that_of_its_runs(model, tokens):
    with model.tapped(edits=[edits.scale("blocks.1.mlp_out", 0.5), edits.zero("blocks.2.attn.z", heads=[1])]):
        changed = attribution_graph(model, tokens[0, :LENGTH], transcoders(model))
        logits = model.run(tokens[:1, :LENGTH]).logits[0, -1]
    logit = changed.nodes[changed.nodes["kind"] == "logit"].iloc[0]
    assert logit["value"] == pytest.approx(float(logits[logit["feature"]] - logits.mean()), abs=1e-4)
    assert deviation(changed) < 1e-4


def test_edges_into_a_node_sum_to_its_value(graph):
    assert deviation(graph) < 1e-4 and graph.rounding < 1e-4
    assert set(graph.nodes["kind"]) == {"feature", "error", "token", "logit"}


@pytest.mark.parametrize("case", ["olmo", "olmo2"], indirect=True)
@pytest.mark.parametrize("variant", VARIANTS)
def test_edges_sum_for_every_kind_of_transcoder(pair, tokens, variant):
    model = pair.ours
    assert deviation(attribution_graph(model, tokens[0, :LENGTH], transcoders(model, **VARIANTS[variant]))) < 1e-4


@pytest.mark.parametrize("case", ["olmo-mqa-clip", "olmo-bias", "olmo2-gqa-bias", "olmo3-mqa-tied"], indirect=True)
def test_edges_sum_in_every_variant_of_attention(pair, tokens):
    graph = attribution_graph(pair.ours, tokens[0, :LENGTH], transcoders(pair.ours, [1, 3], skip=True), 5, 6)
    assert deviation(graph) < 1e-4


def test_a_value_is_what_the_model_and_the_dictionary_say(model, tokens, graph):
    run = model.run(tokens[:1, :LENGTH], capture=["blocks.*.mlp_in"])
    logits, nodes = run.logits[0, -1], graph.nodes
    for kind, layer, position, feature, value in nodes[COLUMNS].itertuples(index=False):
        if kind == "feature":
            firing = transcoder(model, layer).encode(run[f"blocks.{layer}.mlp_in"][0, position])
            assert value == pytest.approx(float(firing.of(feature)), rel=1e-4, abs=1e-5)
        elif kind == "logit":
            assert value == pytest.approx(float(logits[feature] - logits.mean()), abs=1e-4)
    weights = nodes["weight"][nodes["kind"] == "logit"].to_numpy()
    assert weights == pytest.approx(logits.softmax(-1).sort(descending=True).values[: len(weights)].numpy(), rel=1e-4)
    assert len(weights) == 10 or weights[:-1].sum() < 0.95 <= weights.sum()


def held(model, clean, mlp_out=None):
    """Edits that hold attention patterns and divisors, and what MLPs write by `mlp_out(layer)`."""
    sites = ("blocks.*.attn.pattern", "blocks.*.ln1.scale", "blocks.*.ln2.scale", "ln_final.scale")
    layers = range(model.config.num_hidden_layers if mlp_out else 0)
    return [*(edits.patch(site, clean) for site in sites), *(mlp_out(layer) for layer in layers)]


def clean_run(model, tokens):
    sites = ("attn.pattern", "ln1.scale", "ln2.scale", "mlp_in", "mlp_out")
    return model.run(tokens[:1, :LENGTH], capture=[*(f"blocks.*.{site}" for site in sites), "ln_final.scale"])


def taken_away(model, clean, node):
    """The edit that takes away what a node writes."""
    at, d = f"blocks.{node.layer}", transcoder(model, node.layer)
    if node.kind == "feature":
        written = node.value * d.decoder[node.feature]
    else:
        read, out = (clean[f"{at}.{site}"][0, node.position] for site in ("mlp_in", "mlp_out"))
        written = d.error(read, out)
    return edits.add(f"{at}.mlp_out", -written, positions=[node.position])


def some_nodes(graph):
    nodes = graph.nodes
    inner = nodes[nodes["kind"].isin(["feature", "error"]) & (nodes["effect"] != 0)]
    return inner.sample(6, random_state=0)


def centred(run):
    return run.logits[0, -1] - run.logits[0, -1].mean()


def test_an_edge_is_what_a_reader_loses_with_the_rest_held(model, tokens, graph):
    clean = clean_run(model, tokens)
    fixed = held(model, clean, lambda layer: edits.patch(f"blocks.{layer}.mlp_out", clean))
    encoders = [transcoder(model, layer).encoder for layer in range(model.config.num_hidden_layers)]
    for number, node in some_nodes(graph).iterrows():
        run = model.run(
            tokens[:1, :LENGTH], capture=["blocks.*.mlp_in"], edits=[*fixed, taken_away(model, clean, node)]
        )
        reads = (clean.stack("mlp_in") - run.stack("mlp_in"))[:, 0]  # layer pos d_model
        logits, lost = centred(clean) - centred(run), []
        for kind, layer, position, feature, _ in graph.nodes[COLUMNS].itertuples(index=False):
            if kind == "feature":
                lost.append(float(reads[layer, position] @ encoders[layer][:, feature]))
            else:
                lost.append(float(logits[feature]) if kind == "logit" else 0.0)
        assert graph.values[:, number] == pytest.approx(np.array(lost), abs=2e-4)


def test_an_effect_is_what_the_logit_loses_when_active_features_respond(model, tokens, graph):
    clean = clean_run(model, tokens)

    def responding(layer):
        d, read = transcoder(model, layer), clean[f"blocks.{layer}.mlp_in"]
        active = (d.encode(read[0]).dense() > 0).float()

        def written(out, now):
            return clean[f"blocks.{layer}.mlp_out"] + (((now - read) @ d.encoder) * active) @ d.decoder

        return edits.apply(f"blocks.{layer}.mlp_out", written, reads=f"blocks.{layer}.mlp_in")

    fixed = held(model, clean, responding)
    first = graph.nodes["feature"][(graph.nodes["kind"] == "logit").idxmax()]
    for _, node in some_nodes(graph).iterrows():
        run = model.run(tokens[:1, :LENGTH], edits=[*fixed, taken_away(model, clean, node)])
        assert node["effect"] == pytest.approx(float((centred(clean) - centred(run))[first]), rel=1e-3, abs=1e-3)


def test_measured_effects_are_those_of_edits_of_features(model, tokens, graph):
    clean = clean_run(model, tokens)
    fixed = held(model, clean)
    checked, nodes = graph.nodes[graph.nodes["measured"].notna()], graph.nodes
    inner = nodes["effect"].where(nodes["kind"].isin(["feature", "error"]), 0).abs()
    assert len(checked) == 20 and set(checked.index) == set(inner.nlargest(20).index)
    first = nodes["feature"][(nodes["kind"] == "logit").idxmax()]
    for _, node in checked.iloc[::5].iterrows():
        d, where = transcoder(model, node["layer"]), [node["position"]]
        feature = node["kind"] == "feature"
        edit = features.switch_off(d, node["feature"], where) if feature else features.replace(d, positions=where)
        lost = (centred(clean) - centred(model.run(tokens[:1, :LENGTH], edits=edit)))[first]
        assert node["measured"] == pytest.approx(float(lost), abs=1e-3)
        run = model.run(tokens[:1, :LENGTH], edits=[*fixed, edit])
        assert node["held"] == pytest.approx(float((centred(clean) - centred(run))[first]), abs=1e-3)


@pytest.mark.parametrize("case", ["olmo2"], indirect=True)
def test_nodes_checked_later_have_the_numbers_of_those_checked_at_once(pair, tokens):
    given = (pair.ours, tokens[0, :LENGTH], transcoders(pair.ours))
    whole = attribution_graph(*given, 5, 6, checks=6)
    found = attribution_graph(*given, 5, 6, checks=0)
    assert found.against == 6 and found.nodes["measured"].isna().all()
    found = check_nodes(*given, found, 4)
    assert found.nodes["measured"].notna().sum() == 4
    names = [whole.names[number] for number in whole.strongest_inner()[4:6]]
    found = check_nodes(*given, found, names)
    for name in ("measured", "held"):
        np.testing.assert_allclose(found.nodes[name], whole.nodes[name], atol=1e-5)
    few = attribution_graph(*given, 5, 6, most=9, checks=2)
    again = check_nodes(*given, replace(few, nodes=few.nodes.assign(measured=np.nan, held=np.nan)), 2)
    np.testing.assert_allclose(again.nodes["measured"], few.nodes["measured"], atol=1e-5)
    for other, nodes, words in (
        (found, ["L9 F1 @0"], "no feature or error 'L9 F1 @0' in this graph"),
        (found, [found.names[-1]], "no feature or error 'logit 5"),
        (found, -1, "nodes is -1; it cannot be negative"),
        (found.pruned(), 2, "are not those of this prompt, model and transcoders"),
    ):
        with pytest.raises(WorkbenchError, match=words):
            check_nodes(*given, other, nodes)


def test_the_strongest_edges_are_whole_paths(graph):
    every = graph.strongest_edges(10**9)
    weights, influence, kind = (graph.nodes[name] for name in ("weight", "influence", "kind"))
    into, out = (every.groupby(side)["influence"].sum() for side in ("target", "source"))
    assert into[weights[weights > 0].index].sum() == pytest.approx(1)
    inner = graph.nodes.index[kind != "logit"]
    assert (out.reindex(inner, fill_value=0) * weights.sum()).to_numpy() == pytest.approx(influence[inner].to_numpy())
    read = graph.nodes.index[kind == "feature"]
    assert (into.reindex(read, fill_value=0) * weights.sum()).to_numpy() == pytest.approx(influence[read].to_numpy())
    assert every["path"].is_monotonic_decreasing and (every["path"] <= every["influence"]).all()
    assert len(every) == (graph.values[:, influence + weights > 0][influence + weights > 0] != 0).sum()

    few = graph.strongest_edges(25)
    pd.testing.assert_frame_equal(few, every[:25])
    few = every[every["path"] >= few["path"].iloc[-1]]  # with all edges of the last path
    assert set(few["source"]) <= set(few["target"]) | set(graph.nodes.index[kind.isin(["token", "error"])])
    assert set(few["target"]) <= set(few["source"]) | set(graph.nodes.index[kind == "logit"])
    assert graph.strongest_edges(0).empty


def test_the_size_of_a_path_is_that_of_its_weakest_edge():
    sizes = np.zeros((6, 6))  # tokens 0 and 1, features 2 to 4, logit 5; 4 is read by nothing
    for source, target, size in ((0, 2, 0.5), (1, 2, 0.2), (2, 3, 0.3), (3, 5, 0.9), (2, 5, 0.1), (1, 4, 0.8)):
        sizes[target, source] = size
    paths = on_paths(sizes, np.arange(6), np.arange(6) == 5)
    assert {(s, t): paths[t, s] for t, s in zip(*paths.nonzero(), strict=True)} == {
        (0, 2): 0.3, (1, 2): 0.2, (2, 3): 0.3, (3, 5): 0.3, (2, 5): 0.1,
    }  # fmt: skip


def test_agreement_is_that_of_the_nodes_that_were_taken_away(graph):
    effect, measured = [1.0, 1.0, 1.0, -2.0, 5.0], [0.6, 0.3, -0.1, -3.9, np.nan]
    nodes = graph.nodes[:5].assign(effect=effect, measured=measured)
    few = replace(graph, values=graph.values[:5, :5], nodes=nodes, logits=())
    assert few.verdicts.tolist() == ["confirmed", "in part", "contradicted", "confirmed", ""]
    assert few.agreement == pytest.approx(np.corrcoef(effect[:4], measured[:4])[0, 1])
    assert few.said().startswith("Of 4 nodes that were taken away, the model confirms 2, 1 in part, and contradicts 1")


def test_features_beyond_the_most_count_as_error(model, tokens):
    graph = attribution_graph(model, tokens[0, :LENGTH], transcoders(model), most=15)
    assert (graph.nodes["kind"] == "feature").sum() == 15 and deviation(graph) < 1e-4


def test_a_model_without_transcoders_has_a_graph_of_errors(model, tokens):
    graph = attribution_graph(model, tokens[0, :LENGTH], {}, 5)
    logit = graph.nodes[graph.nodes["kind"] == "logit"]
    assert len(logit) == 1 and deviation(graph) < 1e-4
    assert set(graph.nodes["kind"]) == {"error", "token", "logit"}


def test_influence_is_that_of_the_inverse(graph):
    edges, weights = graph.values.astype(float), graph.nodes["weight"].to_numpy()
    shares = np.abs(edges) / np.where(np.abs(edges).sum(1) > 0, np.abs(edges).sum(1), 1)[:, None]
    inverse = np.linalg.inv(np.eye(len(edges)) - shares) - np.eye(len(edges))
    assert graph.nodes["influence"].to_numpy() == pytest.approx(weights @ inverse, rel=1e-6, abs=1e-9)
    ends = graph.nodes["kind"].isin(["token", "error"])
    assert graph.nodes["influence"][ends].sum() == pytest.approx(weights.sum(), rel=1e-6)


def test_scores_of_a_graph_by_hand():
    # token 0 and error 1 write to feature 2; feature 2 and error 1 write to logit 3.
    edges = np.zeros((4, 4))
    edges[2, :2], edges[3, 1:3] = (3.0, -1.0), (2.0, 2.0)
    kinds = np.array(["token", "error", "feature", "logit"])
    weights = np.array([0, 0, 0, 0.5])
    assert influences(edges, weights) == pytest.approx([0.1875, 0.3125, 0.25, 0])
    replacement, completeness = scores(edges, weights, kinds == "error", kinds == "token")
    assert replacement == pytest.approx(0.1875 / 0.5)
    reached = np.array([0.1875, 0.3125, 0.25, 0.5])  # what enters ends, feature and logit: all, all, 3/4 and 1/2
    assert completeness == pytest.approx((reached * [1, 1, 0.75, 0.5]).sum() / reached.sum())
    assert cumulative(np.array([1.0, 3.0, 0.0, 4.0])) == pytest.approx([1, 7 / 8, 1, 0.5])


def test_pruning_keeps_the_share_and_no_loose_ends(graph):
    small = graph.pruned(0.6, 0.9)
    kinds = small.nodes["kind"].to_numpy()
    assert 0 < len(kinds) < len(graph.nodes) and set(small.names) <= set(graph.names)
    assert (kinds == "token").sum() == LENGTH
    inner = np.isin(kinds, ["feature", "error"])
    assert (small.values != 0).any(0)[inner].all() and (small.values != 0).any(1)[kinds == "feature"].all()
    edges, whole = small.edges(), graph.edges().set_index(["source_name", "target_name"])["value"]
    for source, target, value in edges[["source_name", "target_name", "value"]].head(5).itertuples(index=False):
        assert value == whole[source, target]
    every = graph.pruned(1, 1)
    reached = (graph.nodes["influence"] > 0).to_numpy() | np.isin(graph.nodes["kind"], ["token", "logit"])
    assert set(every.names) == {name for name, kept in zip(graph.names, reached, strict=True) if kept}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"against": 5}, "against is given without a token"),
        ({"most": 0}, "at least one feature"),
        ({"checks": -1}, "checks is -1"),
        ({"transcoders": "sae"}, "not a transcoder of one MLP"),
        ({"transcoders": "twice"}, "both transcoders of layer 1"),
    ],
)
def test_what_makes_no_graph_is_refused(model, tokens, changed, said):
    one = transcoder(model, 1)
    wrong = {"sae": {"t": replace(one, reads=one.writes)}, "twice": {"t": one, "u": one}}
    given = {name: wrong[value] if name == "transcoders" else value for name, value in changed.items()}
    with pytest.raises(WorkbenchError, match=said):
        attribution_graph(model, tokens[0], **{"transcoders": {"t": one}} | given)
