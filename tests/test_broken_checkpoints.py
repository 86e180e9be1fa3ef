"""A checkpoint with any files either loads or is refused with a sentence that names the file: no traceback, no NaN."""

import json
import math
import re

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.layouts import FORMS, save_original
from workbench import checkpoints
from workbench.checkpoints.settings import LARGEST
from workbench.command_line import main
from workbench.errors import WorkbenchError

DEEP = 200_000
NOT_TABLES = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1e999",
    "a word": b'"olmo"',
    "truncated": b'{"a": {',
    "not UTF-8": b'{"a": "\xff"}',
    "zeros": bytes(64),
    "a deep list": b"[" * DEEP,
    "a deep table": b'{"a":' * DEEP,
    "a deep whole table": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
}
JSON_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MAY_BE_EMPTY = ("generation_config.json", "tokenizer_config.json")
STRANGE = (None, True, -1, 0, 0.5, 10**40, math.nan, math.inf, "", "x" * 200, "\ud800", [], ["a"], {}, {"a": {"b": []}})


@pytest.fixture(scope="module")
def sound(tmp_path_factory, make_model, tokenizer):
    """A checkpoint folder with files of every kind, and sharded weights."""
    folder = tmp_path_factory.mktemp("sound")
    make_model("olmo2", num_hidden_layers=1).save_pretrained(folder, max_shard_size="10kB")
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(sound, tmp_path):
    made = tmp_path / "step5"
    made.mkdir()
    for name, content in sound.items():
        (made / name).write_bytes(content)
    return made


def outcome(folder):
    """The error message of loading a checkpoint; None if it loads and its logits are finite."""
    try:
        model, tokenizer = checkpoints.load(str(folder))
    except WorkbenchError as error:
        return str(error)
    assert isinstance(tokenizer("w1 w2").input_ids, list)
    assert model.run(torch.tensor([[1, 2]])).logits.isfinite().all()
    return None


def test_the_sound_one_loads(folder):
    assert {*JSON_FILES} <= {path.name for path in folder.iterdir()}
    assert outcome(folder) is None


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("content", NOT_TABLES)
def test_a_file_that_is_no_table_is_named(folder, name, content):
    (folder / name).write_bytes(NOT_TABLES[content])
    said = outcome(folder)
    assert said is not None and name in said and "\n" not in said and len(said) < 1000


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_folder_in_place_of_a_file_is_named(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in (outcome(folder) or "")


@pytest.mark.parametrize("name", [name for name in JSON_FILES if name not in MAY_BE_EMPTY])
def test_an_empty_table_is_named(folder, name):
    (folder / name).write_text("{}")
    assert name in (outcome(folder) or "")


def test_a_tokenizer_without_added_tokens_says_so(folder):
    settings = json.loads((folder / "tokenizer.json").read_text())
    del settings["added_tokens"]
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    assert "tokenizer.json is not a complete tokenizer: it has no added_tokens" in outcome(folder)


def tell_each_setting_nonsense(path):
    """For any value of a setting, the checkpoint loads, or is refused with the setting's name."""
    settings = json.loads(path.read_text())
    for place, key in enumerate(settings):
        for value in STRANGE[place % 4 :: 4]:
            path.write_text(json.dumps(settings | {key: value}))
            said = outcome(path.parent)
            assert said is None or (path.parent.name in said and len(said) < 1000), (key, value, said)


@pytest.mark.parametrize("name", JSON_FILES)
def test_any_value_of_any_setting_loads_or_names_its_file(folder, name):
    tell_each_setting_nonsense(folder / name)


def test_any_value_of_any_original_setting_loads_or_names_its_file(tmp_path, make_model, tokenizer):
    folder = save_original(make_model("olmo", num_hidden_layers=1), tmp_path / "step5", "config.json")
    tokenizer.save_pretrained(folder)
    tell_each_setting_nonsense(folder / "config.json")


@pytest.fixture
def nothing_is_built(monkeypatch):
    def refused(*_args, **_kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr("hooks.olmo.OlmoForCausalLM.__init__", refused)
    return refused


@pytest.mark.parametrize("layers", [10**6, 10**9, LARGEST])
def test_very_many_layers_are_refused_with_both_numbers_before_there_is_a_config(
    folder, layers, nothing_is_built, monkeypatch
):
    monkeypatch.setattr("transformers.Olmo2Config.__init__", nothing_is_built)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": layers}))
    assert f"num_hidden_layers: {layers}, but the weight files have 1 layers" in outcome(folder)


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size", "vocab_size", "num_attention_heads"])
@pytest.mark.parametrize("size", [10**6, 10**12, 2**62])
def test_absurd_sizes_are_refused_with_both_shapes_before_anything_is_built(folder, name, size, nothing_is_built):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {name: size}))
    said = outcome(folder)
    assert str(size) in said or "but the config says" in said


def test_aliases_of_yaml_that_multiply_are_refused(tmp_path, make_model):
    folder = save_original(make_model("olmo", num_hidden_layers=1), tmp_path / "step5", "config.yaml")
    lines = ["l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    (folder / "config.yaml").write_text(
        "\n".join(lines) + "\n" + "model:\n  d_model: *l11\n  n_heads: 1\n  n_layers: 1"
    )
    with pytest.raises(WorkbenchError, match=r"config\.yaml holds more than 100,000 values"):
        checkpoints.open_weights(folder)


@pytest.mark.parametrize(("number", "said"), [(math.nan, "1 NaN of"), (-math.inf, "1 infinite of")])
def test_numbers_that_are_none_are_named_by_load_and_by_check(folder, number, said, capsys):
    path, name = next(
        (path, name) for path in sorted(folder.glob("*.safetensors")) for name in load_file(path) if "up_proj" in name
    )
    tensors = load_file(path)
    tensors[name][1, 2] = number
    save_file(tensors, path, metadata={"format": "pt"})
    told = outcome(folder)
    assert path.name in told and name in told and said in told
    model, _ = checkpoints.load(str(folder), check_finite=False)
    found = checkpoints.check(model)
    assert name in found.loc[found.check == "weights are finite", "detail"].item()
    assert main(["check", str(folder)]) == 1
    assert name in "".join(capsys.readouterr())


def test_numbers_that_a_dtype_cannot_hold_are_named_with_the_dtype(folder):
    path = next(path for path in sorted(folder.glob("*.safetensors")) if any("up_proj" in n for n in load_file(path)))
    tensors = load_file(path)
    name = next(name for name in tensors if "up_proj" in name)
    tensors[name][0, 0] = 1e30
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WorkbenchError, match=r"up_proj.*1e\+30, more than float16 can"):
        checkpoints.load(str(folder), dtype="float16")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("part", "setting"),
    [
        ("blocks.0.attn_norm.weight", "layer_norm_with_affine"),
        ("blocks.0.ff_norm.bias", "bias_for_layer_norm"),
        ("blocks.0.q_norm.weight", "attention_layer_norm"),
        ("blocks.0.att_proj.bias", "include_bias"),
        ("emb_norm.weight", "embedding_layer_norm"),
        ("wpe.weight", "rope"),
    ],
)
def test_tensors_of_another_original_name_the_setting_of_its_config(tmp_path, make_model, form, part, setting):
    folder = save_original(make_model("olmo", num_hidden_layers=1), tmp_path, form)
    tensors = load_file(folder / "model.safetensors")
    start = next(iter(tensors)).partition("transformer.")[0]
    save_file(tensors | {f"{start}transformer.{part}": torch.ones(32)}, folder / "model.safetensors")
    with pytest.raises(WorkbenchError, match=rf"{re.escape(part)}' \(see {setting} in the config\)"):
        checkpoints.open_weights(folder)


@pytest.mark.parametrize("family", ["olmo", "olmo2"])
@pytest.mark.parametrize("size", [2, 3])
def test_blocks_in_groups_are_the_blocks_in_a_row(tmp_path, make_model, tokens, tokenizer, family, size):
    model = make_model(family, num_hidden_layers=6)
    folder = save_original(model, tmp_path / "step5", "config.yaml")
    tokenizer.save_pretrained(folder)
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({"model": settings["model"] | {"block_group_size": size}}))
    tensors = load_file(folder / "model.safetensors")

    def grouped(found):
        return f"block_groups.{int(found[1]) // size}.{int(found[1]) % size}."

    save_file(
        {re.sub(r"blocks\.(\d+)\.", grouped, name): tensor for name, tensor in tensors.items()},
        folder / "model.safetensors",
    )
    loaded, _ = checkpoints.load(str(folder))
    assert torch.equal(loaded.run(tokens).logits, model.run(tokens).logits)


def test_without_a_dtype_it_is_float32_here_whatever_the_files_hold(tmp_path, make_model, tokenizer):
    make_model("olmo2").to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert checkpoints.load(str(tmp_path))[0].dtype == torch.float32
    assert checkpoints.load(str(tmp_path), dtype="auto")[0].dtype == torch.bfloat16


def test_comparing_weights_alone_reads_files_and_builds_no_model(tmp_path, make_model, monkeypatch, capsys):
    for seed, step in enumerate(("step0", "step10")):
        make_model("olmo2", seed=seed).save_pretrained(tmp_path / step)
    monkeypatch.setattr("workbench.checkpoints.loading._build", lambda *_: pytest.fail("a model was built"))
    assert main(["compare", f"{tmp_path}@step0", f"{tmp_path}@step10", "--only", "weights"]) == 0
    assert "relative_change" in capsys.readouterr().out
