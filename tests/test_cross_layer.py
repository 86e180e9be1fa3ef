"""Cross-layer transcoders: sums, graphs, and circuit-tracer's files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from random_transcoders import FEATURES, cross_layer, transcoder, transcoders
from safetensors.torch import save_file
from test_attribution_graph import COLUMNS, LENGTH, VARIANTS, centred, clean_run, deviation, held

from hooks import edits
from workbench import WorkbenchError, features
from workbench.features import CrossLayerTranscoder, Gate, qk_attribution
from workbench.features.attribution_graph import attribution_graph
from workbench.features.graph_labels import feature_labels


def graph_of(model, tokens, clt, **options):
    return attribution_graph(model, tokens[0, :LENGTH], {"clt": clt}, **options)


def test_an_mlp_is_what_all_layers_up_to_it_write_and_the_error(model, tokens):
    clt, run = cross_layer(model, skip=True), model.run(tokens, capture=["blocks.*.mlp_in", "blocks.*.mlp_out"])
    reads, writes = run.stack("mlp_in"), run.stack("mlp_out")
    firings = clt.encode(reads)
    torch.testing.assert_close(clt.decode(firings, reads) + clt.error(reads, writes), writes)
    for layer, one in enumerate(clt.layers):
        wanted = firings[layer].dense() @ one.decoder + one.decoder_bias + reads[layer] @ one.skip
        for source in range(layer):
            wanted = wanted + firings[source].dense() @ clt.later[source][:, layer - source - 1]
        torch.testing.assert_close(clt.reconstruct(reads)[layer], wanted, rtol=1e-4, atol=1e-4)


def test_edges_into_a_node_sum_to_its_value(model, tokens):
    graph = graph_of(model, tokens, cross_layer(model), checks=0)
    assert deviation(graph) < 1e-4 and graph.rounding < 1e-4
    assert graph.transcoders == ("clt",) * model.config.num_hidden_layers
    few = graph_of(model, tokens, cross_layer(model), most=15, checks=0)
    assert (few.nodes["kind"] == "feature").sum() == 15 and deviation(few) < 1e-4


@pytest.mark.parametrize("case", ["olmo-bias", "olmo2"], indirect=True)
@pytest.mark.parametrize("variant", VARIANTS)
def test_edges_sum_for_every_kind_of_transcoder(pair, tokens, variant):
    assert deviation(graph_of(pair.ours, tokens, cross_layer(pair.ours, **VARIANTS[variant]), checks=0)) < 1e-4


def test_an_edge_is_what_a_reader_loses_in_all_layers_that_the_feature_writes_to(model, tokens):
    clt, clean = cross_layer(model), clean_run(model, tokens)
    graph = graph_of(model, tokens, clt, checks=0)
    fixed = held(model, clean, lambda layer: edits.patch(f"blocks.{layer}.mlp_out", clean))
    inner = graph.nodes[(graph.nodes["kind"] == "feature") & (graph.nodes["layer"] < 3)]
    for number, node in inner.sample(3, random_state=1).iterrows():
        run = model.run(tokens[:1, :LENGTH], capture="blocks.*.mlp_in", edits=[*fixed, *without(clt, node)])
        reads, logits = (clean.stack("mlp_in") - run.stack("mlp_in"))[:, 0], centred(clean) - centred(run)
        lost = []
        for kind, layer, position, feature, _ in graph.nodes[COLUMNS].itertuples(index=False):
            if kind == "feature":
                lost.append(float(reads[layer, position] @ clt.layers[layer].encoder[:, feature]))
            else:
                lost.append(float(logits[feature]) if kind == "logit" else 0.0)
        assert graph.values[:, number] == pytest.approx(np.array(lost), abs=2e-4)


def without(clt, node):
    """The edits that take away what a feature writes to all layers."""
    first = node.layer
    decoders = [clt.layers[first].decoder[node.feature], *clt.later[first][node.feature]]
    return [
        edits.add(f"blocks.{first + step}.mlp_out", -node.value * row, positions=[node.position])
        for step, row in enumerate(decoders)
    ]


def test_measured_effects_are_those_without_all_that_a_feature_writes(model, tokens):
    clt, clean = cross_layer(model), clean_run(model, tokens)
    nodes = graph_of(model, tokens, clt, checks=6).nodes
    first = nodes["feature"][(nodes["kind"] == "logit").idxmax()]
    checked = nodes[nodes["measured"].notna() & (nodes["kind"] == "feature")]
    assert len(checked)
    for _, node in checked.iterrows():
        for name, fixed in (("measured", []), ("held", held(model, clean))):
            run = model.run(tokens[:1, :LENGTH], edits=[*fixed, *without(clt, node)])
            assert node[name] == pytest.approx(float((centred(clean) - centred(run))[first]), abs=1e-3)


def test_without_decoders_to_later_layers_it_is_a_set_of_transcoders(model, tokens):
    clt = cross_layer(model)
    alone = CrossLayerTranscoder(clt.layers, tuple(torch.zeros_like(one) for one in clt.later))
    found = graph_of(model, tokens, alone, checks=0)
    wanted = attribution_graph(model, tokens[0, :LENGTH], transcoders(model), checks=0)
    np.testing.assert_allclose(found.values, wanted.values, atol=1e-5)


@pytest.mark.parametrize("writes", ["mlp_out", "mlp_out_raw"])
def test_pairs_of_sources_sum_to_an_attention_score(model, tokens, writes):
    clt, run = cross_layer(model, writes=writes), model.run(tokens[:1, :9], capture="blocks.*.attn.scores")
    for layer in (1, 3):
        found = qk_attribution(model, tokens[0, :9], layer, 2, {"clt": clt}, query=-2, key=5)
        assert found.score == pytest.approx(float(run[f"blocks.{layer}.attn.scores"][0, 2, -2, 5]), abs=1e-5)
        assert found.values.sum(dtype=float) == pytest.approx(found.score, abs=1e-4)


@pytest.mark.parametrize("case", ["olmo"], indirect=True)
def test_a_label_says_what_a_feature_writes_to_all_layers(pair, tokens):
    model, clt = pair.ours, cross_layer(pair.ours)
    graph = graph_of(model, tokens, clt, checks=0)
    number = int((graph.nodes["layer"] == 1).idxmax())
    feature = graph.nodes["feature"][number]
    logits = (clt.layers[1].decoder[feature] + clt.later[1][feature].sum(0)) @ model.W_U.float()
    assert feature_labels(model, graph, {"clt": clt})[graph.names[number]].startswith(f"raises {int(logits.argmax())} ")


GATES = [Gate("relu"), Gate("jumprelu", threshold=torch.full((FEATURES,), 0.5))]


@pytest.mark.parametrize(("gate", "skip"), list(zip(GATES, (False, True), strict=True)), ids=["relu", "jumprelu, skip"])
@pytest.mark.parametrize("case", ["olmo2"], indirect=True)
def test_it_is_read_as_it_was_written(pair, tokens, gate, skip, tmp_path):
    made = cross_layer(pair.ours, reads="resid_mid", scale=0.7, skip=skip)
    made = CrossLayerTranscoder(tuple(replace(one, gate=gate) for one in made.layers), made.later)
    read = features.load_cross_layer(features.save_cross_layer(made, tmp_path / "clt"))
    run = pair.ours.run(tokens, capture=["blocks.*.resid_mid", "blocks.*.mlp_out"])
    reads = run.stack("resid_mid")
    assert [(one.reads, one.writes) for one in read.layers] == [(one.reads, one.writes) for one in made.layers]
    torch.testing.assert_close(read.reconstruct(reads), made.reconstruct(reads))
    assert repr(read) == repr(made) and f"{4 * FEATURES} features" in repr(read)
    with pytest.raises(WorkbenchError, match=r"read it with features\.load_cross_layer"):
        features.load(tmp_path / "clt")


@pytest.mark.parametrize("skip", [False, True])
def test_files_of_circuit_tracer_are_read(tmp_path, skip):
    """The names and shapes are those that circuit-tracer's `CrossLayerTranscoder.to_safetensors` writes."""
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: torch.randn(*shape, generator=generator)
        for layer in range(2)
        for name, shape in {
            f"W_enc_{layer}": (5, 3),
            f"b_enc_{layer}": (5,),
            f"b_dec_{layer}": (3,),
            f"threshold_{layer}": (5,),
            f"W_dec_{layer}": (5, 2 - layer, 3),
            **({f"W_skip_{layer}": (3, 3)} if skip else {}),
        }.items()
    }
    for layer in range(2):
        own = {name: one for name, one in noise.items() if name.endswith(str(layer))}
        decoder = {f"W_dec_{layer}": own.pop(f"W_dec_{layer}")}
        save_file(own, tmp_path / f"W_enc_{layer}.safetensors")
        save_file(decoder, tmp_path / f"W_dec_{layer}.safetensors")
    config = {"model_kind": "cross_layer_transcoder", "model_name": "allenai/OLMo-1B-hf"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"feature_input_hook": "mlp.hook_in"}))
    clt = features.load_cross_layer(tmp_path)
    assert [one.reads for one in clt.layers] == ["blocks.0.mlp_in", "blocks.1.mlp_in"]
    assert clt.layers[1].writes == "blocks.1.mlp_out" and clt.layers[0].family == "olmo"
    x = torch.randn(2, 4, 3, generator=generator)
    pre = [x[layer] @ noise[f"W_enc_{layer}"].T + noise[f"b_enc_{layer}"] for layer in range(2)]
    active = [one.relu() * (one > noise[f"threshold_{layer}"]) for layer, one in enumerate(pre)]
    last = active[0] @ noise["W_dec_0"][:, 1] + active[1] @ noise["W_dec_1"][:, 0] + noise["b_dec_1"]
    last = last + x[1] @ noise["W_skip_1"] if skip else last
    torch.testing.assert_close(clt.reconstruct(x)[1], last)
    if skip:
        save_file({name: one for name, one in own.items() if "skip" not in name}, tmp_path / "W_enc_1.safetensors")
        with pytest.raises(WorkbenchError, match="W_skip is missing in layer 1"):
            features.load_cross_layer(tmp_path)
    (tmp_path / "W_dec_1.safetensors").unlink()
    with pytest.raises(WorkbenchError, match=r"2 files W_enc_N.safetensors, but W_dec_1"):
        features.load_cross_layer(tmp_path)
    (tmp_path / "config.yaml").write_text("model_kind: transcoder_set")
    with pytest.raises(WorkbenchError, match="'transcoder_set' is not supported"):
        features.load_cross_layer(tmp_path)
    with pytest.raises(WorkbenchError, match=r"looked for W_enc_0.safetensors"):
        features.load_cross_layer(tmp_path.parent)


@pytest.mark.parametrize("case", ["olmo"], indirect=True)
def test_what_does_not_fit_is_refused_in_words(pair, tokens, tmp_path):
    model, clt = pair.ours, cross_layer(pair.ours)
    short = CrossLayerTranscoder(clt.layers[:2], (clt.later[0][:, :1], clt.later[1][:, :0]))
    refused = {
        "decoders to later layers have the shapes": lambda: CrossLayerTranscoder(clt.layers[:3], clt.later[:3]),
        "the same sites of layers 0, 1": lambda: CrossLayerTranscoder(clt.layers[::-1], clt.later),
        "one transcoder for each layer": lambda: CrossLayerTranscoder((), ()),
        "has 2 layers, and the model has 4": lambda: graph_of(model, tokens, short),
        "both transcoders of layer 0": lambda: attribution_graph(
            model, tokens[0, :5], {"clt": clt, "t": transcoder(model, 0)}
        ),
        "gate relu or jumprelu in all layers": lambda: features.save_cross_layer(clt, tmp_path),
        "reads 4 layers": lambda: clt.encode(torch.zeros(3, 5, 32)),
    }
    for said, call in refused.items():
        with pytest.raises(WorkbenchError, match=said):
            call()
