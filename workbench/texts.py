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
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from workbench import text_files
from workbench.errors import WorkbenchError
from workbench.padded_ids import as_mask, booleans, check_ids, nested_rows, one_row, padded_right, stacked
from workbench.text_files import FileLines, Row
from workbench.text_rows import RowIds, RowSource, check_fits, check_lengths

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
        check_ids(self.ids)
        mask = torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else as_mask(self.mask, self.ids)
        ids, mask = padded_right(self.ids, mask)
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
        ids = RowIds(tokenizer)
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
        source = RowSource(path, text, label)
        ids, labels, lines = RowIds(tokenizer, cut), array("Q"), array("Q")
        names: dict[str, int] = {}  # of the labels, which are few
        for rows in source.pieces(AT_A_TIME):
            check_lengths(source.path, ids.add(rows), longest)
            check_fits(source.path, rows[-1].line, ids)
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
        source = RowSource(path, text, label)
        rows: list[Row] = []
        for rows in source.pieces(texts):
            ids = RowIds(tokenizer, cut)
            check_lengths(source.path, ids.add(rows), longest)
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
        check_ids(ids)
        _refuse_padding(ids, config)
        return Texts(ids)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise WorkbenchError(f"texts must be Texts, token ids or a tokenizer's output, not {given!r:.60}")
    if any(isinstance(one, str) for one in given):
        raise WorkbenchError("texts are given as strings; convert them with Texts.of(tokenizer, strings)")
    return Texts(*stacked([one_row(one, number) for number, one in enumerate(given)]))


def _of_encoding(given: Mapping[str, Any], config: PreTrainedConfig | None) -> Texts:
    """Texts from a tokenizer's output, whose values are tensors or lists."""
    if "input_ids" not in given:
        raise WorkbenchError(
            f"a tokenizer's output must have input_ids; this one has {', '.join(map(str, given)) or 'nothing'}"
        )
    ids, mask = given["input_ids"], given.get("attention_mask")
    if not isinstance(ids, Tensor):
        rows = [one_row(torch.as_tensor(one), n) for n, one in enumerate(nested_rows(ids))]
        if mask is None:
            return Texts(*stacked(rows))
        masks = [torch.as_tensor(one) for one in nested_rows(mask)]
        if [len(one) for one in masks] != [len(one) for one in rows]:
            raise WorkbenchError("attention_mask and input_ids have texts of different lengths")
        kept = [row[booleans(one)] for row, one in zip(rows, masks, strict=True)]
        return Texts(*stacked(kept))
    if mask is None:
        return as_texts(ids, config)
    return Texts(ids[None] if ids.ndim == 1 else ids, mask[None] if mask.ndim == 1 else mask)


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
