"""Rows of files of texts: csv, jsonl and parquet with columns, txt with one text per line.

Files are read row by row, so a file may be larger than the memory. Every error names the file and the line.
"""

import csv
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from workbench.errors import WorkbenchError

LINES = "text"
"""The only column of a txt file."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
AT_A_TIME = 1000  # rows of a parquet file
NAMED = 6  # texts that a sentence names


class Row(NamedTuple):
    """Some columns of one row of a file, and its line in the file (in parquet its row number), counted from 1."""

    cells: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class InMemory:
    """The content of a csv, jsonl or txt file that is on no disk; it is read like the file with this name."""

    name: str
    content: bytes

    @property
    def suffix(self) -> str:
        """The ending of the name: ".csv"."""
        return Path(self.name).suffix

    def open(self, mode: str) -> BinaryIO:
        """The content as a binary file; `mode` is "rb"."""
        return BytesIO(self.content)

    def __str__(self) -> str:
        return self.name


Source = Path | InMemory


def read_rows(path: Source, texts: Sequence[str], labels: Sequence[str] = ()) -> Iterator[Row]:
    """The cells of the columns `texts` and `labels` of each row, in order. The suffix decides the format of the file.

    Blank lines are skipped. A label may be a number or a truth value; it becomes text as Python writes it.

    Errors: WorkbenchError, with the line number, for another format, a file that cannot be read or is not UTF-8, a
    missing column, an empty cell, and a text that is no string.
    """
    columns = [*texts, *labels]
    readers: dict[str, Callable[[Any, Sequence[str]], Iterator[tuple[Mapping[str, object], int]]]]
    readers = {".csv": _of_csv, ".jsonl": _of_jsonl, ".parquet": _of_parquet, ".txt": _of_txt}
    kind = path.suffix.lower()
    if kind not in readers:
        raise WorkbenchError(f"{path} is not a supported file of texts; supported: {', '.join(readers)}")
    for found, line in readers[kind](path, columns):
        for column in texts:
            if isinstance(found.get(column), int | float) and found[column] == found[column]:
                raise WorkbenchError(
                    f"{place_in_file(path, line)}: {column!r} is {found[column]!r:.40}; it should be a string"
                )
        yield Row(tuple(_cell(path, found, column, line) for column in columns), line)


def columns_of(path: Source) -> tuple[str, ...]:
    """The names of the columns of a file; of a jsonl file those of its first row."""
    kind = path.suffix.lower()
    if kind == ".parquet" and isinstance(path, Path):
        return tuple(_parquet(path, lambda file: file.schema_arrow.names))
    if kind == ".csv":
        return tuple(next(csv.reader(line for line, _ in _numbered_lines(path)), ()))
    return tuple(next((found for found, _ in _of_jsonl(path, ())), ())) if kind == ".jsonl" else (LINES,)


class FileLines(NamedTuple):
    """The lines (in parquet the rows) of a file from which texts were read, one for each text, counted from 1."""

    file: Source
    lines: Sequence[int]

    def chosen(self, texts: Sequence[int]) -> "FileLines":
        """Those of some texts, by their numbers."""
        return FileLines(self.file, array("Q", (self.lines[text] for text in texts)))


def named(texts: Sequence[int], places: FileLines | None = None, kind: str = "text") -> str:
    """Texts by their numbers, for messages: `text 7 (set.csv, line 9)`, or `2 texts (7, 8: set.csv, lines 9, 11)`.

    Without `places`, the numbers only.
    """
    first, more = texts[:NAMED], ", …" if len(texts) > NAMED else ""
    numbers = ", ".join(map(str, first)) + more
    lines = "" if places is None else place_in_file(places.file, *(places.lines[text] for text in first)) + more
    if len(texts) == 1:
        return f"{kind} {numbers}" + (f" ({lines})" if lines else "")
    return f"{len(texts)} {kind}s ({numbers}" + (f": {lines})" if lines else ")")


def place_in_file(path: Source, *lines: int) -> str:
    """One or more lines of a file, for messages."""
    unit = "row" if path.suffix.lower() == ".parquet" else "line"
    return f"{path}, {unit if len(lines) == 1 else f'{unit}s'} {', '.join(map(str, lines))}"


def _cell(path: Source, found: Mapping[str, object], column: str, line: int) -> str:
    """One cell as text. Errors: WorkbenchError if it is missing, empty, or has parts of its own."""
    if column not in found:
        raise WorkbenchError(f"{place_in_file(path, line)}: no column {column!r}; columns: {_in_words(found)}")
    cell = found[column]
    if cell is None or cell != cell or cell == "":  # NaN is not equal to itself
        raise WorkbenchError(f"{place_in_file(path, line)}: {column!r} is empty; fill it in, or leave out the row")
    if not isinstance(cell, str | int | float):
        raise WorkbenchError(f"{place_in_file(path, line)}: {column!r} is {cell!r:.40}; it should be a string")
    return encodable(str(cell), place_in_file(path, line))


def encodable(text: str, where: str) -> str:
    """The text unchanged. Errors: WorkbenchError if it has a lone surrogate, which a tokenizer cannot encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise WorkbenchError(
            f"{where} contains half of a surrogate pair ({half}) at character {error.start}"
        ) from error
    return text


def _in_words(columns: Iterable[str]) -> str:
    return ", ".join(map(str, columns)) or "none"


def _numbered_lines(path: Source) -> Iterator[tuple[str, int]]:
    """The lines of a UTF-8 file with their numbers, without line endings."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_unmarked(path, file), 1):
                yield _decoded_line(path, line, number), number
    except OSError as error:
        raise WorkbenchError(f"{path} cannot be read: {error.strerror}") from error


def _unmarked(path: Source, file: BinaryIO) -> BinaryIO:
    """The file after its UTF-8 byte order mark, if it has one."""
    start = file.read(3)
    if start[:2] in UTF_16:
        raise WorkbenchError(f"{path}, line 1: not UTF-8 but UTF-16, as its first bytes say; save it as UTF-8")
    file.seek(3 if start == b"\xef\xbb\xbf" else 0)
    return file


def _decoded_line(path: Source, line: bytes, number: int) -> str:
    try:
        return line.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
        raise WorkbenchError(
            f"{path}, line {number}: not UTF-8 ({byte}: {error.reason}); save the whole file as UTF-8"
        ) from error


def _of_txt(path: Source, columns: Sequence[str]) -> Iterator[tuple[Mapping[str, object], int]]:
    if missing := [column for column in columns if column != LINES]:
        raise WorkbenchError(
            f"{path} has no column {missing[0]!r}: txt files have only texts; use csv, jsonl or parquet"
        )
    yield from (({LINES: line}, number) for line, number in _numbered_lines(path) if line.strip())


def _of_jsonl(path: Source, columns: Sequence[str]) -> Iterator[tuple[Mapping[str, object], int]]:
    for line, number in _numbered_lines(path):
        if line.strip():
            yield _json_of(path, line, number), number


def _json_of(path: Source, line: str, number: int) -> Mapping[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WorkbenchError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise WorkbenchError(f"{path}, line {number}: {line:.40} is not a JSON object")
    return found


def _of_csv(path: Source, columns: Sequence[str]) -> Iterator[tuple[Mapping[str, object], int]]:
    """The rows of a csv file. The line of a row is its first, since a quoted cell may have several lines."""
    reader = csv.reader((line + "\n" for line, _ in _numbered_lines(path)), strict=True)
    line = 1
    try:
        names = next(reader, None)
        if names is None:
            return
        for column in columns:
            if names.count(column) != 1:
                fault = "no column" if column not in names else "several columns"
                raise WorkbenchError(f"{path}, line 1: {fault} {column!r}; columns: {_in_words(names)}")
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(names):
                raise WorkbenchError(
                    f"{path}, line {line}: {len(cells)} cells for the {len(names)} columns {_in_words(names)}; a cell "
                    "with a comma in it needs quotes"
                )
            if cells:
                yield dict(zip(names, cells, strict=True)), line
            line = reader.line_num + 1
    except csv.Error as error:
        raise WorkbenchError(f"{path}, line {line}: {error} in the row that begins there") from error


def _of_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[Mapping[str, object], int]]:
    missing = [column for column in columns if column not in (there := columns_of(path))]
    if missing:
        raise WorkbenchError(f"{path} has no column {missing[0]!r}; columns: {_in_words(there)}")
    number = 0
    with _parquet(path, lambda file: file) as file:
        batches = file.iter_batches(batch_size=AT_A_TIME, columns=list(columns))
        while (batch := _parquet_step(path, lambda: next(batches, None))) is not None:
            for number, row in enumerate(batch.to_pylist(), number + 1):  # noqa: B020 - the count goes on
                yield row, number


def _parquet(path: Path, use: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """The result of `use`, called with an opened parquet file."""
    import pyarrow.parquet  # only here: it takes 0.2 s to import

    return _parquet_step(path, lambda: use(pyarrow.parquet.ParquetFile(path)))


def _parquet_step(path: Path, step: Callable[[], Any]) -> Any:  # noqa: ANN401
    """The result of one step of reading. Errors: WorkbenchError if pyarrow cannot read the file."""
    import pyarrow.lib

    try:
        return step()
    except (OSError, pyarrow.lib.ArrowException) as error:
        raise WorkbenchError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
