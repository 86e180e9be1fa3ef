"""Two models to compare: facts that are known before loading, and models that do not fit into memory."""

import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from workbench.analyses.support import two_models as pairs
from workbench.analyses.support.two_models import config_of, pair_name, paired_pieces, shared_layers
from workbench.errors import WorkbenchError


@pytest.fixture
def folder(tmp_path, make_model):
    make_model("olmo2", seed=1).save_pretrained(tmp_path / "step5")
    return str(tmp_path / "step5")


def weights(model):
    yield from (block.mlp.up_proj.weight.detach() for block in model.model.blocks)


def test_pieces_come_in_pairs_in_either_way(folder, make_model, recwarn):
    a, b = make_model("olmo2", seed=0), make_model("olmo2", seed=1)
    for first, second in ((a, b), (a, folder)):
        found = list(paired_pieces(first, second, weights, 4))
        assert all(torch.equal(one, mine) for (one, _), mine in zip(found, weights(a), strict=True))
        assert all(torch.equal(other, mine) for (_, other), mine in zip(found, weights(b), strict=True))


def test_a_full_disk_is_said_with_both_numbers_and_nothing_stays(folder, make_model, monkeypatch, tmp_path, recwarn):
    usage = namedtuple("usage", "total used free")(10**9, 0, pairs.SPARED + 1000)
    monkeypatch.setattr(pairs.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(WorkbenchError, match=r"the next 6\.144 kB do not fit: 536\.9 MB are free there, and 536"):
        list(paired_pieces(folder, make_model("olmo2"), weights, 4))
    assert not list(Path(tmp_path).glob("olmo-pair-*"))


def test_what_differs_is_said_before_anything_is_loaded(folder, make_model, monkeypatch):
    monkeypatch.setattr(pairs.checkpoints, "load", lambda *_, **__: pytest.fail("it was loaded"))
    assert config_of(folder).vocab_size == 99 and shared_layers(folder, folder) == 4
    with pytest.raises(WorkbenchError, match="vocabularies of 99 and 120 tokens"):
        next(paired_pieces(folder, make_model("olmo2", vocab_size=120), weights, 4))
    with pytest.raises(WorkbenchError, match="A has 4 layers of 4 heads, B 2 of 4"):
        shared_layers(folder, make_model("olmo2", num_hidden_layers=2))


def test_only_what_has_a_name_is_named(make_model):
    model = make_model("olmo2")
    assert pair_name(model, model) == ""
    assert pair_name("x@step1", model) == " (A: x@step1)"
    assert pair_name("x@step1", "x@step2") == " (A: x@step1, B: x@step2)"
