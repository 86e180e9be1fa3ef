"""The self-check passes on correct models of every kind and finds the fault of wrong ones."""

import pytest
import torch

from workbench.checkpoints import check


def failed(report) -> str:
    return "; ".join(report.loc[~report["ok"], "check"])


def test_sound_models_pass(pair, tokenizer):
    report = check(pair.ours, tokenizer)
    assert failed(report) == "tokenizer gives a text back"  # the tests' tokenizer knows 98 words


def test_half_precision_passes(make_model, family):
    assert failed(check(make_model(family).bfloat16())) == ""


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_found_and_named(make_model, family, number):
    model = make_model(family)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[1, 1] = number
    report = check(model)
    assert "weights are finite" in failed(report)
    assert "layers.2.mlp.up_proj" in report.iloc[0]["detail"]


def test_a_dead_norm_is_found(make_model):
    model = make_model("olmo2")
    with torch.no_grad():
        model.model.layers[1].post_attention_layernorm.weight.zero_()
    report = check(model)
    assert "norm weights" in failed(report)
    assert "layers.1.post_attention_layernorm" in report.iloc[1]["detail"]


def test_wrong_angles_are_found(make_model):
    model = make_model("olmo3")
    model.model.rotary_emb["sliding_attention"].inv_freq.mul_(0.25)
    assert failed(check(model)) == "RoPE of sliding attention"


def test_windows_are_seen_in_the_pattern(make_model):
    model = make_model("olmo3", sliding_window=5)
    details = check(model).set_index("check")["detail"]
    assert details["attention to the last 5 keys"].startswith("layers 0, 2: 5 of")
    assert details["attention to all keys"].startswith("layers 1, 3: 24 of 24")


def test_a_window_that_is_not_kept_is_found(make_model):
    model = make_model("olmo3", sliding_window=5)
    model.model.layers[0].self_attn.sliding_window = 4
    assert failed(check(model)) == "attention to the last 4 keys"


def test_a_tokenizer_with_more_tokens_than_embeddings_is_found(make_model, tokenizer):
    assert "tokenizer fits the vocabulary" in failed(check(make_model("olmo", vocab_size=98), tokenizer))
