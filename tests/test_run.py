"""Run: what one call returned, as a mapping from sites to tensors."""

from collections.abc import Mapping

import pytest
import torch

from hooks import Capture, Run


def test_a_run_is_a_mapping(model, tokens):
    run = model.run(tokens, capture=["blocks.*.resid_post", "embed"])
    names = ["embed", *(f"blocks.{layer}.resid_post" for layer in range(4))]
    assert isinstance(run, Run)
    assert isinstance(run, Mapping)
    assert list(run) == list(run.keys()) == names
    assert len(run) == 5
    assert "embed" in run
    assert "blocks.0.resid_pre" not in run
    assert dict(run.items())["embed"] is run["embed"]
    assert run.get("blocks.0.resid_pre") is None


def test_bytes(model, tokens):
    assert model.run(tokens).nbytes == 0
    run = model.run(tokens, capture=["embed", Capture("blocks.1.resid_post", dtype=torch.float16)])
    assert run.nbytes == 2 * 14 * 32 * (4 + 2)
    part = model.run(tokens, capture=Capture("blocks.0.attn.pattern", heads=[1], queries=[-1]))
    assert part.nbytes == 2 * 14 * 4
    storage = part["blocks.0.attn.pattern"].untyped_storage()
    assert storage.nbytes() == part.nbytes, "a captured row keeps the whole pattern alive"


def test_stack(model, tokens):
    run = model.run(tokens, capture=["blocks.*.resid_post", "blocks.*.attn.z", "embed", "blocks.[13].mlp_out"])
    stacked = run.stack("resid_post")
    assert stacked.shape == (4, 2, 14, 32)
    assert all(torch.equal(stacked[layer], run[f"blocks.{layer}.resid_post"]) for layer in range(4))
    assert run.stack("attn.z").shape == (4, 2, 14, 4, 8)
    assert torch.equal(run.stack("mlp_out"), torch.stack([run["blocks.1.mlp_out"], run["blocks.3.mlp_out"]]))


def test_what_was_not_captured_is_named(model, tokens):
    run = model.run(tokens, capture="blocks.1.attn_out")
    with pytest.raises(KeyError, match=r"blocks.0.resid_pre.*blocks.1.attn_out"):
        run["blocks.0.resid_pre"]
    with pytest.raises(KeyError, match="no site 'nonsense'"):
        run["nonsense"]
    with pytest.raises(KeyError, match="resid_post"):
        run.stack("resid_post")


def test_a_run_says_what_it_holds(model, tokens):
    text = repr(model.run(tokens, capture="blocks.*.attn_out"))
    assert text.startswith("Run(")
    assert len(text) < 1000
