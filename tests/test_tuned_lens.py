"""A tuned lens changes nothing at first, learns to read what the last layer reads, and survives its file."""

import json

import numpy as np
import pytest
import torch

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.logit_lens import logit_lens, mean_lens
from workbench.analyses.support.translators import TunedLens
from workbench.analyses.token_inspection import token_inspection
from workbench.analyses.tuned_lens import lens_divergence, train_tuned_lens, tuned_lens
from workbench.errors import WorkbenchError
from workbench.texts import Texts
from workbench.tiny_olmo.lens import SHARING


def lens_of(model: OlmoForCausalLM, size: float = 0.0) -> TunedLens:
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(layers, width, width, generator=generator)
    return TunedLens(size * weight, size * torch.randn(layers, width, generator=generator), "small@step5")


def test_a_lens_of_zeros_is_the_logit_lens(model, tokens) -> None:
    ours, plain = tuned_lens(model, tokens[:1], lens_of(model)), logit_lens(model, tokens[:1])
    for name in plain:
        np.testing.assert_array_equal(ours[name].values, plain[name].values)


@torch.no_grad()
def test_each_row_is_read_through_its_own_map(model, tokens) -> None:
    lens = lens_of(model, 0.1)
    found = tuned_lens(model, tokens[:1], lens)["probability"]
    state = model.run(tokens[:1], capture="blocks.1.resid_post")["blocks.1.resid_post"][0, 3]
    logits = model.lm_head(model.model.norm(state + lens.weight[2] @ state + lens.bias[2]))
    assert found.values[2, 3] == pytest.approx(float(logits.softmax(-1).max()), rel=1e-4)
    assert found.values[-1, 3] == pytest.approx(float(model.run(tokens[:1]).logits[0, 3].softmax(-1).max()), rel=1e-4)


def test_learning_brings_every_layer_nearer_to_the_last(model, tokens) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [weight.grad for weight in model.parameters()]  # a shared model may have some
    texts = torch.randint(1, 99, (64, 12), generator=torch.Generator().manual_seed(1))
    lens = train_tuned_lens(model, texts[:56], epochs=20, batch_tokens=96, learning_rate=0.01)
    curves = lens_divergence(model, texts[56:], lens)
    tuned, plain = curves.values
    assert (tuned < 0.9 * plain).all() and (tuned >= 0).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is grad for weight, grad in zip(model.parameters(), gradients, strict=True))
    kl = tuned_lens(model, texts[60:61], lens)["kl"].values[:-1].mean(1)
    alone = lens_divergence(model, texts[60:61], lens).values[0]
    np.testing.assert_allclose(kl, alone, rtol=1e-3)


def test_checkpoints_share_maps_that_help_each_of_them(make_model) -> None:
    models = [make_model("olmo", seed=seed) for seed in (0, 1)]
    texts = torch.randint(1, 99, (64, 12), generator=torch.Generator().manual_seed(1))
    settings = {"epochs": 20, "batch_tokens": 96, "learning_rate": 0.01}
    shared = train_tuned_lens(models, texts[:56], **settings, name="small")
    assert shared.title == "the tuned lens of small, shared by its checkpoints"
    for model in models:
        tuned, plain = lens_divergence(model, texts[56:], shared).values
        assert (tuned < 0.97 * plain).all()
    alone, twice = (train_tuned_lens(given, texts[:16]) for given in (models[0], [models[0]] * 2))
    torch.testing.assert_close(twice.weight, alone.weight, rtol=1e-3, atol=1e-6)
    with pytest.raises(WorkbenchError, match="same shape; these have 2 layers of width 32 and 4 layers of width 32"):
        train_tuned_lens([models[0], make_model("olmo", num_hidden_layers=2)], texts)
    with pytest.raises(WorkbenchError, match="none was given"):
        train_tuned_lens([], texts)


def test_the_means_over_texts_are_those_of_the_lens(model, tokens) -> None:
    lens = lens_of(model, 0.1)
    found = mean_lens(model, tokens, position=5, lens=lens)
    each = [tuned_lens(model, text, lens) for text in tokens]
    for name in ("probability", "entropy", "kl"):
        np.testing.assert_allclose(found[name].values, np.mean([one[name].values[:, 5] for one in each], 0), rtol=1e-4)
    assert not np.allclose(found["kl"].values, mean_lens(model, tokens, position=5)["kl"].values, rtol=0.01)


def test_a_token_is_inspected_through_the_lens(model, tokens) -> None:
    lens = lens_of(model, 0.1)
    found = token_inspection(model, tokens[:1], 6, lens=lens).lens
    whole = tuned_lens(model, tokens[:1], lens)
    np.testing.assert_allclose(found["likeliest_probability"], whole["probability"].values[:, 5], rtol=1e-4)
    np.testing.assert_array_equal(found["rank"], whole["rank"].values[:, 5])


def test_it_is_written_and_read_in_the_format_of_the_package(tmp_path, make_model) -> None:
    lens = lens_of(make_model("olmo2"), 0.1)
    again = TunedLens.load(lens.save(tmp_path / "lens"))
    assert torch.equal(again.weight, lens.weight) and torch.equal(again.bias, lens.bias)
    assert again.model == "small@step5"
    config = json.loads((tmp_path / "lens" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["lens_type"]) == (len(lens.bias), "linear_tuned_lens")
    maps = torch.nn.ModuleList([torch.nn.Linear(*lens.weight.shape[1:]) for _ in lens.weight])  # as the package has it
    maps.load_state_dict(torch.load(tmp_path / "lens" / "params.pt", weights_only=True))
    state = torch.randn(lens.weight.shape[1])
    torch.testing.assert_close(lens.translated(state, 1), state + maps[1](state).detach())


def test_broken_files_are_refused(tmp_path, make_model) -> None:
    with pytest.raises(WorkbenchError, match="no tuned lens in"):
        TunedLens.load(tmp_path)
    lens = lens_of(make_model("olmo"))
    cut = (lens.save(tmp_path) / "params.pt").read_bytes()[:100]
    for name, content in (("params.pt", cut), ("params.pt", b"junk"), ("config.json", b"[]"), ("config.json", b"\xff")):
        lens.save(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WorkbenchError, match="holds no tuned lens"):
            TunedLens.load(tmp_path)


def test_a_lens_of_another_size_is_refused(make_model, tokens) -> None:
    with pytest.raises(WorkbenchError, match="the model has"):
        tuned_lens(make_model("olmo", num_hidden_layers=2), tokens[:1], lens_of(make_model("olmo")))
    with pytest.raises(WorkbenchError, match="the model has"):
        mean_lens(make_model("olmo", num_hidden_layers=2), tokens[:1], lens=lens_of(make_model("olmo")))
    with pytest.raises(WorkbenchError, match="layer d_model d_model"):
        TunedLens(torch.zeros(2, 3, 4), torch.zeros(2, 3))
    with pytest.raises(WorkbenchError, match="NaN"):
        TunedLens(torch.full((1, 2, 2), torch.nan), torch.zeros(1, 2))
    with pytest.raises(WorkbenchError, match="epochs=0"):
        train_tuned_lens(make_model("olmo"), tokens, epochs=0)


def test_the_embedded_shared_lens_is_better_at_every_layer_of_each_checkpoint_that_learned_it() -> None:
    """But for step 0, whose predictions are of nothing: see the docstring of `train_tuned_lens`."""
    lens = TunedLens.load("tiny-olmo@step100")
    assert lens.model == "tiny-olmo" and torch.equal(lens.weight, TunedLens.load("tiny-olmo").weight)
    for name in SHARING[1:]:
        model, tokenizer = checkpoints.load(name)
        tuned, plain = lens_divergence(model, Texts.read("tiny-olmo/english", tokenizer)[:4], lens).values
        assert (tuned < plain).all(), name


def test_the_embedded_lens_is_better_at_every_layer_on_text_held_out() -> None:
    lens = TunedLens.load("tiny-olmo@step6000")
    model, tokenizer = checkpoints.load(lens.model)
    for name in ("tiny-olmo/english", "tiny-olmo/code"):
        tuned, plain = lens_divergence(model, Texts.read(name, tokenizer)[:8], lens).values
        assert (tuned < 0.75 * plain).all(), name
