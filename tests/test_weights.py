"""A checkpoint folder matches its config, tensor by tensor, or is refused with the reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.layouts import FORMS, save_original
from workbench import checkpoints
from workbench.checkpoints.settings import family_name, read_settings
from workbench.errors import WorkbenchError


@pytest.fixture
def folder(tmp_path, make_model, family):
    make_model(family).save_pretrained(tmp_path / "step5")
    return tmp_path / "step5"


def change_config(folder, **changes):
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(settings))


def change_tensors(folder, **changes):
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


def test_every_tensor_is_the_models(folder, model):
    weights = checkpoints.open_weights(folder)
    parameters = dict(model.named_parameters())
    assert set(weights) == set(parameters)
    assert weights.parameters == sum(parameter.numel() for parameter in parameters.values())
    assert weights.nbytes == 4 * weights.parameters
    for name, parameter in parameters.items():
        assert torch.equal(weights.tensor(name), parameter)
        assert torch.equal(weights.rows(name, 1, 7), parameter[1:7])


def test_shards_are_one_checkpoint(tmp_path, model):
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    weights = checkpoints.open_weights(tmp_path)
    assert all(torch.equal(weights.tensor(name), parameter) for name, parameter in model.named_parameters())


def test_a_tensor_that_is_not_there_names_the_folder(folder):
    with pytest.raises(KeyError, match="step5"):
        checkpoints.open_weights(folder).tensor("model.nothing.weight")


def test_a_missing_shard_is_named(tmp_path, model):
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(WorkbenchError, match=lost.name):
        checkpoints.open_weights(tmp_path)


def test_missing_tensors_are_named(folder):
    change_tensors(folder, **{"model.layers.2.mlp.up_proj.weight": None})
    with pytest.raises(WorkbenchError, match=r"lacks 1 of \d+ tensors.*model\.layers\.2\.mlp\.up_proj\.weight"):
        checkpoints.open_weights(folder)


def test_left_over_tensors_are_named(folder):
    change_tensors(folder, **{"model.layers.0.mlp.experts": torch.zeros(2)})
    with pytest.raises(WorkbenchError, match=r"that this OLMo( [23])? does not have.*experts"):
        checkpoints.open_weights(folder)


def test_wrong_shapes_are_named_with_both(folder):
    change_tensors(folder, **{"model.layers.1.mlp.up_proj.weight": torch.zeros(48, 31)})
    with pytest.raises(WorkbenchError, match=r"up_proj\.weight has shape \(48, 31\), but the config says \(48, 32\)"):
        checkpoints.open_weights(folder)


def test_integers_are_no_weights(folder):
    change_tensors(folder, **{"model.layers.1.mlp.up_proj.weight": torch.zeros(48, 32, dtype=torch.int8)})
    with pytest.raises(WorkbenchError, match="int8"):
        checkpoints.open_weights(folder)


@pytest.mark.parametrize("model_type", ["llama", "olmoe", "olmo_hybrid", None])
def test_other_models_are_refused_by_name(folder, model_type):
    change_config(folder, model_type=model_type)
    with pytest.raises(WorkbenchError, match=f"config.json: model_type {model_type!r} is not a supported OLMo"):
        checkpoints.open_weights(folder)


@pytest.mark.parametrize(
    "changes", [{"num_attention_heads": 0}, {"hidden_size": "wide"}, {"num_hidden_layers": -1}, {"pad_token_id": 10**6}]
)
def test_impossible_configs_are_refused(folder, changes):
    change_config(folder, **changes)
    with pytest.raises(WorkbenchError, match="step5"):
        checkpoints.open_weights(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "exec"}, "hidden_act: 'exec' is no activation function; choices: .*silu"),
        ({"rope_parameters": {"rope_type": "none", "rope_theta": 1e4}}, "rope_type: 'none'; choices: default, linear"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0}}, "factor: 0 is not a valid"),
    ],
)
def test_a_setting_that_no_model_can_have_is_named_with_its_value(folder, changes, reason):
    change_config(folder, **changes)
    with pytest.raises(WorkbenchError, match=f"config.json: .*{reason}"):
        checkpoints.open_weights(folder)


@pytest.mark.parametrize("content", ["{", "[1]", "", "\x00\x01"])
def test_a_config_that_cannot_be_read_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(WorkbenchError, match=r"config\.json"):
        checkpoints.open_weights(folder)


def test_a_folder_without_a_config_is_no_checkpoint(tmp_path):
    with pytest.raises(WorkbenchError, match=r"neither config\.json nor config\.yaml"):
        checkpoints.open_weights(tmp_path)


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2", "model: 3"])
def test_a_yaml_that_cannot_be_read_is_refused(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(WorkbenchError, match=r"config\.yaml"):
        checkpoints.open_weights(tmp_path)


def test_former_names_of_olmo_2_are_known(tmp_path, make_model):
    make_model("olmo2").save_pretrained(tmp_path)
    change_config(tmp_path, model_type="olmo_1124")
    assert checkpoints.open_weights(tmp_path).config.model_type == "olmo2"
    assert family_name(read_settings(tmp_path)[0]) == "OLMo 2"


def test_the_family_is_read_from_either_config(tmp_path, make_model):
    for form in FORMS:
        for family, name in (("olmo", "OLMo"), ("olmo2", "OLMo 2")):
            folder = save_original(make_model(family), tmp_path / form / family, form)
            assert family_name(read_settings(folder)[0]) == name
    assert family_name({"model_type": "llama"}) is None


def test_fingerprints_tell_contents_and_not_places(tmp_path, make_model):
    model, other = make_model("olmo", num_hidden_layers=1), make_model("olmo", num_hidden_layers=1)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[3, 4] += 1e-3
    for name, one in (("a", model), ("b", model), ("c", other)):
        one.save_pretrained(tmp_path / name)
    a, b, c = (checkpoints.fingerprint(checkpoints.open_weights(tmp_path / name)) for name in "abc")
    assert a == b
    assert a != c
