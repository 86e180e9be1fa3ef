"""Values on disk, each in a file that is named after what the value depends on."""

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
    """A folder of values by their key. It holds pickles, so it is to be trusted like the code."""

    folder: Path

    def holds(self, key: str) -> bool:
        """Whether there is a value of this key."""
        return self._path(key).is_file()

    def kept(self, key: str, make: Callable[[], Made]) -> tuple[Made, bool]:
        """A value from the folder, or made now; and whether the folder holds it afterwards.

        It does not where it can be neither made nor written to: read-only, full, a file.
        """
        path = self._path(key)
        try:
            return _read(path), True
        except Exception:  # noqa: BLE001 - a damaged pickle raises anything; it is replaced
            value = make()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                pickle.dump(value, file)
        except OSError:
            return value, False
        return value, True

    def shrink(self, most: int) -> None:
        """Remove what was used longest ago until the values take at most so many bytes."""
        with suppress(FileNotFoundError):  # another process does the same
            found = [(path, path.stat()) for path in self.folder.glob("*.pickle")]
            size = sum(stat.st_size for _, stat in found)
            for path, stat in sorted(found, key=lambda one: max(one[1].st_atime, one[1].st_mtime)):
                if size > most:
                    path.unlink()
                    size -= stat.st_size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.pickle"


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever was kept
    with path.open("rb") as file:
        return pickle.load(file)
