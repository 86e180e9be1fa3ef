"""Texts: the input of every analysis.

    texts = Texts.of(tokenizer, ["The cat sat.", "A longer text, of more tokens"], labels=["a", "b"])
    head_atlas(model, texts)

Instead of `Texts`, an analysis also takes a LongTensor (batch pos, without padding), a sequence of LongTensors of any
lengths, or the output of a tokenizer, padded on either side. All four forms give the same numbers for the same texts.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from workbench.errors import WorkbenchError

ID_DTYPES = (torch.int64, torch.int32)
READ = ".csv, .jsonl, .parquet, .txt"


class Batch(NamedTuple):
    """Texts of equal length: their row numbers in `Texts`, and their ids (batch pos, no padding)."""

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

    Errors: WorkbenchError if `ids` is not a LongTensor of ids, a text has no tokens, there is padding between the
    tokens of a text, or the number of labels is not the number of texts.
    """

    ids: Tensor
    mask: Tensor = None  # type: ignore[assignment]  # never None after __post_init__
    labels: tuple[str, ...] | None = None

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
        rows = []
        for number, string in enumerate(strings):
            ids = tokenizer(encodable(string, f"text {number}")).input_ids
            if not ids:
                raise WorkbenchError(f"text {number}, {string!r}, has no tokens")
            rows.append(torch.tensor(ids))
        return cls(*_stacked(rows), labels=None if labels is None else tuple(map(str, labels)))

    @classmethod
    def read(
        cls,
        path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        text: str = "text",
        label: str | None = None,
    ) -> Self:
        """Texts from a file: csv, jsonl or parquet with a column of texts, or txt with one text per line.

        Text files are UTF-8; blank lines are skipped.

        Args:
            path: the file; its suffix decides the format.
            tokenizer: makes token ids of the texts.
            text: name of the column with the texts; not used for txt.
            label: name of the column with the labels; None for no labels.

        Errors: WorkbenchError, with the line number, if the file cannot be read, or a row lacks a column or has an
        empty text.
        """
        path = Path(path)
        rows = list(_rows(path, text, label))
        if not rows:
            raise WorkbenchError(f"{path} holds no texts")
        labels = None if label is None else [row.label for row in rows]
        for row in rows:
            if not row.text:
                raise WorkbenchError(f"{path}, line {row.line}: the text is empty")
        return cls.of(tokenizer, [row.text for row in rows], labels)

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
        return Texts(self.ids[chosen], self.mask[chosen], labels)

    def to(self, device: torch.device | str) -> "Texts":
        """A copy with the ids on a device; the mask stays where it is."""
        moved = copy(self)
        object.__setattr__(moved, "ids", self.ids.to(device))
        return moved

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


class _Row(NamedTuple):
    """One text of a file: the text, its label ("" without labels), and its line or row number, counted from 1."""

    text: str
    label: str
    line: int


def _rows(path: Path, text: str, label: str | None) -> Iterator[_Row]:
    """The texts of a file, in order. Errors: WorkbenchError with the line number."""
    kind = path.suffix.lower()
    if kind not in READ.split(", "):
        raise WorkbenchError(f"{path} is not a supported file of texts; supported: {READ}")
    if kind == ".parquet":
        yield from _of_columns(path, text, label)
        return
    lines = _lines(path)
    if kind == ".txt":
        yield from (_Row(line, "", number) for number, line in enumerate(lines, 1) if line.strip())
    elif kind == ".jsonl":
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _row(path, _json_of(path, line, number), text, label, number)
    else:
        reader = csv.DictReader(line + "\n" for line in lines)
        try:
            for found in reader:
                yield _row(path, found, text, label, reader.line_num)
        except csv.Error as error:
            raise WorkbenchError(f"{path}, line {reader.line_num}: {error}") from error


def _lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without line endings."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WorkbenchError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise WorkbenchError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error


def _json_of(path: Path, line: str, number: int) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WorkbenchError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise WorkbenchError(f"{path}, line {number}: {line:.40} is not a JSON object")
    return found


def _row(path: Path, found: Mapping[str, Any], text: str, label: str | None, line: int) -> _Row:
    """The text and the label of one row, taken from its columns."""
    for column in (text, *([] if label is None else [label])):
        if found.get(column) is None:
            there = ", ".join(str(name) for name, value in found.items() if value is not None)
            raise WorkbenchError(f"{path}, line {line}: no column {column!r}; columns: {there or 'none'}")
    if not isinstance(found[text], str):
        raise WorkbenchError(f"{path}, line {line}: {text!r} is {found[text]!r:.40}; it should be a string")
    return _Row(found[text], "" if label is None else str(found[label]), line)


def _of_columns(path: Path, text: str, label: str | None) -> Iterator[_Row]:
    """The texts of a parquet file."""
    import pyarrow.lib  # only here: it takes 0.2 s to import
    import pyarrow.parquet

    wanted = [text, *([] if label is None else [label])]
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            if missing := [column for column in wanted if column not in there]:
                raise WorkbenchError(f"{path} has no column {missing[0]!r}; columns: {', '.join(there) or 'none'}")
            rows: Iterable[Mapping[str, Any]] = (
                row for batch in file.iter_batches(columns=wanted) for row in batch.to_pylist()
            )
            yield from (_row(path, found, text, label, number) for number, found in enumerate(rows, 1))
    except (OSError, pyarrow.lib.ArrowException) as error:
        raise WorkbenchError(f"{path} cannot be read: {error}") from error


def encodable(text: str, what: str) -> str:
    """The text unchanged. Errors: WorkbenchError if it has a lone surrogate, which a tokenizer cannot encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise WorkbenchError(f"{what} contains half of a surrogate pair ({half}) at character {error.start}") from error
    return text
