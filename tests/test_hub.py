"""The hub's revisions, and the local cache if the hub cannot be reached. No test here connects to the hub."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub._tree_cache import read_tree_cache
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

from workbench import checkpoints
from workbench.checkpoints import Checkpoint, hub
from workbench.errors import WorkbenchError

BRANCHES = ["main", "step2000-tokens8B", "step1000-tokens4B", "refs-of-others"]


class Unreachable:
    """A hub that cannot be reached."""

    def __getattr__(self, name: str) -> object:
        def fail(*args: object, **kwargs: object) -> None:
            raise HTTPError("no route to host\nmore")

        return fail


class Reachable:
    """A hub with one repository."""

    def list_repo_refs(self, repository: str) -> SimpleNamespace:
        return SimpleNamespace(branches=[SimpleNamespace(name=name) for name in BRANCHES], tags=[])

    def model_info(self, repository: str, revision: str | None = None, *, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename="model.safetensors")])


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(hub, "HfApi", Unreachable)


def cached(monkeypatch, **repositories: dict[str, object]) -> None:
    """Make the local cache contain repositories with these refs."""
    repos = [SimpleNamespace(repo_id=name.replace("__", "/"), refs=refs) for name, refs in repositories.items()]
    monkeypatch.setattr(hub, "scan_cache_dir", lambda: SimpleNamespace(repos=repos))


def test_revisions_become_a_sorted_series_with_main_last(monkeypatch):
    monkeypatch.setattr(hub, "HfApi", Reachable)
    series = checkpoints.series("allenai/OLMo-1B-hf")
    assert [c.revision for c in series] == ["step1000-tokens4B", "step2000-tokens8B", "main"]
    assert [c.tokens for c in series] == [4 * 10**9, 8 * 10**9, None]
    assert series[0].id == "allenai/OLMo-1B-hf@step1000-tokens4B"
    assert (series[0].family, series.source, series.note) == ("OLMo", "hub", "")


def test_out_of_reach_the_cache_is_listed_and_that_is_said(offline, monkeypatch):
    cached(monkeypatch, allenai__OLMo_1B={"main": 1, "step1000-tokens4B": 2}, other__one={"step7": 3})
    series = checkpoints.series("allenai/OLMo_1B")
    assert [c.revision for c in series] == ["step1000-tokens4B", "main"]
    assert series.source == "cache"
    assert "cannot be reached (no route to host)" in series.note
    assert "2 revisions" in series.note


def test_out_of_reach_and_not_cached_is_an_error(offline, monkeypatch):
    cached(monkeypatch)
    with pytest.raises(WorkbenchError, match="nothing of allenai/OLMo-1B-hf is in the local cache"):
        checkpoints.series("allenai/OLMo-1B-hf")


def test_files_come_from_the_cache_with_a_warning_when_out_of_reach(offline, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "snapshot_download", lambda repository, **options: str(tmp_path))
    with pytest.warns(UserWarning, match="comes from the cache"):
        assert hub.fetch("allenai/OLMo-1B-hf", "main") == tmp_path


def test_what_was_fetched_is_here_and_what_was_half_fetched_is_not(offline, monkeypatch, tmp_path, make_model):
    """The hub's client would require all files of a revision, but `fetch` leaves out those that are not needed."""
    folder, commit = tmp_path / "models--a--b", "c" * 40
    make_model("olmo").save_pretrained(folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "step10").write_text(commit)
    files = {file.name: file.stat().st_size for file in (folder / "snapshots" / commit).iterdir()}
    listed = {name: {"size": size, "blob_id": "0" * 40} for name, size in (files | {"README.md": 9}).items()}
    (folder / "trees").mkdir()
    (folder / "trees" / f"{commit}.json").write_text(json.dumps({"format_version": 1, "files": listed}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert read_tree_cache(str(folder), commit) is not None, "the hub's client now stores its lists in another form"
    here, absent = (Checkpoint(f"a/b@{name}", revision=name) for name in ("step10", "step20"))
    assert checkpoints.is_here(here) and not checkpoints.is_here(absent)
    with pytest.warns(UserWarning, match="comes from the cache"):
        assert checkpoints.locate(here) == folder / "snapshots" / commit
    (folder / "snapshots" / commit / "config.json").unlink()
    assert not checkpoints.is_here(here)


def test_neither_reachable_nor_cached_is_an_error(offline, monkeypatch):
    def missing(repository: str, **options: object) -> str:
        raise LocalEntryNotFoundError("not here")

    monkeypatch.setattr(hub, "snapshot_download", missing)
    with pytest.raises(WorkbenchError, match="not in the local cache"):
        checkpoints.load("allenai/OLMo-1B-hf@step1000-tokens4B")


def test_code_is_never_fetched_and_pickles_only_without_safetensors(monkeypatch, tmp_path):
    asked: dict[str, list[str]] = {}

    def remember(repository: str, allow_patterns: list[str], **options: object) -> str:
        asked["patterns"] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(hub, "HfApi", Reachable)
    monkeypatch.setattr(hub, "snapshot_download", remember)
    assert hub.fetch("a/b", None) == Path(tmp_path)
    assert not any(pattern.endswith((".py", ".bin", ".pt")) or pattern == "*" for pattern in asked["patterns"])


@pytest.mark.parametrize("name", ["tiny-olmo", "a/b/c", "../x", "/tmp/x", "a b/c", "-x/y"])
def test_what_cannot_be_a_repository(name):
    assert not hub.is_repository(name)
