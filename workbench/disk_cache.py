"""A cache of values on disk: one file for each value, named by its key."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from workbench.whole_files import whole_file

Made = TypeVar("Made")


@dataclass(frozen=True)
class DiskCache:
    """A folder of pickled values by key. Loading a pickle can run code, so use only a folder that you trust."""

    folder: Path

    def holds(self, key: str) -> bool:
        """Whether the folder has a value for this key."""
        return self._path(key).is_file()

    def kept(self, key: str, make: Callable[[], Made]) -> tuple[Made, bool]:
        """(value, stored): the value of a key, computed by `make` if the folder does not have it.

        `stored` is False if the value could not be written: the folder is read-only, full, or a file.
        """
        path = self._path(key)
        try:
            return _unpickled(path), True
        except Exception:  # noqa: BLE001 - a damaged pickle can raise any error; it is replaced
            value = make()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                pickle.dump(value, file)
        except OSError:
            return value, False
        return value, True

    def shrink(self, most: int) -> None:
        """Remove the least recently used values until the rest take at most `most` bytes."""
        with suppress(FileNotFoundError):  # another process may shrink the folder at the same time
            found = [(path, path.stat()) for path in self.folder.glob("*.pickle")]
            size = sum(stat.st_size for _, stat in found)
            for path, stat in sorted(found, key=lambda one: max(one[1].st_atime, one[1].st_mtime)):
                if size > most:
                    path.unlink()
                    size -= stat.st_size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.pickle"


def _unpickled(path: Path) -> Any:  # noqa: ANN401 - a stored value has any type
    with path.open("rb") as file:
        return pickle.load(file)
