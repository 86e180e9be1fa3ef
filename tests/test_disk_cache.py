"""The disk cache computes a value once if its folder can be written, and each time if it cannot."""

import errno
import os
import pickle
from itertools import count
from pathlib import Path

import pytest

from workbench import disk_cache
from workbench.disk_cache import DiskCache


@pytest.fixture
def make():
    """0, then 1, …"""
    return count().__next__


def test_a_value_is_made_once(tmp_path, make):
    cache = DiskCache(tmp_path / "new" / "folder")
    assert not cache.holds("a")
    assert [cache.kept("a", make), cache.kept("b", make), cache.kept("a", make)] == [(0, True), (1, True), (0, True)]
    assert cache.holds("a") and DiskCache(cache.folder).kept("a", make) == (0, True)


def unwritable(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path that cannot be written, not even by root, who ignores permissions."""
    match kind:
        case "file":
            folder.write_bytes(b"")
        case "below a file":
            folder.write_bytes(b"")
            return folder / "below"
        case "read-only":
            monkeypatch.setattr(Path, "mkdir", refusing(errno.EROFS))
        case "full":
            monkeypatch.setattr(disk_cache.pickle, "dump", refusing(errno.ENOSPC))
    return folder


def refusing(number: int):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("kind", ["file", "below a file", "read-only", "full"])
def test_where_nothing_can_be_kept_values_are_made(kind, tmp_path, make, monkeypatch):
    cache = DiskCache(unwritable(kind, tmp_path / "cache", monkeypatch))
    assert [cache.kept("a", make), cache.kept("a", make)] == [(0, False), (1, False)]
    assert not cache.holds("a") and not list(tmp_path.glob("**/*.part"))


def test_what_a_read_only_folder_holds_is_read(tmp_path, make, monkeypatch):
    DiskCache(tmp_path).kept("a", make)
    monkeypatch.setattr(Path, "mkdir", refusing(errno.EROFS))
    assert DiskCache(tmp_path).kept("a", make) == (0, True)


def test_errors_of_what_is_made_are_its_own(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        DiskCache(tmp_path).kept("a", refusing(errno.ENOSPC))
    with pytest.raises(EOFError):
        DiskCache(tmp_path).kept("a", lambda: pickle.loads(b""))


@pytest.mark.parametrize("damage", [b"", b"\x80", b"\x80\x05garbage", b"cno.such.module\nname\n."])
def test_a_damaged_value_is_made_anew(tmp_path, make, damage):
    cache = DiskCache(tmp_path)
    cache.kept("a", make)
    next(tmp_path.iterdir()).write_bytes(damage)
    assert [cache.kept("a", make), cache.kept("a", make)] == [(1, True), (1, True)]


def test_what_was_used_longest_ago_makes_room(tmp_path):
    cache = DiskCache(tmp_path)
    for age, key in enumerate("abcd"):
        cache.kept(key, lambda: bytes(1000))
        for path in tmp_path.glob(f"{key}.*"):
            os.utime(path, (1000 - age, 1000 - age))
    cache.shrink(2500)
    assert [key for key in "abcd" if cache.holds(key)] == ["a", "b"]
    cache.shrink(0)
    assert not list(tmp_path.iterdir())
