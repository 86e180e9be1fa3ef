"""Run: the result of one call, as a mapping from sites to tensors."""

from collections.abc import Mapping

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import hooks.run
from hooks import Capture, HooksError, Run


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
    assert storage.nbytes() == part.nbytes, "a captured row should not keep the whole pattern in memory"


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


def test_to_another_device_or_dtype(model, tokens):
    run = model.run(tokens, capture=["embed", "blocks.1.attn.pattern"])
    for half in (run.to(torch.float16), run.to(dtype=torch.float16), run.to("cpu", torch.float16)):
        assert list(half) == list(run)
        assert all(tensor.dtype == torch.float16 for tensor in (*half.values(), half.logits))
        torch.testing.assert_close(half["embed"], run["embed"].half())
    assert run["embed"].dtype == torch.float32
    away = run.to("meta")
    assert all(tensor.device.type == "meta" for tensor in (*away.values(), away.logits))
    stopped = model.run(tokens, stop_at_layer=1).to(torch.float64)
    assert stopped.logits is None and stopped.resid.dtype == torch.float64


@pytest.mark.parametrize("options", [{}, {"stop_at_layer": 2}], ids=["whole", "stopped"])
def test_what_is_saved_is_loaded(model, tokens, tmp_path, options):
    """Bit for bit, in forward order, and with its own sites, so that names and error messages are the same."""
    sites = ["embed", "blocks.*.resid_p*", "blocks.1.attn.z", Capture("blocks.0.attn_out", dtype=torch.bfloat16)]
    run = model.run(tokens, capture=sites, **options)  # resid_post of one block is resid_pre of the next: one tensor
    run.save(tmp_path / "run.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]
    found = Run.load(tmp_path / "run.safetensors")
    assert list(found) == list(run)
    for name in run:
        assert found[name].dtype == run[name].dtype and torch.equal(found[name], run[name])
    for one, other in ((found.logits, run.logits), (found.resid, run.resid)):
        assert other is None if one is None else torch.equal(one, other)
    assert torch.equal(found.stack("hook_resid_post"), run.stack("resid_post"))
    with pytest.raises(KeyError, match="no site 'nonsense'"):
        found["nonsense"]


def test_a_captured_graph_and_captured_logits_are_saved(model, tokens, tmp_path):
    run = model.run(tokens, capture=["logits", "embed"], grad=True)
    run.save(str(tmp_path / "run"))
    found = Run.load(str(tmp_path / "run"))
    assert torch.equal(found["logits"], found.logits)
    assert not found["embed"].requires_grad


def test_a_file_without_a_run_is_refused(model, tokens, tmp_path):
    (tmp_path / "text").write_text("no tensors")
    save_file({"embed": torch.zeros(2)}, tmp_path / "tensors")
    for name in ("text", "tensors"):
        with pytest.raises(HooksError, match=f"{name} is not a file that Run.save wrote"):
            Run.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Run.load(tmp_path / "none")


def test_a_run_that_cannot_be_written_leaves_nothing(model, tokens, tmp_path, monkeypatch):
    run = model.run(tokens, capture="embed")
    run.save(tmp_path / "run")
    before = (tmp_path / "run").read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(hooks.run, "save_file", full)
    with pytest.raises(OSError, match="run cannot be written: No space left on device"):
        run.save(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
