"""Texts: the input of every analysis.

    texts = Texts.of(tokenizer, ["The cat sat.", "A longer text, of more tokens"], labels=["a", "b"])
    head_atlas(model, texts)

Instead of `Texts`, an analysis also takes a LongTensor (batch pos, without padding), a sequence of LongTensors of any
lengths, or the output of a tokenizer, padded on either side. All four forms give the same numbers for the same texts.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from workbench import embedded_texts, text_files
from workbench.errors import WorkbenchError
from workbench.text_files import FileLines, Row

ID_DTYPES = (torch.int64, torch.int32)
PADDING = 0.2  # largest share of padding in a batch
AT_A_TIME = 1000  # texts that are tokenised together


class Batch(NamedTuple):
    """Texts that run together: their row numbers in `Texts`, and their ids, batch pos."""

    rows: list[int]
    ids: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """Token ids of one or more texts of any lengths, with an optional label for each text.

    The ids are stored with padding on the right, whatever the padding of the input: in a causal model no token then
    attends to padding.

    Attributes:
        ids: token ids, batch pos; 0 at padding.
        mask: boolean, batch pos; True at tokens, False at padding. Default: True everywhere.
        labels: one string for each text, or None.
        places: the file and line of each text, for texts that `read` and `stream` found there; None for others.

    Errors: WorkbenchError if `ids` is not a LongTensor of ids, a text has no tokens, there is padding between the
    tokens of a text, or the number of labels is not the number of texts.
    """

    ids: Tensor
    mask: Tensor = None  # type: ignore[assignment]  # never None after __post_init__
    labels: tuple[str, ...] | None = None
    places: FileLines | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_ids(self.ids)
        mask = torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else _as_mask(self.mask, self.ids)
        ids, mask = _padded_right(self.ids, mask)
        labels = None if self.labels is None else tuple(str(label) for label in self.labels)
        if labels is not None and len(labels) != len(ids):
            raise WorkbenchError(f"there are {len(ids)} texts and {len(labels)} labels; give one label for each text")
        for name, value in {"ids": ids, "mask": mask, "labels": labels}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], labels: Sequence[object] | None = None
    ) -> Self:
        """Texts from strings, with the special tokens that the tokenizer adds to each.

        Errors: WorkbenchError if `strings` is empty or a single string instead of a list, or a string has no tokens.
        """
        if isinstance(strings, str) or not all(isinstance(string, str) for string in strings):
            raise WorkbenchError(f"strings is {strings!r:.60}; it should be a list of strings, one for each text")
        if not strings:
            raise WorkbenchError("there are no texts: strings is empty")
        rows = [Row((text_files.encodable(string, f"text {number}"),), number) for number, string in enumerate(strings)]
        ids = _Ids(tokenizer)
        for start in range(0, len(rows), AT_A_TIME):
            for row, length in ids.add(rows[start : start + AT_A_TIME]):
                if length == 0:
                    raise WorkbenchError(f"text {row.line}, {row.cells[0]!r}, has no tokens")
        return cls(*ids.padded(), labels=None if labels is None else tuple(map(str, labels)))

    @classmethod
    def read(
        cls,
        path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        text: str = "text",
        label: str | None = None,
        *,
        longest: int | None = None,
        cut: int | None = None,
    ) -> Self:
        """Texts from a file: csv, jsonl or parquet with a column of texts, or txt with one text per line; or a set that
        comes with the workbench.

        Text files are UTF-8; blank lines are skipped. The file is read row by row; only token ids stay in memory.

        Args:
            path: the file; its suffix decides the format. Or the name of a built-in set (see `text_sets`), which has
                its labels with it.
            tokenizer: makes token ids of the texts.
            text: name of the column with the texts.
            label: name of the column with the labels; None for no labels.
            longest: the most tokens that the model takes; a longer text is an error. None accepts any length.
            cut: the number of tokens after which a text is cut off; None reads whole texts.

        Errors: WorkbenchError, with the line number, if the file cannot be read, a row lacks a column or has an empty
        text or label, a text has more than `longest` tokens, or the ids do not fit into half of the free memory (then
        use `stream`).
        """
        source = _Source(path, text, label)
        ids, labels, lines = _Ids(tokenizer, cut), array("Q"), array("Q")
        names: dict[str, int] = {}  # of the labels, which are few
        for rows in source.pieces(AT_A_TIME):
            _check_lengths(source.path, ids.add(rows), longest)
            _check_fits(source.path, rows[-1].line, ids)
            labels.extend(names.setdefault(row.cells[1], len(names)) for row in rows if source.label)
            lines.extend(row.line for row in rows)
        if not ids.lengths:
            raise WorkbenchError(f"{source.path} holds no texts")
        said = tuple(names)
        of_texts = tuple(said[number] for number in labels) if source.label else None
        return cls(*ids.padded(), of_texts, places=FileLines(source.path, lines))

    @classmethod
    def stream(
        cls,
        path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        text: str = "text",
        label: str | None = None,
        *,
        longest: int | None = None,
        cut: int | None = None,
        texts: int = AT_A_TIME,
    ) -> Iterator[Self]:
        """The texts of a file in pieces of at most `texts` texts, for files that do not fit into memory.

        The other arguments and the errors are those of `read`. An error is raised when its row is reached.
        """
        if texts < 1:
            raise WorkbenchError(f"texts is {texts}; a piece needs at least 1 text")
        source = _Source(path, text, label)
        rows: list[Row] = []
        for rows in source.pieces(texts):
            ids = _Ids(tokenizer, cut)
            _check_lengths(source.path, ids.add(rows), longest)
            of_texts = tuple(row.cells[1] for row in rows) if source.label else None
            yield cls(*ids.padded(), of_texts, places=FileLines(source.path, array("Q", (row.line for row in rows))))
        if not rows:
            raise WorkbenchError(f"{source.path} holds no texts")

    def by_label(self) -> "dict[str, Texts]":
        """The texts of each label, in the order in which the labels first occur.

        Errors: WorkbenchError if the texts have no labels.
        """
        return {label: self[rows] for label, rows in self.rows_by_label().items()}

    def rows_by_label(self) -> dict[str, list[int]]:
        """The numbers of the texts of each label. Order and errors: those of `by_label`."""
        if self.labels is None:
            raise WorkbenchError("the texts have no labels; give labels to Texts.of, or label= to Texts.read")
        rows: dict[str, list[int]] = {}
        for row, label in enumerate(self.labels):
            rows.setdefault(label, []).append(row)
        return rows

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each text."""
        return self.mask.sum(1).tolist()

    @property
    def longest(self) -> int:
        """The number of tokens of the longest text."""
        return self.ids.shape[1]

    @property
    def tokens(self) -> int:
        """The number of tokens of all texts."""
        return int(self.mask.sum())

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        lengths = self.lengths
        span = str(lengths[0]) if min(lengths) == max(lengths) else f"{min(lengths)}–{max(lengths)}"
        labels = "" if self.labels is None else f", {len(set(self.labels))} labels"
        return f"Texts({len(self)} of {span} tokens{labels})"

    def __iter__(self) -> Iterator[Tensor]:
        """The ids of each text, without padding: pos."""
        return (ids[:length] for ids, length in zip(self.ids, self.lengths, strict=True))

    @overload
    def __getitem__(self, which: int) -> Tensor: ...
    @overload
    def __getitem__(self, which: slice | Sequence[int] | Tensor) -> "Texts": ...
    def __getitem__(self, which: int | slice | Sequence[int] | Tensor) -> "Tensor | Texts":
        """With an integer, the ids of one text (pos); with a slice, a list or a mask of rows, those `Texts`."""
        if isinstance(which, int):
            return self.ids[which][self.mask[which]]
        chosen = torch.arange(len(self))[which].tolist()
        if not chosen:
            raise WorkbenchError(f"{which!r} selects none of the {len(self)} texts")
        labels = None if self.labels is None else tuple(self.labels[row] for row in chosen)
        places = None if self.places is None else self.places.chosen(chosen)
        return Texts(self.ids[chosen], self.mask[chosen], labels, places=places)

    def to(self, device: torch.device | str) -> "Texts":
        """A copy with the ids on a device; the mask stays where it is."""
        moved = copy(self)
        object.__setattr__(moved, "ids", self.ids.to(device))
        return moved

    def padded_batches(self, tokens: int) -> list[Batch]:
        """All texts in batches of similar lengths, shorter texts first, with padding on the right.

        A batch holds at most `tokens` tokens, padding included, or one text if that text is longer; the padding is at
        most a fifth of it. Padding on the right changes nothing before it in a causal model, so these are fewer and
        fuller batches than `batches` where many lengths occur. Leave out what a model computes at padding.
        """
        lengths = self.lengths
        rows: list[list[int]] = [[]]
        held = 0  # tokens of the last batch, without padding
        for row in sorted(range(len(self)), key=lengths.__getitem__):
            whole = (len(rows[-1]) + 1) * lengths[row]
            if rows[-1] and (whole > tokens or held + lengths[row] < (1 - PADDING) * whole):
                rows.append([])
                held = 0
            rows[-1].append(row)
            held += lengths[row]
        return [Batch(some, self.ids[some, : lengths[some[-1]]]) for some in rows]

    def batches(self, tokens: int) -> list[Batch]:
        """All texts in batches of equal length, shorter texts first.

        A batch holds at most `tokens` tokens, or one text if that text is longer. It has no padding, so the result for
        one text does not depend on the other texts.
        """
        lengths = torch.tensor(self.lengths)
        found = []
        for length in lengths.unique().tolist():
            for rows in torch.where(lengths == length)[0].split(max(1, tokens // length)):
                found.append(Batch(rows.tolist(), self.ids[rows.to(self.ids.device), :length]))
        return found


TextsLike = Texts | Tensor | Sequence[Tensor] | Mapping[str, Any]
"""The forms in which an analysis takes texts; see `as_texts`."""


def as_texts(given: TextsLike, config: PreTrainedConfig | None = None) -> Texts:
    """`Texts` from any of the forms that an analysis takes.

    Args:
        given: `Texts`; a LongTensor (batch pos, or pos) without padding; a sequence of LongTensors of any lengths (pos
            each); or the output of a tokenizer: a mapping with `input_ids` and `attention_mask`.
        config: configuration of the model. Its padding token is used to detect a padded tensor without a mask; None
            skips this test.

    Errors: WorkbenchError if `given` has another form, or is a tensor of several rows that seem padded but have no
    mask.
    """
    if isinstance(given, Texts):
        return given
    if isinstance(given, Mapping):
        return _of_encoding(given, config)
    if isinstance(given, Tensor):
        ids = given[None] if given.ndim == 1 else given
        _check_ids(ids)
        _refuse_padding(ids, config)
        return Texts(ids)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise WorkbenchError(f"texts must be Texts, token ids or a tokenizer's output, not {given!r:.60}")
    if any(isinstance(one, str) for one in given):
        raise WorkbenchError("texts are given as strings; convert them with Texts.of(tokenizer, strings)")
    return Texts(*_stacked([_one_row(one, number) for number, one in enumerate(given)]))


def _of_encoding(given: Mapping[str, Any], config: PreTrainedConfig | None) -> Texts:
    """Texts from a tokenizer's output, whose values are tensors or lists."""
    if "input_ids" not in given:
        raise WorkbenchError(
            f"a tokenizer's output must have input_ids; this one has {', '.join(map(str, given)) or 'nothing'}"
        )
    ids, mask = given["input_ids"], given.get("attention_mask")
    if not isinstance(ids, Tensor):
        rows = [_one_row(torch.as_tensor(one), n) for n, one in enumerate(_nested(ids))]
        if mask is None:
            return Texts(*_stacked(rows))
        masks = [torch.as_tensor(one) for one in _nested(mask)]
        if [len(one) for one in masks] != [len(one) for one in rows]:
            raise WorkbenchError("attention_mask and input_ids have texts of different lengths")
        kept = [row[_booleans(one)] for row, one in zip(rows, masks, strict=True)]
        return Texts(*_stacked(kept))
    if mask is None:
        return as_texts(ids, config)
    return Texts(ids[None] if ids.ndim == 1 else ids, mask[None] if mask.ndim == 1 else mask)


def _nested(rows: Sequence[Any]) -> Sequence[Any]:
    """A list of rows; a flat list of ids becomes one row."""
    return [rows] if rows and isinstance(rows[0], int) else rows


def _one_row(one: Tensor, number: int) -> Tensor:
    """The ids of text `number` of a sequence as pos; 1 pos is accepted too."""
    if not isinstance(one, Tensor):
        raise WorkbenchError(f"text {number} is {one!r:.60}; it should be a LongTensor of token ids")
    row = one[0] if one.ndim == 2 and len(one) == 1 else one
    if row.ndim != 1:
        raise WorkbenchError(f"text {number} has the shape {tuple(one.shape)}; it should be pos, the ids of one text")
    return row


def _stacked(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of any lengths as (ids, mask), batch pos each, padded on the right."""
    if not rows:
        raise WorkbenchError("there are no texts")
    for row in rows:
        _check_ids(row[None])
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([row.to(rows[0].device).long() for row in rows], batch_first=True)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def _check_ids(ids: Tensor) -> None:
    if not isinstance(ids, Tensor) or ids.dtype not in ID_DTYPES:
        what = ids.dtype if isinstance(ids, Tensor) else repr(ids)[:60]
        raise WorkbenchError(f"tokens are {what}; they should be a LongTensor of token ids")
    if ids.ndim != 2:
        raise WorkbenchError(f"tokens have {ids.ndim} dimensions {tuple(ids.shape)}; they should be batch pos, or pos")
    if 0 in ids.shape:
        raise WorkbenchError(f"there are {ids.shape[1]} tokens in {ids.shape[0]} texts; give at least one text")


def _as_mask(mask: Tensor, ids: Tensor) -> Tensor:
    """The mask as booleans. Errors: WorkbenchError if it has another shape than `ids`, or values other than 0 and 1."""
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        what = tuple(mask.shape) if isinstance(mask, Tensor) else repr(mask)[:60]
        raise WorkbenchError(f"the mask is {what}; it should have the shape of the ids, {tuple(ids.shape)}")
    return _booleans(mask).to(ids.device)


def _booleans(mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise WorkbenchError("the mask has values other than 1 (a token) and 0 (padding)")
    return mask.bool()


def _padded_right(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask padded on the right: tokens first, then 0, with as many columns as the longest row has tokens."""
    counts = mask.sum(1)
    if not counts.all():
        raise WorkbenchError(f"text {int(counts.argmin())} has no tokens: its mask is 0 everywhere")
    starts = mask.int().argmax(1)  # the first token of each row
    width = int(counts.max())
    place = torch.arange(width, device=ids.device)
    there = place < counts[:, None]
    columns = (starts[:, None] + place).clamp_max(ids.shape[1] - 1)
    if not mask.gather(1, columns)[there].all():
        raise WorkbenchError(
            "the mask has padding between the tokens of a text; padding should come before or after a text"
        )
    return ids.gather(1, columns).where(there, 0), there


def _refuse_padding(ids: Tensor, config: PreTrainedConfig | None) -> None:
    """Raise WorkbenchError if there are several rows and one begins or ends with the model's padding token.

    If the padding token is also the beginning-of-text or end-of-text token, only two of them in a row count as padding.
    """
    pad = getattr(config, "pad_token_id", None)
    if pad is None or len(ids) < 2:
        return
    is_pad = ids == pad
    ends = torch.stack([is_pad[:, :2], is_pad[:, -2:].flip(1)]) if ids.shape[1] > 1 else is_pad[None]
    doubles_as_end = pad in (getattr(config, "eos_token_id", None), getattr(config, "bos_token_id", None))
    padded = (ends.all(-1) if doubles_as_end else ends[..., 0]).any(0)
    if padded.any():
        row = int(padded.int().argmax())
        raise WorkbenchError(
            f"text {row} begins or ends with the padding token {pad}, but there is no mask to tell padding from text: "
            "give the tokenizer's output with its attention_mask, or Texts(ids, mask)"
        )


@dataclass(frozen=True)
class _Source:
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
class _Ids:
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


def _check_lengths(path: Path, rows: Sequence[tuple[Row, int]], longest: int | None) -> None:
    """Raise WorkbenchError for a text without tokens, or with more than `longest`."""
    for row, length in rows:
        if length == 0:
            raise WorkbenchError(f"{text_files.place_in_file(path, row.line)}: {row.cells[0]!r:.40} has no tokens")
        if longest is not None and length > longest:
            raise WorkbenchError(
                f"{text_files.place_in_file(path, row.line)}: the text has {length:,} tokens and the model takes at "
                f"most {longest:,}; shorten it, or cut all texts to their first {longest:,} tokens with cut={longest}"
            )


def _check_fits(path: Path, line: int, ids: _Ids) -> None:
    """Raise WorkbenchError if the texts so far take more than half of the free memory."""
    free = psutil.virtual_memory().available // 2
    if ids.nbytes > free:
        raise WorkbenchError(
            f"{path} does not fit into memory: up to line {line:,} its {len(ids.lengths):,} texts of at most "
            f"{max(ids.lengths):,} tokens take {ids.nbytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB may be used (half of "
            "what is free); read it in pieces with Texts.stream, or cut long texts with cut="
        )
