"""Files are written completely or not at all."""

import os
import stat
from pathlib import Path

import pytest

from workbench.whole_files import check_writable, is_same_file, whole_file


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_that_fails_leaves_everything_as_it_was(tmp_path, before, error):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), whole_file(path) as file:
        file.write(b"half")
        file.flush()
        raise error
    assert [one.name for one in tmp_path.iterdir()] == ([] if before is None else ["file"])
    assert before is None or path.read_bytes() == before


def test_nothing_of_a_file_is_seen_before_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_permissions_and_another_keeps_its_own(tmp_path):
    usual, new, kept = tmp_path / "usual", tmp_path / "new", tmp_path / "kept"
    usual.write_bytes(b"")
    kept.write_bytes(b"")
    kept.chmod(0o640)
    for path in (new, kept):
        with whole_file(path) as file:
            file.write(b"x")
    assert stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640


def test_links_are_followed_and_stay(tmp_path):
    (tmp_path / "folder").mkdir()
    real, link = tmp_path / "folder" / "real", tmp_path / "link"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with whole_file(link) as file:
        file.write(b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"


def test_a_device_is_written_and_never_replaced():
    with whole_file(Path(os.devnull)) as file:
        file.write(b"x")
    assert Path(os.devnull).is_char_device()


def test_names_as_long_as_a_name_can_be(tmp_path):
    path = tmp_path / (255 * "x")
    check_writable(path)
    with whole_file(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def test_what_cannot_be_written_is_known_before(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"")
    for name, reason in {
        "": "folder",
        "dangling": "link",
        "no/folder": "no folder",
        "file/below": "folder|[Dd]irectory",
        300 * "x": "too long",
        5000 * "x": "too long",
    }.items():
        with pytest.raises(OSError, match=reason):
            check_writable(tmp_path / name)
    if Path("/proc/self").exists():
        with pytest.raises(OSError, match="No such file"):  # an error that root gets, too
            check_writable(Path("/proc/file"))
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["dangling", "file"]


def test_a_file_is_known_under_all_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("link").symlink_to("a")
    for other in ("a", "./a", "folder/../a", str(tmp_path / "a"), "link"):
        assert is_same_file(Path("a"), Path(other))  # the file does not exist yet
    Path("a").write_bytes(b"")
    os.link("a", "hard")
    assert is_same_file(Path("link"), Path("hard")) and not is_same_file(Path("a"), Path("b"))
