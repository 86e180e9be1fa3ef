"""Sets of texts on the page: those that come with the workbench, one named at start, and those that users send.

Sets of users are kept in memory only, and only the most recent ones.
"""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from workbench.embedded_texts import SETS, path_of
from workbench.errors import WorkbenchError
from workbench.text_files import InMemory, Source, columns_of, read_rows

OWN = "own:"
"""Prefix of the names of sets that users send; a digest follows."""
FIRST = "tiny-olmo/number"
MOST_OWN_BYTES = 1_000_000  # of a set that a browser sends, as UTF-8
MOST_KEPT = 32  # sets of users
MOST_TEXTS = 10_000
WRITTEN_OUT = 20_000  # characters of a set of a user that the copied Python contains
GONE = "this set is no longer in memory; paste it, or open its file, once more"
NO_LABELS = "This set has no labels, so there is nothing to read: choose one with labels, or name their column."


@dataclass(frozen=True)
class TextSet:
    """A set of texts as strings, with a label for each text or without labels.

    Attributes:
        name: what `Texts.read` takes; for a set of a user, `OWN` and a digest.
        title: the name that is shown.
        columns: how `Texts.read` finds the columns of texts and labels, such as {"label": "answer"}.
    """

    name: str
    title: str
    strings: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether a user sent it."""
        return self.name.startswith(OWN)

    @property
    def counted(self) -> str:
        """The title and the number of texts, in words."""
        return f"{self.title} ({len(self.strings):,} text{'' if len(self.strings) == 1 else 's'})"

    def code(self, tokenizer: str) -> str:
        """`expression`, with a comment where a file is needed.

        For a large set of a user, the expression reads a file; the user must save the set under its name.
        """
        needs_file = self.is_own and not self._is_written_out
        told = "  # your own set: put its file here under this name" if needs_file else ""
        return self.expression(tokenizer) + told

    def expression(self, tokenizer: str) -> str:
        """A Python expression that gives the `Texts`; `tokenizer` is the name of a variable."""
        if self._is_written_out:
            labels = "" if self.labels is None else f", labels={list(self.labels)!r}"
            return f"Texts.of({tokenizer}, {list(self.strings)!r}{labels})"
        columns = "".join(f", {name}={value!r}" for name, value in self.columns)
        return f"Texts.read({(self.title if self.is_own else self.name)!r}, {tokenizer}{columns})"

    @property
    def _is_written_out(self) -> bool:
        return self.is_own and sum(map(len, self.strings)) <= WRITTEN_OUT


@dataclass(frozen=True)
class SetRequest:
    """A set of texts that a browser sends; see `TextSets.add`. Data routes parse it from the request's body."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    content: str
    file: str = ""
    text: str = "text"
    label: str = ""


def read_set(name: str, source: Source, title: str, text: str = "text", label: str | None = None) -> TextSet:
    """A set from a file. Without `label`, the column "label" holds the labels, if there is one.

    Errors: those of `text_files.read_rows`, and WorkbenchError for no texts or more than `MOST_TEXTS`.
    """
    if label is None and "label" in columns_of(source) and text != "label":
        label = "label"
    if text == label:
        raise WorkbenchError(f"the texts and the labels are both in the column {text!r}; give two columns")
    found = []
    for row in read_rows(source, [text], [] if label is None else [label]):
        found.append(row.cells)
        if len(found) > MOST_TEXTS:
            raise WorkbenchError(
                f"{title} has more than {MOST_TEXTS:,} texts, the most that the page shows; the command "
                "`python -m workbench texts --texts FILE` takes any number"
            )
    if not found:
        raise WorkbenchError(f"{title} holds no texts")
    columns = [("text", text)] if text != "text" else []
    columns += [] if label is None or name in SETS else [("label", label)]
    labels = None if label is None else tuple(cells[1] for cells in found)
    return TextSet(name, title, tuple(cells[0] for cells in found), labels, tuple(columns))


def format_of(content: str) -> str:
    """The ending of a file with this content: ".jsonl" if it begins with an object, ".csv" if its first line names the
    column `text` beside others, ".txt" with one text a line otherwise."""
    first = content.lstrip("\ufeff \t\r\n").partition("\n")[0].strip()
    if first.startswith("{"):
        return ".jsonl"
    cells = [cell.strip().strip('"') for cell in first.split(",")]
    return ".csv" if "text" in cells and (len(cells) > 1 or "\n" in content.strip()) else ".txt"


class TextSets:
    """The sets of a page, by name: the built-in ones, `named` at start, and the most recent ones that users sent.

    `default` is the name of the set that a page opens with: the one named at start, or `FIRST`.
    """

    def __init__(self, named: TextSet | None = None) -> None:
        self._kept = {} if named is None else {named.name: named}
        self._own: OrderedDict[str, TextSet] = OrderedDict()
        self._lock = threading.Lock()
        self.default = FIRST if named is None else named.name

    def choices(self) -> list[dict[str, Any]]:
        """The sets that users did not send, in groups: {group, sets: [[name, title, about]]}."""
        built_in = [[name, name.rpartition("/")[2], found.about] for name, found in SETS.items() if not found.pairs]
        named = [[name, found.title, found.counted] for name, found in self._kept.items() if name not in SETS]
        return [
            *([{"group": "Given with --texts", "sets": named}] if named else []),
            {"group": "Built-in", "sets": built_in},
        ]

    def get(self, name: object) -> TextSet:
        """The set with a name; the default for an empty name.

        Errors: WorkbenchError for a name that is not on the page, or a set of a user that is no longer kept.
        """
        name = name or self.default
        with self._lock:
            if isinstance(name, str) and name in self._own:
                self._own.move_to_end(name)
                return self._own[name]
        if isinstance(name, str) and name.startswith(OWN):
            raise WorkbenchError(GONE)
        if isinstance(name, str) and name not in self._kept and name in SETS and not SETS[name].pairs:
            self._kept[name] = read_set(name, path_of(name), name.rpartition("/")[2], label=SETS[name].label)
        if not isinstance(name, str) or name not in self._kept:
            known = [*self._kept, *(each for each, found in SETS.items() if not found.pairs)]
            raise WorkbenchError(f"no set of texts {name!r:.60}; choices: {', '.join(dict.fromkeys(known))}")
        return self._kept[name]

    def add(self, file: str, content: str, text: str = "", label: str = "") -> TextSet:
        """Read and keep a set that a user sent.

        Args:
            file: the name of its file; empty for a pasted text, whose format is then recognised.
            content: the content of the file.
            text, label: names of columns, as in `read_set`.

        Errors: WorkbenchError for more than `MOST_OWN_BYTES`, and those of `read_set`, which name the line.
        """
        body = content.encode()
        check_size(len(body))
        title = Path(file.replace("\\", "/")).name[:80] or f"pasted{format_of(content)}"
        if title.lower().endswith(".parquet"):
            raise WorkbenchError(f"{title}: a browser cannot send parquet as text; name the file at start with --texts")
        digest = hashlib.sha256(repr((title, text, label)).encode() + body).hexdigest()[:24]
        found = read_set(f"{OWN}{digest}", InMemory(title, body), title, text or "text", label or None)
        with self._lock:
            self._own[found.name] = found
            self._own.move_to_end(found.name)
            while len(self._own) > MOST_KEPT:
                self._own.popitem(last=False)
        return found


def named_set(path: str, text: str = "text", label: str | None = None) -> TextSet:
    """The set of a file that is named at start. Errors: those of `read_set`."""
    return TextSets().get(path) if path in SETS else read_set(path, path_of(path), Path(path).name, text, label)


def check_size(nbytes: int) -> None:
    """Raise WorkbenchError for a set of a user that is too large."""
    if nbytes > MOST_OWN_BYTES:
        raise WorkbenchError(
            f"the set has {nbytes:,} bytes; the page takes at most {MOST_OWN_BYTES:,}: send a part of it, or name the "
            "file at start with --texts FILE"
        )
