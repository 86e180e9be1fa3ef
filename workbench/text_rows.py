"""Rows of a file of texts, and their token ids, while the file is read."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from workbench import embedded_texts, text_files
from workbench.errors import WorkbenchError
from workbench.text_files import Row


@dataclass(frozen=True)
class RowSource:
    """A file of texts, or a built-in set, with the names of its columns."""

    given: str | Path
    text: str
    label: str | None

    def __post_init__(self) -> None:
        built_in = embedded_texts.SETS.get(str(self.given))
        if built_in is not None and self.label is None:
            object.__setattr__(self, "label", built_in.label)
        if self.text == self.label:
            raise WorkbenchError(f"the texts and the labels are both in the column {self.text!r}; give two columns")

    @property
    def path(self) -> Path:
        return embedded_texts.path_of(self.given)

    def pieces(self, size: int) -> Iterator[list[Row]]:
        """The rows in lists of at most `size`: their text, and their label if there are labels."""
        rows = text_files.read_rows(self.path, [self.text], [] if self.label is None else [self.label])
        while some := list(islice(rows, size)):
            yield some


@dataclass
class RowIds:
    """The token ids of texts, one after the other, while texts are added."""

    tokenizer: PreTrainedTokenizerBase
    cut: int | None = None
    flat: array = field(default_factory=lambda: array("q"))
    lengths: array = field(default_factory=lambda: array("q"))

    def __post_init__(self) -> None:
        if self.cut is not None and self.cut < 1:
            raise WorkbenchError(f"cut is {self.cut}; a text needs at least 1 token")

    def add(self, rows: Sequence[Row]) -> list[tuple[Row, int]]:
        """Add the first cell of each row as a text; returns each row with its number of tokens."""
        for ids in self.tokenizer([row.cells[0] for row in rows], verbose=False).input_ids:
            kept = ids[: self.cut]
            self.flat.extend(kept)
            self.lengths.append(len(kept))
        return list(zip(rows, self.lengths[-len(rows) :], strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes of the texts as `Texts`: ids and mask of all rows, padded to the longest."""
        return 9 * len(self.lengths) * max(self.lengths)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Ids and mask, batch pos each, padded on the right."""
        lengths = torch.tensor(self.lengths)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.frombuffer(self.flat, dtype=torch.long)
        return ids, mask


def check_lengths(path: Path, rows: Sequence[tuple[Row, int]], longest: int | None) -> None:
    """Raise WorkbenchError for a text without tokens, or with more than `longest`."""
    for row, length in rows:
        if length == 0:
            raise WorkbenchError(f"{text_files.place_in_file(path, row.line)}: {row.cells[0]!r:.40} has no tokens")
        if longest is not None and length > longest:
            raise WorkbenchError(
                f"{text_files.place_in_file(path, row.line)}: the text has {length:,} tokens and the model takes at "
                f"most {longest:,}; shorten it, or cut all texts to their first {longest:,} tokens with cut={longest}"
            )


def check_fits(path: Path, line: int, ids: RowIds) -> None:
    """Raise WorkbenchError if the texts so far take more than half of the free memory."""
    free = psutil.virtual_memory().available // 2
    if ids.nbytes > free:
        raise WorkbenchError(
            f"{path} does not fit into memory: up to line {line:,} its {len(ids.lengths):,} texts of at most "
            f"{max(ids.lengths):,} tokens take {ids.nbytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB may be used (half of "
            "what is free); read it in pieces with Texts.stream, or cut long texts with cut="
        )
