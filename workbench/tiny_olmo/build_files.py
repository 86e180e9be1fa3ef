"""The documents of the code half that the build of an interpreter writes: they differ on every machine.

They hold the paths and compiler flags of one build. On a machine with another build they are replaced by blanks, the
same number of padding tokens, so that all other tokens keep their places. Rows are then drawn at the same places as in
training; for that, the positions of the replaced tokens that repeated spans must not contain are recorded.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

import numpy as np

PATTERNS = ("_sysconfigdata_*.py", "config-*/python-config.py")
RECORD = "build_files.json"
SERIES = Path(__file__).with_name("checkpoints")
NOTE = "blank: not the text that was trained on"
END, BLANK = 0, 1  # ids of the end-of-text and the padding token
Item = TypeVar("Item")


@dataclass(frozen=True)
class BuildFile:
    """A build file that a series was trained on.

    Attributes:
        path: its path in the standard library.
        sha256: digest of its text.
        document: its number among the training documents of the code half.
        tokens: number of its tokens.
        kept_out: positions in it of tokens that no repeated span contains.
    """

    path: str
    sha256: str
    document: int
    tokens: int
    kept_out: tuple[int, ...]


def is_build_file(path: str) -> bool:
    """Whether a path in a standard library is that of a build file."""
    return any(fnmatch(path, pattern) for pattern in PATTERNS)


def read(folder: Path) -> list[BuildFile]:
    """The build files that the series in a folder was trained on, by document; none if the folder keeps no record."""
    if not (folder / RECORD).is_file():
        return []
    return [
        BuildFile(**record | {"kept_out": tuple(record["kept_out"])})
        for record in json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
    ]


def digest_with_blanks(folder: Path) -> str | None:
    """The digest of the code half with blanks in the place of its build files; None if the folder keeps no record."""
    if not (folder / RECORD).is_file():
        return None
    return str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["sha256"])


def missing(library: Path, files: Sequence[BuildFile]) -> Sequence[BuildFile]:
    """The given build files, or none if a standard library has them all with the same text."""
    own = {hashlib.sha256(path.read_bytes()).hexdigest() for pattern in PATTERNS for path in library.glob(pattern)}
    return [] if all(file.sha256 in own for file in files) else files


def inserted(documents: list[Item], files: Sequence[BuildFile], items: Sequence[Item]) -> list[Item]:
    """A list with an item for each training document of the code half, from a list without those of build files."""
    whole = list(documents)
    for file, item in zip(files, items, strict=True):
        whole.insert(file.document, item)
    return whole


def with_blanks(tokens: np.ndarray, files: Sequence[BuildFile]) -> np.ndarray:
    """The token ids of the code half, from those without build files."""
    documents = np.split(tokens, np.flatnonzero(tokens == END) + 1)[:-1]
    blanks = [np.array([BLANK] * file.tokens + [END], tokens.dtype) for file in files]
    return np.concatenate(inserted(documents, files, blanks))


def hidden(code: np.ndarray, files: Sequence[BuildFile]) -> np.ndarray:
    """Where kept-out tokens stand under the blanks of a code half: int64; nowhere if it has no blanks."""
    starts = np.concatenate([[0], np.flatnonzero(code == END) + 1])
    found = [np.zeros(0, np.int64)]
    for file in files:
        begin = starts[file.document] if file.document < len(starts) else len(code)
        document = code[begin : begin + file.tokens]
        if len(document) and (document == BLANK).all():
            found.append(begin + np.array(file.kept_out, np.int64))
    return np.concatenate(found)
