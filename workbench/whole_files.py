"""Atomic writing of files: a file is written completely or not at all."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from workbench.errors import WorkbenchError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write in the block. It replaces `path` at the end of the block, or is deleted on an exception.

    During the block the file has a temporary name in the same folder. It gets the permissions of the file that it
    replaces. If `path` is a link, its target is replaced and the link stays. A device or a pipe is written directly.
    Errors: OSError.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    real = Path(os.path.realpath(path))
    temporary = real.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
        if real.exists():
            shutil.copymode(real, temporary)
        os.replace(temporary, real)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, as `whole_file` does. Errors: OSError."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def output_file(path: Path, *, make_folder: bool = False) -> Iterator[BinaryIO]:
    """`whole_file` for a path that the user named; with `make_folder`, its folder is made first.

    Errors: WorkbenchError with the path and the reason.
    """
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            yield file
    except OSError as error:
        raise cannot_write(path, error) from error


def check_writable(path: Path) -> None:
    """Check that `whole_file` can write to a path; changes nothing. Errors: OSError with the reason."""
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"it is a link to {os.readlink(path)}, which does not exist")
    if path.is_dir():
        raise IsADirectoryError("it is a folder")
    if path.exists() and not path.is_file():
        return
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    with tempfile.TemporaryFile(dir=folder):
        pass


def cannot_write(path: Path, error: OSError) -> WorkbenchError:
    """The error to raise for a file that cannot be written: its path and the reason."""
    return WorkbenchError(f"{path} cannot be written: {error.strerror or error}")


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths mean the same file, which need not exist."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)
