"""Dictionaries in the formats of SAELens, sparsify and Gemma Scope: read, written, and refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.test_broken_checkpoints import NOT_TABLES
from tests.test_dictionaries import FEATURES, GATES, WIDTH, K, random_dictionary
from workbench import WorkbenchError, features
from workbench.checkpoints import hub
from workbench.features.files import FORMATS
from workbench.features.formats.places import family_of_name, hook_of_site, site_of_hook, sites_of_module

MLP = ("blocks.2.mlp_in", "blocks.2.mlp_out")
RAW = ("blocks.5.mlp_in", "blocks.5.mlp_out_raw")


@pytest.fixture
def x():
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(8))


def same(one, other, x):
    """Whether two dictionaries are the same function at the same place."""
    torch.testing.assert_close(one.encode(x).dense(), other.encode(x).dense(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.reconstruct(x), other.reconstruct(x), atol=1e-5, rtol=1e-5)
    for name in ("kind", "reads", "writes", "sources", "model", "family", "norming", "centred"):
        assert getattr(one, name) == getattr(other, name), name
    return (one.gate.name, one.gate.k) == (other.gate.name, other.gate.k)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("norming", ["none", "layer_norm", "unit_norm"])
def test_an_sae_comes_back_from_saelens_files(tmp_path, x, gate, centred, norming):
    d = random_dictionary(gate, centred=centred, norming=norming, model="a/b@c", family="olmo2")
    assert same(features.load(features.save(d, tmp_path / "sae")), d, x)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_comes_back_from_saelens_files(tmp_path, x, gate, skip):
    matrix = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3)) if skip else None
    d = random_dictionary(gate, *MLP, skip=matrix)
    assert same(features.load(features.save(d, tmp_path)), d, x)


def test_a_crosscoder_and_what_it_was_made_from_come_back(tmp_path, x):
    d = random_dictionary(sources=("a@1", "b@2"), scale=0.5, provenance={"seed": 3})
    found = features.load(features.save(d, tmp_path))
    assert same(found, d, torch.stack([x, -x], 1)) and found.provenance == {"seed": 3}
    assert found.scale == 1.0  # it was folded


@pytest.mark.parametrize("place", [("blocks.5.resid_post", "blocks.5.resid_post"), RAW, ("embed", "embed")])
def test_sparsify_files_come_back(tmp_path, x, place):
    name = {"embed": "embed_tokens", "blocks.5.resid_post": "layers.5"}.get(place[0], "layers.5.mlp")
    d = random_dictionary("topk", *place, centred=place[0] == place[1])
    features.save(d, tmp_path / name, "sparsify")
    assert same(features.load(tmp_path / name), d, x)
    config = json.loads((tmp_path / name / "cfg.json").read_text())
    del config["workbench"]  # as sparsify itself writes it
    (tmp_path / name / "cfg.json").write_text(json.dumps(config))
    assert same(features.load(tmp_path / name), d, x)


def test_gemma_scope_files_come_back(tmp_path, x):
    d = random_dictionary("jumprelu")
    features.save(d, tmp_path / "sae", "Gemma Scope")
    assert same(features.load(tmp_path / "sae"), d, x)
    folder = tmp_path / "google" / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    features.save(d, folder, "Gemma Scope")
    (folder / "cfg.json").unlink()  # which Gemma Scope does not have
    found = features.load(folder)
    assert (found.reads, found.model, found.family) == ("blocks.20.resid_post", "google/gemma-2-2b", "gemma")
    torch.testing.assert_close(found.encode(x).dense(), d.encode(x).dense())


def saelens(folder, tensors, metadata=None, **config):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {"d_in": WIDTH, "d_sae": FEATURES, "metadata": {"hook_name": "blocks.1.hook_resid_post"}, **config}
    (folder / "cfg.json").write_text(json.dumps(config | ({"metadata": metadata} if metadata else {})))
    return folder


def weights(**more):
    d = random_dictionary()
    parts = {"W_enc": d.encoder, "b_enc": d.encoder_bias, "W_dec": d.decoder, "b_dec": d.decoder_bias}
    return parts | {name: torch.as_tensor(value) for name, value in more.items()}


def test_a_gated_dictionary_is_read_as_the_same_function(tmp_path, x):
    generator = torch.Generator().manual_seed(9)
    gate, mag, r = (torch.randn(FEATURES, generator=generator) * 0.3 for _ in range(3))
    tensors = weights(b_gate=gate, b_mag=mag, r_mag=r)
    d = features.load(saelens(tmp_path / "gated", tensors, architecture="gated", apply_b_dec_to_input=True))
    pre = (x - tensors["b_dec"]) @ tensors["W_enc"]
    wanted = (pre + gate > 0) * torch.relu(pre * r.exp() + mag)
    torch.testing.assert_close(d.encode(x).dense(), wanted)
    assert 0 < (wanted > 0).float().mean() < 1


def test_decoder_norms_and_finetuned_factors_are_folded(tmp_path, x):
    tensors = weights()
    folder = saelens(tmp_path / "a", tensors, architecture="topk", k=K, rescale_acts_by_decoder_norm=True)
    d, norms = features.load(folder), tensors["W_dec"].norm(dim=-1)
    pre = ((x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]) * norms
    acts = torch.zeros_like(pre).scatter(1, pre.topk(K).indices, pre.topk(K).values.relu())
    torch.testing.assert_close(d.encode(x).dense(), acts)
    torch.testing.assert_close(d.reconstruct(x), (acts / norms) @ tensors["W_dec"] + tensors["b_dec"])
    factor = torch.rand(FEATURES) + 0.5
    scaled = features.load(saelens(tmp_path / "b", weights(scaling_factor=factor), architecture="standard"))
    plain = features.load(saelens(tmp_path / "c", weights(), architecture="standard"))
    torch.testing.assert_close(scaled.decoder, plain.decoder * factor[:, None])


def test_configs_from_before_version_6_are_read(tmp_path):
    folder = saelens(tmp_path / "old", weights())
    config = {"hook_point": "blocks.3.hook_mlp_out", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 7}}
    (folder / "cfg.json").write_text(json.dumps(config | {"model_name": "allenai/OLMo-1B-hf"}))
    d = features.load(folder)
    assert (d.reads, d.gate.name, d.gate.k, d.family, d.centred) == ("blocks.3.mlp_out", "topk", 7, "olmo", True)


def test_batchtopk_as_it_is_in_training_is_read(tmp_path, x):
    folder = saelens(tmp_path / "b", weights(topk_threshold=0.7), architecture="batchtopk", k=K)
    d = features.load(folder)
    assert (d.gate.name, d.gate.k) == ("batchtopk", K)
    assert (d.encode(x).values[d.encode(x).values > 0] > 0.7).all()


def test_names_of_sites_and_families():
    assert site_of_hook("blocks.7.hook_resid_pre") == "blocks.7.resid_pre"
    assert site_of_hook("blocks.7.attn.hook_z") == "blocks.7.attn.z"
    assert site_of_hook("blocks.7.ln2.hook_normalized") == "blocks.7.ln2.hook_normalized"
    assert site_of_hook("blocks.7.hook_mlp_in") == "blocks.7.hook_mlp_in"
    assert hook_of_site("blocks.7.resid_pre") == "blocks.7.hook_resid_pre"
    assert sites_of_module("layers.3") == ("blocks.3.resid_pre", "blocks.3.resid_post")
    assert sites_of_module("layers.3.input_layernorm") is None
    names = {
        "allenai/OLMo-1B-hf": "olmo",
        "allenai/OLMo-2-1124-7B": "olmo2",
        "allenai/Olmo-3-1025-7B": "olmo3",
        "allenai/Olmo-3.1-32B-Think": "olmo3",
        "google/gemma-2-2b": "gemma",
        "mine": "",
    }
    assert {name: family_of_name(name) for name in names} == names


@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z"])
def test_a_loaded_dictionary_edits_the_model(tmp_path, model, tokens, hook):
    d = features.load(saelens(tmp_path / "sae", weights(), metadata={"hook_name": hook}, architecture="standard"))
    d.check_fits(model)
    edited = model.run(tokens, edits=[features.replace(d, keep_error=True)]).logits
    torch.testing.assert_close(edited, model.run(tokens).logits, atol=2e-4, rtol=2e-4)


def test_the_site_may_be_given(tmp_path):
    np.savez(tmp_path / "params.npz", threshold=np.zeros(FEATURES), **{k: v.numpy() for k, v in weights().items()})
    with pytest.raises(WorkbenchError, match="does not say which site it reads; give it"):
        features.load(tmp_path)
    d = features.load(tmp_path, reads="blocks.0.mlp_in", writes="blocks.0.mlp_out")
    assert (d.kind, features.load(tmp_path, reads="embed").writes) == ("transcoder", "embed")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_can_be_stored_in_half_the_bytes(tmp_path, dtype):
    d = random_dictionary()
    found = features.load(features.save(d, tmp_path, dtype=dtype))
    assert found.encoder.dtype == torch.float32
    assert torch.equal(found.encoder, d.encoder.to(dtype).float())


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    for form, gate, options in (("sparsify", "relu", {}), ("Gemma Scope", "topk", {}), ("sparsify", "topk", {})):
        with pytest.raises(WorkbenchError, match="format holds"):
            features.save(random_dictionary(gate, **options), tmp_path, form)
    with pytest.raises(WorkbenchError, match="no format 'onnx'; choose one of SAELens, sparsify, Gemma Scope"):
        features.save(random_dictionary(), tmp_path, "onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="cannot be written"):
        features.save(random_dictionary(), tmp_path / "file" / "sae")


# Broken files.


@pytest.fixture(params=FORMATS)
def written(request, tmp_path):
    """A dictionary in each format: (folder, the name of its weight file)."""
    gate = "jumprelu" if request.param == "Gemma Scope" else "topk"
    d = random_dictionary(gate, centred=request.param == "sparsify")
    return features.save(d, tmp_path / "layers.1", request.param), FORMATS[request.param].WEIGHTS


def refused(folder):
    with pytest.raises(WorkbenchError) as caught:
        features.load(folder)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 1000
    return said


@pytest.mark.parametrize("content", NOT_TABLES)
def test_a_config_that_is_no_table_is_named(written, content):
    (written[0] / "cfg.json").write_bytes(NOT_TABLES[content])
    assert "cfg.json" in refused(written[0])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", bytes(200), b'{"a": 1}'])
def test_weights_of_another_form_are_named(written, content):
    folder, name = written
    (folder / name).write_bytes(content)
    assert name in refused(folder)


def test_cut_off_weights_are_named(written):
    folder, name = written
    whole = (folder / name).read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 1):
        (folder / name).write_bytes(whole[:size])
        assert name in refused(folder)


def changed(folder, name, change):
    path = folder / name
    if path.suffix == ".npz":
        with np.load(path) as file:
            tensors = {key: torch.tensor(file[key]) for key in file.files}
    else:
        tensors = load_file(path)
    change(tensors)
    if path.suffix == ".npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in tensors.items()})
    else:
        save_file(tensors, path)


def test_missing_tensors_other_shapes_and_broken_numbers_are_refused(written):
    folder, name = written
    whole = (folder / name).read_bytes()
    with_bias = "b_dec"
    changed(folder, name, lambda tensors: tensors.pop(with_bias))
    assert "has no 'b_dec'; it has" in refused(folder)
    for tensor in (torch.zeros(WIDTH + 1), torch.zeros(WIDTH, 1), torch.full((WIDTH,), float("inf")), torch.zeros(())):
        (folder / name).write_bytes(whole)
        changed(folder, name, lambda tensors, new=tensor: tensors.update({with_bias: new}))
        assert str(folder) in refused(folder)


STRANGE = (-1, 0, 0.5, 10**40, float("nan"), float("inf"), "x", [], {}, True)


@pytest.mark.parametrize("value", STRANGE)
@pytest.mark.parametrize("key", ["architecture", "k", "metadata", "normalize_activations", "apply_b_dec_to_input"])
def test_strange_settings_of_saelens_are_refused_or_read(tmp_path, key, value):
    folder = features.save(random_dictionary(), tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {key: value}))
    try:
        assert len(features.load(folder)) == FEATURES
    except WorkbenchError as error:
        assert str(folder) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("value", STRANGE)
@pytest.mark.parametrize("key", ["reads", "k", "sources", "scale", "provenance"])
def test_strange_entries_of_our_own_are_refused_or_read(tmp_path, key, value):
    folder = features.save(random_dictionary("batchtopk"), tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"]["workbench"][key] = value
    (folder / "cfg.json").write_text(json.dumps(config))
    try:
        assert len(features.load(folder)) == FEATURES
    except WorkbenchError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("architecture", ["temporal", "matching_pursuit", "crosscoder", 7])
def test_an_architecture_that_is_not_read_is_named(tmp_path, architecture):
    said = refused(saelens(tmp_path / "sae", weights(), architecture=architecture))
    assert str(architecture) in said


def test_signed_and_grouped_dictionaries_of_sparsify_are_refused(tmp_path):
    folder = features.save(random_dictionary(centred=True), tmp_path / "layers.1", "sparsify")
    config = json.loads((folder / "cfg.json").read_text())
    for change in ({"activation": "groupmax"}, {"signed": True}):
        (folder / "cfg.json").write_text(json.dumps(config | change))
        assert "is not supported" in refused(folder)


def test_folders_without_a_dictionary_say_what_is_there(tmp_path):
    assert "looked for sae_weights.safetensors, sae.safetensors, params.npz" in refused(tmp_path)
    features.save(random_dictionary(), tmp_path / "one")
    features.save(random_dictionary(), tmp_path / "two" / "deep")
    assert "name one of its folders: one, two/deep" in refused(tmp_path)


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(WorkbenchError, match="no embedded dictionary 'tiny-olmo@step6000/nothing'"):
        features.load("tiny-olmo@step6000/nothing")
    for name in ("nothing", "a b/c", "owner/repository/../up", ""):
        with pytest.raises(WorkbenchError):
            features.load(name)


def test_a_repository_of_the_hub_is_fetched_by_folder(tmp_path, monkeypatch, x):
    d = random_dictionary()
    features.save(d, tmp_path / "layer_5")
    asked = []

    def fetched(repository, revision, only):
        asked.append((repository, revision, *only))
        return tmp_path

    monkeypatch.setattr(hub, "fetch", fetched)
    assert same(features.load("owner/repository@v2/layer_5"), d, x)
    assert asked[0][:3] == ("owner/repository", "v2", "layer_5/cfg.json")


def test_without_the_hub_the_error_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WorkbenchError, match="the hub cannot be reached and owner/none@main is not in the local cache"):
        features.load("owner/none/layer_5")
