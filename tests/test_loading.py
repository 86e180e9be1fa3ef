"""Loading a checkpoint gives the saved model; one that does not fit into memory or does not exist is refused."""

import json
import shutil

import pytest
import torch
from transformers import Olmo2ForCausalLM, PreTrainedTokenizerFast

from tests.layouts import save_original
from workbench import checkpoints
from workbench.analyses.compare_weights import compare_weights
from workbench.analyses.support.two_models import loaded_model
from workbench.analyses.trajectory import trajectory
from workbench.checkpoints import catalog, loading
from workbench.errors import WorkbenchError

ONE_FAMILY = pytest.mark.parametrize("family", ["olmo2"])
"""For a test of what is the same for all families, such as what happens before a checkpoint's family is known."""


@pytest.fixture
def series(tmp_path, make_model, tokenizer, family):
    for seed, name in enumerate(("step0", "step10", "step20-order2", "step20")):
        make_model(family, seed=seed).save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def logits(model, tokens):
    return model.run(tokens).logits


def test_it_is_the_model_that_was_saved(series, make_model, family, tokens):
    model, tokenizer = checkpoints.load(f"{series}@step10")
    assert torch.equal(logits(model, tokens), logits(make_model(family, seed=1), tokens))
    assert tokenizer("w3 w98")["input_ids"] == [3, 98]
    assert not model.training
    assert model.dtype == torch.float32


@ONE_FAMILY
@pytest.mark.parametrize("way", ["id", "entry", "folder", "path of the folder", "end of the series"])
def test_every_way_to_name_a_checkpoint(series, make_model, family, tokens, way):
    entries = checkpoints.series(str(series))
    name = {
        "id": f"{series}@step20",
        "entry": next(c for c in entries if c.revision == "step20"),
        "folder": str(series / "step20"),
        "path of the folder": series / "step20",
        "end of the series": str(series),
    }[way]
    assert torch.equal(logits(checkpoints.load(name)[0], tokens), logits(make_model(family, seed=3), tokens))


@ONE_FAMILY
def test_the_embedded_series_by_its_name(series, monkeypatch, make_model, family, tokens):
    monkeypatch.setitem(catalog.EMBEDDED, "tiny-olmo", series)
    for name, seed in (("tiny-olmo", 3), ("tiny-olmo@step20-order2", 2)):
        assert torch.equal(logits(checkpoints.load(name)[0], tokens), logits(make_model(family, seed=seed), tokens))


def test_shards_load_like_one_file(tmp_path, model, tokenizer, tokens):
    model.save_pretrained(tmp_path, max_shard_size="20kB")
    tokenizer.save_pretrained(tmp_path)
    assert torch.equal(logits(checkpoints.load(str(tmp_path))[0], tokens), logits(model, tokens))


@ONE_FAMILY
@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "torch.float64"])
def test_dtype_is_the_one_asked_for(series, dtype):
    model, _ = checkpoints.load(str(series), dtype=dtype)
    wanted = getattr(torch, str(dtype).removeprefix("torch."))
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}


@ONE_FAMILY
@pytest.mark.parametrize("dtype", ["int8", "float33", torch.int64])
def test_a_dtype_that_is_none_is_refused(series, dtype):
    with pytest.raises(WorkbenchError, match="dtype="):
        checkpoints.load(str(series), dtype=dtype)


@ONE_FAMILY
def test_an_unknown_quantisation_names_the_choices(series):
    with pytest.raises(WorkbenchError, match="8bit, 4bit"):
        checkpoints.load(str(series), quantize="3bit")


@pytest.mark.parametrize("form", ["transformers", "original"])
def test_quantised_models_run_and_are_near(tmp_path, make_model, tokenizer, tokens, form):
    model = make_model("olmo2", hidden_size=128, intermediate_size=128, num_hidden_layers=2)  # blocks of 64 numbers
    if form == "original":
        save_original(model, tmp_path, "config.json")
    else:
        model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    quantised, _ = checkpoints.load(str(tmp_path), quantize="4bit")
    assert quantised.is_loaded_in_4bit
    distance = (logits(quantised, tokens) - logits(model, tokens)).norm() / logits(model, tokens).norm()
    assert distance < 0.6


@ONE_FAMILY
def test_progress_rises_to_one_and_cancelling_reaches_the_caller(series):
    heard: list[float] = []
    checkpoints.load(str(series), progress=lambda fraction, text: heard.append(fraction))
    assert heard == sorted(heard)
    assert (heard[0], heard[-1]) == (0.0, 1.0)

    def cancel(fraction: float, text: str) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.load(str(series), progress=cancel)


@ONE_FAMILY
def test_a_checkpoint_without_tokenizer_files_has_its_parents_or_none_aloud(series, tmp_path):
    with pytest.warns(UserWarning, match=r"no tokenizer\.json"):
        alone = shutil.copytree(series / "step10", tmp_path / "elsewhere" / "step10")
        assert checkpoints.load(str(alone))[1] is None
    assert checkpoints.load(str(series / "step10"))[1] is not None


@ONE_FAMILY
def test_a_tokenizer_with_ids_beyond_the_vocabulary_is_said(series):
    larger = PreTrainedTokenizerFast.from_pretrained(series)
    larger.add_tokens(["beyond"])
    larger.save_pretrained(series / "step10")
    with pytest.warns(UserWarning, match=r"has ids up to \d+, but the model's vocabulary has \d+ tokens"):
        checkpoints.load(f"{series}@step10")


@ONE_FAMILY
def test_a_tokenizer_comes_without_its_model(series, monkeypatch):
    monkeypatch.setattr(loading, "open_weights", lambda *_: pytest.fail("weights were opened"))
    for name in (f"{series}@step10", checkpoints.series(str(series))[0], series / "step0"):
        assert checkpoints.tokenizer_of(name)("w3 w98")["input_ids"] == [3, 98]


@ONE_FAMILY
def test_a_model_comes_without_its_tokenizer(series, monkeypatch):
    monkeypatch.setattr(loading, "tokenizer_of", lambda *_: pytest.fail("the tokenizer was read"))
    model, nothing = checkpoints.load(f"{series}@step10", with_tokenizer=False)
    assert nothing is None and len(model.model.blocks) == 4
    assert len(loaded_model(f"{series}@step0").model.blocks) == 4
    along = trajectory(checkpoints.series(str(series)), lambda model: float(len(model.model.blocks)), cache=None)
    assert (along.values == 4).all()


@ONE_FAMILY
def test_a_folder_is_a_checkpoint_in_every_place_that_takes_one(series):
    folder = series / "step10"
    assert checkpoints.locate(folder) == folder and checkpoints.series(series)[1].id == f"{series}@step10"
    assert (compare_weights(folder, f"{series}@step10")["distance"].values == 0).all()
    for wrong in (7, None, b"step10"):
        with pytest.raises(WorkbenchError, match="is not a checkpoint; give an id"):
            checkpoints.load(wrong)


@ONE_FAMILY
def test_a_wrong_name_names_the_choices(series, tmp_path):
    with pytest.raises(WorkbenchError, match="step0, step10, step20-order2, step20"):
        checkpoints.load(f"{series}@step11")
    with pytest.raises(WorkbenchError, match="tiny-olmo"):
        checkpoints.load("nothing-of-the-kind")
    with pytest.raises(WorkbenchError):
        checkpoints.load(f"{series}@../{tmp_path.name}")


def test_the_estimate_is_what_the_model_weighs(series):
    for dtype in (torch.float32, torch.bfloat16):
        model, _ = checkpoints.load(str(series), dtype=dtype)
        need = checkpoints.estimate(str(series), dtype=dtype)
        assert need.resident == sum(parameter.nbytes for parameter in model.parameters())
        assert need.peak > need.resident


def test_quantising_takes_less_in_the_end_and_more_on_the_way(series):
    plain, small = checkpoints.estimate(str(series)), checkpoints.estimate(str(series), quantize="4bit")
    assert small.resident < plain.resident < small.peak


@ONE_FAMILY
def test_what_does_not_fit_is_refused_with_both_numbers_before_it_is_read(series, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda device: 10_000)
    monkeypatch.setattr(loading, "_read_tensors", lambda *_: pytest.fail("it was read"))
    with pytest.raises(WorkbenchError, match=r"needs [\d.]+ kB to load, but 10 kB are free on cpu"):
        checkpoints.load(str(series))


@ONE_FAMILY
@pytest.mark.parametrize("device", ["cuda", "mps", "cuda:7", "meta", "nonsense", "cuda:x", torch.device("cuda", 1)])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(series, monkeypatch, device):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    for ask in (
        lambda: checkpoints.load(str(series), device=device),
        lambda: checkpoints.Residents(10**9, device=device),
        lambda: loading.free_memory(device),
    ):
        with pytest.raises(WorkbenchError, match=rf"no device '{device}' on this machine; torch can use: cpu$"):
            ask()


def test_accelerators_are_counted_and_named(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    names = (None, "cpu", "cuda", "cuda:1")
    assert [str(loading.device_of(name)) for name in names] == ["cpu", "cpu", "cuda", "cuda:1"]
    with pytest.raises(WorkbenchError, match=r"no device 'cuda:2' .*; torch can use: cpu, cuda:0, cuda:1$"):
        loading.device_of("cuda:2")
    with pytest.raises(WorkbenchError, match="no device 'mps' "):
        loading.device_of("mps")


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (8_430_000, "8.43 MB"), (999_999_999, "1000 MB"), (2_345_600_000, "2.346 GB")],
)
def test_bytes_can_be_read_at_any_size(count, said):
    assert loading.readable(count) == said


def test_the_defaults_of_generation_are_those_of_the_checkpoint(tmp_path, make_model, tokenizer, tokens):
    """As transformers' own model has them: sampling, its temperature, and every token that ends a text."""
    model = make_model("olmo2")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    said = {"do_sample": True, "temperature": 0.6, "top_k": 3, "eos_token_id": [7, 9], "max_new_tokens": 5}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    ours = checkpoints.load(str(tmp_path))[0]
    theirs = Olmo2ForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    assert ours.generation_config.to_diff_dict() == theirs.generation_config.to_diff_dict()
    assert {name: getattr(ours.generation_config, name) for name in said} == said
    written = [torch.manual_seed(0) and one.generate(tokens) for one in (ours, theirs)]
    assert torch.equal(*written) and written[0].shape[1] <= tokens.shape[1] + 5
    (tmp_path / "generation_config.json").unlink()
    assert checkpoints.load(str(tmp_path))[0].generation_config.to_diff_dict() == model.generation_config.to_diff_dict()


@pytest.mark.parametrize("kept", ["max_new_tokens", "eos_token_id"])
def test_settings_of_generation_that_cannot_be_are_refused(tmp_path, make_model, tokenizer, kept):
    make_model("olmo2", num_hidden_layers=1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({kept: "many"}))
    with pytest.raises(WorkbenchError, match=r"generation_config\.json"):
        checkpoints.load(str(tmp_path))


@pytest.mark.parametrize("theta", [10_000, 500_000.0, 1])
def test_a_rope_theta_that_contradicts_rope_parameters_is_refused(tmp_path, make_model, family, theta):
    """OLMo 3 has a table for each kind of attention; the old single number should be the base of one of them."""
    model = make_model(family)
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    if family == "olmo3":
        settings["rope_parameters"]["full_attention"]["rope_theta"] = 500_000.0
    allowed = {10_000.0, 500_000.0} if family == "olmo3" else {10_000.0}
    (tmp_path / "config.json").write_text(json.dumps(settings | {"rope_theta": theta}))
    if theta in allowed:
        assert checkpoints.open_weights(tmp_path).config.rope_parameters == settings["rope_parameters"]
    else:
        with pytest.raises(
            WorkbenchError, match=rf"config\.json.*rope_theta: {theta}, but rope_parameters: rope_theta: \d"
        ):
            checkpoints.open_weights(tmp_path)
