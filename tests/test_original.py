"""A checkpoint in AI2's original layout gives the same model as in transformers' layout."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.layouts import FORMS, original_settings, save_original
from workbench import checkpoints
from workbench.checkpoints import original
from workbench.errors import WorkbenchError

VARIANTS = {
    "olmo": ("olmo", {}),
    "olmo tied, grouped": ("olmo", {"tie_word_embeddings": True, "num_key_value_heads": 2}),
    "olmo clipped, multi-query": ("olmo", {"clip_qkv": 0.8, "num_key_value_heads": 1}),
    "olmo2": ("olmo2", {}),
    "olmo2 tied, grouped": ("olmo2", {"tie_word_embeddings": True, "num_key_value_heads": 2}),
    "olmo2 base": ("olmo2", {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}),
}


def settings_of(folder, form):
    text = (folder / form).read_text()
    return json.loads(text) if form == "config.json" else yaml.safe_load(text)["model"]


def change_settings(folder, form, **changes):
    settings = {key: value for key, value in (settings_of(folder, form) | changes).items() if value != "absent"}
    text = json.dumps(settings) if form == "config.json" else yaml.safe_dump({"model": settings})
    (folder / form).write_text(text)


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_model_that_was_written(
    tmp_path, make_model, tokenizer, tokens, form, pickled, variant
):
    family, options = VARIANTS[variant]
    model = make_model(family, **options)
    folder = save_original(model, tmp_path / "step5", form, pickled)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = checkpoints.load(str(folder))
    assert loaded.config.model_type == family
    assert torch.equal(loaded.run(tokens).logits, model.run(tokens).logits)


def test_both_layouts_give_the_same_tensors(tmp_path, make_model, form):
    model = make_model("olmo2", num_key_value_heads=2)
    weights = checkpoints.open_weights(save_original(model, tmp_path, form))
    assert set(weights) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert torch.equal(weights.tensor(name), parameter)
        assert torch.equal(weights.rows(name, 2, 5), parameter[2:5])


def test_what_a_minimal_config_leaves_out_is_seen_in_the_tensors(tmp_path, make_model, form):
    for tied in (True, False):
        folder = save_original(make_model("olmo", tie_word_embeddings=tied), tmp_path / str(tied), form)
        left_out = ("weight_tying", "rope", "include_bias", "layer_norm_type", "layer_norm_eps", "n_kv_heads", "alibi")
        change_settings(folder, form, **dict.fromkeys(left_out, "absent"))
        assert checkpoints.open_weights(folder).config.tie_word_embeddings is tied


def test_the_mlp_has_its_ratio_where_it_has_no_size(tmp_path, make_model, form):
    folder = save_original(make_model("olmo"), tmp_path, form)
    change_settings(folder, form, mlp_hidden_size=None, mlp_ratio=3)
    assert checkpoints.open_weights(folder).config.intermediate_size == 48


def test_multi_query_by_its_old_name(make_model):
    settings = original_settings(make_model("olmo")) | {"n_kv_heads": None, "multi_query_attention": True}
    assert original.config_from_original(settings, set()).num_key_value_heads == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"alibi": True},
        {"rope": False},
        {"include_bias": True},
        {"activation_type": "gelu"},
        {"block_type": "llama"},
        {"attention_layer_norm": True},
        {"layer_norm_with_affine": True},
        {"layer_norm_type": "rms"},
        {"layer_norm_eps": 1e-6},
        {"norm_after": True, "attention_layer_norm": False},
        {"norm_after": True, "attention_layer_norm": True, "layer_norm_type": "rms", "clip_qkv": 8.0},
    ],
)
def test_architectures_that_are_not_olmo_are_refused_by_setting(tmp_path, make_model, form, changes):
    folder = save_original(make_model("olmo"), tmp_path, form)
    change_settings(folder, form, **changes)
    with pytest.raises(WorkbenchError, match=f"{form}: .* is not supported"):
        checkpoints.open_weights(folder)


@pytest.mark.parametrize("name", ["blocks.0.attn_norm.weight", "blocks.1.att_proj.bias", "wpe.weight"])
def test_tensors_of_other_architectures_are_refused(tmp_path, make_model, name):
    folder = save_original(make_model("olmo"), tmp_path, "config.yaml")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {f"transformer.{name}": torch.zeros(32)}, folder / "model.safetensors")
    with pytest.raises(WorkbenchError, match="that this OLMo does not have"):
        checkpoints.open_weights(folder)


def test_a_fused_matrix_of_the_wrong_size_is_refused(tmp_path, make_model):
    folder = save_original(make_model("olmo"), tmp_path, "config.yaml")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.blocks.0.att_proj.weight"] = torch.zeros(40, 32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WorkbenchError, match="has shape"):
        checkpoints.open_weights(folder)


def test_a_config_without_a_size_is_broken(tmp_path, make_model, form):
    folder = save_original(make_model("olmo"), tmp_path, form)
    change_settings(folder, form, vocab_size="absent", embedding_size=None)
    with pytest.raises(WorkbenchError, match="vocab_size"):
        checkpoints.open_weights(folder)


def test_the_known_mistake_about_the_end_of_text_is_mended_aloud(make_model):
    settings = original_settings(make_model("olmo")) | {
        "eos_token_id": 0,
        "vocab_size": 50_280,
        "embedding_size": 50_304,
    }
    with pytest.warns(UserWarning, match="eos_token_id: 0"):
        assert original.config_from_original(settings, set()).eos_token_id == 50_279
