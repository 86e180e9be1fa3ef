"""The training text of a series, fetched and prepared by its recipe and compared with the digests kept with the series.

A digest is the SHA-256 of the prepared token ids (uint16, little-endian) of one part and source. The digests are in
`training_text.json` beside the checkpoints; the text itself is not in the repository. In the code half, the files that
the build of an interpreter writes may be blanks (`tiny_olmo.build_files`); the text with blanks has its own digest.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench.checkpoints.catalog import EMBEDDED
from workbench.errors import WorkbenchError
from workbench.tiny_olmo import data
from workbench.tiny_olmo.build_files import digest_with_blanks
from workbench.tiny_olmo.recipe import RECIPE, Recipe
from workbench.tiny_olmo.rows import TrainingTokens
from workbench.tiny_olmo.tokenizer import VOCAB

RECIPES = {"tiny-olmo": RECIPE}
DIGESTS = "training_text.json"


@dataclass(frozen=True)
class TrainingText:
    """The token ids that a series was trained on, checked against its digests.

    Attributes:
        name: name of the series.
        recipe: how rows are drawn from the text.
        tokens: token ids by source, uint16; each document ends in the end-of-text token. Padding tokens stand for the
            build files of the interpreter that the series was trained with, where this machine has others.
        held_out: the same of the text that is kept out of training.
    """

    name: str
    recipe: Recipe
    tokens: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]

    def source(self) -> TrainingTokens:
        """The training tokens, prepared for drawing rows."""
        return data.rows_source(self.tokens, VOCAB)


def prepared_text(name: str) -> TrainingText:
    """The training text of a series from the cache; nothing is fetched.

    Errors: WorkbenchError if the series has no recipe here, if its text is not in the cache, or if the text is another.
    """
    check_name(name)
    files = data.token_files(data.default_cache(), EMBEDDED[name])
    if missing := [path for path in files.values() if not path.is_file()]:
        raise WorkbenchError(
            f"the training text of {name} is not on this machine: there is no {missing[0]}; "
            f"fetch and index it with `python -m workbench corpus build {name}`"
        )
    return checked_text(name, {f"{part}-{source}": np.load(path) for (part, source), path in files.items()})


def fetched_text(name: str, library: Path | None = None) -> TrainingText:
    """The training text of a series, fetched and prepared where the cache does not have it (about 145 MB, a minute).

    Args:
        name: name of the series.
        library: folder with a standard library; None means that of the running interpreter.

    Errors: WorkbenchError if the series has no recipe here, if `library` is no standard library, or if the
    prepared text is another one.
    """
    check_name(name)
    if library is not None and (
        absent := [name for name in sorted(data.HELD_OUT_MODULES) if not (library / name).is_file()]
    ):
        raise WorkbenchError(f"{library} is not a folder with a standard library: it has no {absent[0]}")
    cache, folder = data.default_cache(), EMBEDDED[name]
    if data.is_prepared(cache, folder):
        try:
            return prepared_text(name)
        except WorkbenchError:  # prepared with the standard library of another interpreter
            data.forget(cache, folder)
    data.prepare(cache, folder, library)
    return prepared_text(name)


def checked_text(name: str, tokens: Mapping[str, np.ndarray]) -> TrainingText:
    """The training text of a series from its token arrays by part and source, such as `train-english`.

    Errors: WorkbenchError with both digests if an array is not the one that the series was trained on.
    """
    for key, kept in digests(EMBEDDED[name]).items():
        found = digest_of_ids(tokens[key])
        if found not in (kept["sha256"], digest_with_blanks(EMBEDDED[name]) if key == "train-code" else None):
            raise WorkbenchError(
                f"{key} is not the text that {name} was trained on: {len(tokens[key]):,} tokens with digest {found} "
                f"instead of {kept['tokens']:,} with {kept['sha256']}. {_why(key)}"
            )
    train, held_out = ({source: tokens[f"{part}-{source}"] for source in data.SOURCES} for part in data.CORPUS_PARTS)
    return TrainingText(name, RECIPES[name], train, held_out)


def digests(folder: Path) -> dict[str, dict]:
    """The kept records of a series' folder by part and source: number of documents and of tokens, and digest."""
    records: dict[str, dict] = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    return records


def digest_of_ids(tokens: np.ndarray) -> str:
    """The SHA-256 of token ids as little-endian uint16, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(tokens, dtype="<u2").tobytes()).hexdigest()


def check_name(name: str) -> None:
    """Check that the recipe of a series is known. Errors: WorkbenchError with the choices."""
    if name not in RECIPES:
        raise WorkbenchError(f"the training text of {name!r} cannot be prepared here; choices: {', '.join(RECIPES)}")


def _why(key: str) -> str:
    if key.endswith("code"):
        return (
            f"This source is the standard library of CPython 3.11.7; this interpreter is {sys.version.split()[0]}. "
            "`--library FOLDER` takes it from elsewhere, such as the folder Lib of the source distribution of 3.11.7."
        )
    return f"This source is the PyPI package {data.PACKAGE}."
