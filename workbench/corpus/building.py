"""Building the index of a training text, and opening it.

    python -m workbench corpus build tiny-olmo

Each stage of a build writes one file to a folder of the cache, completely or not at all; the last one is `index.json`.
An interrupted build resumes at the first stage whose file is missing. A folder without `index.json` is not an index.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from workbench.checkpoints.catalog import EMBEDDED
from workbench.checkpoints.catalog import series as checkpoint_series
from workbench.checkpoints.names import split_id
from workbench.corpus.replay import MAIN, Replay
from workbench.corpus.row_map import PIECE, RowMap, map_rows
from workbench.corpus.suffix_array import PLACE_TYPE, TOKEN_TYPE, SuffixArray, mapped, sorted_suffixes
from workbench.corpus.suffix_index import SuffixIndex
from workbench.corpus.training_text import TrainingText, check_name, digests, fetched_text
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, report
from workbench.tiny_olmo import data
from workbench.tiny_olmo.tokenizer import VOCAB
from workbench.whole_files import cannot_write, write_whole

FORMAT = 1
DESCRIPTION = "index.json"
SOURCES = "sources.json"
FILES: dict[str, np.dtype] = {
    "tokens": TOKEN_TYPE,
    "suffixes": PLACE_TYPE,
    "starts": np.dtype(np.int32),
    "origins": np.dtype(np.uint16),
    "rows": PIECE,
}
END = 0  # id of the token that ends a document

Origins = Mapping[str, Sequence[tuple[str, str]]]
"""(source, licence) of each training document, by source of the text."""


@dataclass(frozen=True)
class IndexBuild:
    """The inputs of an index.

    Attributes:
        text: the training text.
        origins: returns the origins of its documents; called only if their stage is not done.
        orders: data orders of the runs whose rows are mapped.
        vocab: number of token ids.
    """

    text: TrainingText
    origins: Callable[[], Origins]
    orders: tuple[int, ...]
    vocab: int


def build(name: str, progress: Progress | None = None, library: Path | None = None) -> Path:
    """Fetch and prepare the training text of a series where it is not in the cache, and index it; returns the folder.

    Does nothing if the index is complete. Takes about a minute and a half, 0.5 GB of memory and 0.5 GB of disk.

    Args:
        name: name of the series.
        progress: called after each stage.
        library: folder with the standard library of CPython 3.11.7; None means that of the running interpreter.

    Errors: WorkbenchError if the text is another than that of the series, or the folder cannot be written.
    """
    check_name(name)
    folder = index_folder(name)
    if not (folder / DESCRIPTION).is_file():
        report(progress, 0.0, "fetching and preparing the text")
        text = fetched_text(name, library)
        orders = sorted({checkpoint.order or MAIN for checkpoint in checkpoint_series(name)})
        made = IndexBuild(text, lambda: data.origins(data.default_cache(), EMBEDDED[name]), tuple(orders), VOCAB)
        build_index(made, folder, part(progress, 0.3, 1.0))
    report(progress, 1.0, "done")
    return folder


def build_index(made: IndexBuild, folder: Path, progress: Progress | None = None) -> None:
    """Write the index of a text into a folder, from the first stage that is missing. Errors: those of `build`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            for left in folder.glob(".*.part"):  # left by a build that was killed
                left.unlink()
            _write_stages(made, folder, progress)
    except OSError as error:
        raise cannot_write(folder, error) from error


def open_index(series: str) -> SuffixIndex:
    """The index of a series' training text; its files are mapped, not read.

    Args:
        series: name of the series, or the id of one of its checkpoints.

    Errors: WorkbenchError with the command that builds it if there is none, or if it is damaged.
    """
    name = split_id(series)[0]
    check_name(name)
    folder = index_folder(name)
    if not (folder / DESCRIPTION).is_file():
        raise WorkbenchError(
            f"the training text of {name} is not indexed; index it with `python -m workbench corpus build {name}`"
        )
    return open_folder(folder)


def open_folder(folder: Path) -> SuffixIndex:
    """The index in a folder. Errors: WorkbenchError if a file is missing or has another size than when it was built."""
    _check_sizes(folder)
    described, sources = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (DESCRIPTION, SOURCES))
    arrays = {name: np.frombuffer(mapped(folder / name), FILES[name]) for name in ("starts", "origins", "rows")}
    suffixes = SuffixArray(mapped(folder / "tokens"), mapped(folder / "suffixes"), described["end"], described["vocab"])
    named, orders = tuple((source, licence) for source, licence in sources), tuple(described["orders"])
    return SuffixIndex(suffixes, arrays["starts"], arrays["origins"], named, RowMap(arrays["rows"]), orders)


def index_folder(name: str) -> Path:
    """The folder of a series' index in the cache; its name depends on the text and on the format of the index."""
    kept = json.dumps([FORMAT, digests(EMBEDDED[name])], sort_keys=True)
    return data.default_cache() / f"index-{hashlib.sha256(kept.encode()).hexdigest()[:12]}"


def _check_sizes(folder: Path) -> None:
    sizes = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["files"]
    for file, size in sizes.items():
        if not (folder / file).is_file() or (folder / file).stat().st_size != size:
            raise WorkbenchError(f"{folder / file} is damaged; delete the folder {folder} and build the index again")


def _write_stages(made: IndexBuild, folder: Path, progress: Progress | None) -> None:
    tokens = np.concatenate(list(made.text.tokens.values()))

    def origins() -> np.ndarray:
        found = [origin for of_source in made.origins().values() for origin in of_source]
        numbers = {origin: number for number, origin in enumerate(dict.fromkeys(found))}
        write_whole(folder / SOURCES, json.dumps(list(numbers), indent=1).encode())
        return np.array([numbers[origin] for origin in found])

    def rows() -> np.ndarray:
        others = [order for order in made.orders if order != MAIN]
        return map_rows(Replay.of(made.text.source(), made.text.recipe), others, part(progress, 0.4, 1.0)).pieces

    stages: dict[str, tuple[str, Callable[[], np.ndarray]]] = {
        "tokens": ("writing the text", lambda: tokens),
        "suffixes": ("sorting the suffixes", lambda: sorted_suffixes(tokens)),
        "starts": ("finding the documents", lambda: document_starts(tokens)),
        "origins": ("naming the sources of the documents", origins),
        "rows": ("drawing the rows of all steps", rows),
    }
    for number, (file, (said, make)) in enumerate(stages.items()):
        if not (folder / file).is_file():
            report(progress, 0.1 * number, said)
            write_whole(folder / file, make().astype(FILES[file]).tobytes())
    sizes = {file: (folder / file).stat().st_size for file in (*stages, SOURCES)}
    described = {"series": made.text.name, "files": sizes, "vocab": made.vocab, "end": END, "orders": made.orders}
    write_whole(folder / DESCRIPTION, json.dumps(described, indent=1).encode())


def document_starts(tokens: np.ndarray) -> np.ndarray:
    """The positions of the first tokens of all documents, each of which ends in the end token."""
    return np.concatenate([[0], np.flatnonzero(tokens == END)[:-1] + 1])
