"""An index of a published training text on disk, in the format of infini-gram, read by its engine.

    text = corpus.open_infini_gram("index/v4_pileval", end=50279, vocab=50280)
    text.count(ids), text.continuations(ids).table(), text.document(text.places(ids, most=1)[0])

The indexes of Dolma and of other texts of OLMo have this format (version 4). A shard has the files `tokenized.N`, in
which a separator stands before each document, `offset.N`, `table.N` (the suffix array) and, where it has metadata,
`metadata.N` and `metaoff.N`.

Source: Liu et al. 2024, "Infini-gram: Scaling Unbounded n-gram Language Models to a Trillion Tokens", arXiv:2401.17377.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from workbench.corpus.index import CorpusIndex, Document, Ids
from workbench.errors import WorkbenchError

FILES = ("tokenized", "offset", "table")
WIDTHS = {"u16": 2, "u32": 4}
MOST_READ = 10_000_000
"""Largest number of occurrences whose following tokens are counted, since the engine may read each of them."""


@dataclass(frozen=True)
class InfiniGramIndex(CorpusIndex):
    """A training text in an infini-gram index; its rows and their steps are not known.

    A place counts the tokens of all shards one after another, where the token that ends a document stands after it, as
    in other indexes. On disk a separator stands before each document, so a place is one less than the position there,
    and the token that ends the last document of a shard is not stored.

    Attributes:
        engine: the engine of the package infini-gram.
        folder: folder with the files of the shards.
        sizes: number of tokens of each shard, its separators included.
        width: bytes of a token.
        end_id: id that stands for the end of a document.
        vocab_size: number of token ids.
    """

    engine: Any
    folder: Path
    sizes: tuple[int, ...]
    width: int
    end_id: int
    vocab_size: int

    @property
    def vocab(self) -> int:
        """Number of token ids."""
        return self.vocab_size

    @property
    def end(self) -> int:
        """Id of the token that ends a document."""
        return self.end_id

    def count(self, ids: Ids) -> int:
        """How often an n-gram occurs; the number of all tokens for the empty one."""
        return sum(high - low + ends for low, high, ends in self._found(self.checked(ids)))

    def occurs(self, ids: Ids) -> bool:
        """Whether `count` is above 0."""
        return self.count(ids) > 0

    def places(self, ids: Ids, most: int | None = None) -> np.ndarray:
        """Places of the first token of an n-gram's occurrences, ascending: int64.

        With `most`, at most that many: an even sample of the occurrences sorted by shard and by what follows them.
        """
        asked = self.checked(ids)
        found = self._found(asked)
        counts = np.array([high - low + ends for low, high, ends in found])
        total, starts = int(counts.sum()), np.cumsum([0, *counts])
        chosen = np.arange(total) if most is None or total <= most else np.arange(most) * total // most
        places = []
        for shard, (low, high, _) in enumerate(found):
            ranks = low + chosen[(chosen >= starts[shard]) & (chosen < starts[shard + 1])] - starts[shard]
            unstored = self.sizes[shard] - max(len(asked), 1)
            local = np.append(self._positions(shard, ranks[ranks < high]) - 1, [unstored] * int((ranks >= high).sum()))
            local[local < 0] = self.sizes[shard] - 1  # the first separator stands for the end that is not stored
            places.append(self._bases[shard] + local)
        return np.sort(np.concatenate(places)).astype(np.int64)

    def document(self, place: int) -> Document:
        """The document with the token at a place. Errors: WorkbenchError for a place outside of the text.

        Its source is the metadata that the index has of it, and its licence is that of the text: "as published".
        """
        if not 0 <= place < self._bases[-1]:
            raise WorkbenchError(f"there is no place {place}; the text has the places 0 to {self._bases[-1] - 1:,}")
        shard = int(np.searchsorted(self._bases, place, side="right")) - 1
        local = int(place - self._bases[shard])  # the position of the token before, which is of the same document
        most = 2 * self.sizes[shard]  # the engine shows half of it on either side
        found = _answer(self.engine.get_doc_by_ptr(s=shard, ptr=local * self.width, max_disp_len=most))
        before = (
            found["needle_offset"] + 1 if found["needle_offset"] < most else 0
        )  # it is −1, unsigned, at a separator
        ids = np.array(found["token_ids"], np.int64)
        first = int(self._bases[shard]) + local - before
        return Document(found["doc_ix"], first, ids, _source(found["metadata"]), "as published")

    def followers(self, ids: Ids) -> np.ndarray:
        """How often each token id follows an n-gram within a document: int64, vocab.

        Errors: WorkbenchError for an n-gram with more than `MOST_READ` occurrences.
        """
        asked, counts = self.checked(ids), np.zeros(self.vocab, np.int64)
        if self.end in asked:
            return counts
        if (number := self.count(asked)) > MOST_READ:
            raise WorkbenchError(
                f"these {len(asked)} tokens occur {number:,} times; next tokens are counted for at most {MOST_READ:,} "
                "occurrences: give a longer context"
            )
        if any(self._tail(shard, len(asked)) == asked.tolist() for shard in range(len(self.sizes)) if len(asked)):
            # the engine says that the end follows always, where a shard ends in the n-gram
            return np.array([self.count(np.append(asked, token)) for token in range(self.vocab)])
        if number:
            found = _answer(self.engine.ntd(prompt_ids=asked.tolist(), max_support=MOST_READ))
            assert not found["approx"], "the engine has estimated what follows"
            for token, of_token in found["result_by_token_id"].items():
                counts[token] = of_token["cont_cnt"]
        return counts

    @cached_property
    def _bases(self) -> np.ndarray:
        """The place of the first token of each shard, and the number of all tokens."""
        return np.cumsum([0, *self.sizes])

    def _found(self, asked: np.ndarray) -> list[tuple[int, int, int]]:
        """By shard: the interval of the suffix array with an n-gram, and 1 if the shard ends in it (else 0)."""
        if self.end in asked[:-1]:
            return [(0, 0, 0)] * len(self.sizes)
        stored = [self._separator if token == self.end else token for token in asked.tolist()]
        segments = _answer(self.engine.find(input_ids=stored))["segment_by_shard"]
        unstored = len(stored) > 1 and stored[-1] == self._separator
        ends = [int(unstored and self._tail(shard, len(stored) - 1) == stored[:-1]) for shard in range(len(self.sizes))]
        return [(low, high, more) for (low, high), more in zip(segments, ends, strict=True)]

    @property
    def _separator(self) -> int:
        return int(2 ** (8 * self.width) - 1)

    def _tail(self, shard: int, length: int) -> list[int]:
        """The last tokens of a shard on disk."""
        tokens = np.memmap(self.folder / f"tokenized.{shard}", f"<u{self.width}", mode="r")
        return [int(token) for token in tokens[max(0, len(tokens) - length) :]]

    def _positions(self, shard: int, ranks: np.ndarray) -> np.ndarray:
        """The positions on disk that entries of a shard's suffix array point to."""
        table = np.memmap(self.folder / f"table.{shard}", np.uint8, mode="r").reshape(self.sizes[shard], -1)
        pointers = np.zeros((len(ranks), 8), np.uint8)
        pointers[:, : table.shape[1]] = table[ranks]
        return pointers.view("<u8")[:, 0].astype(np.int64) // self.width


def open_infini_gram(folder: str | Path, *, end: int, vocab: int, token_type: str | None = None) -> InfiniGramIndex:
    """The infini-gram index in a folder; its files are mapped, not read.

    Args:
        folder: the folder with `tokenized.0`, `offset.0`, `table.0`, and so on for more shards.
        end: id of the tokenizer's end-of-text token, which stands for the separator of documents.
        vocab: number of token ids.
        token_type: "u16" or "u32", the type of the token ids on disk. None means the smaller one with room for `vocab`.

    Errors: WorkbenchError if the package infini-gram is not installed, a file is missing or has an impossible size, or
    `end` is not an id of the vocabulary.
    """
    try:
        from infini_gram.engine import InfiniGramEngine  # imported here: only published indexes need it
    except ImportError as error:
        raise WorkbenchError(
            "reading an infini-gram index needs the package infini-gram (Linux on x86-64): "
            'pip install "olmo-workbench[corpus-published]"'
        ) from error
    chosen = token_type or ("u16" if vocab < 2**16 else "u32")
    if chosen not in WIDTHS:
        raise WorkbenchError(f"token_type={token_type!r}; choices: {', '.join(WIDTHS)}")
    if not 0 <= end < vocab:
        raise WorkbenchError(f"end={end}; the vocabulary has the ids 0 to {vocab - 1}")
    path, width = Path(folder), WIDTHS[chosen]
    sizes = tuple(_shard_sizes(path, width))
    engine = InfiniGramEngine(str(path), eos_token_id=end, vocab_size=vocab, version=4, token_dtype=chosen)
    return InfiniGramIndex(engine, path, sizes, width, end, vocab)


def _shard_sizes(folder: Path, width: int) -> Iterator[int]:
    """The number of tokens of each shard, after a check of its files: the engine would end the process if they were
    wrong.
    """
    shards = sorted(int(path.suffix[1:]) for path in folder.glob("tokenized.*") if path.suffix[1:].isdecimal())
    for shard in shards or [0]:
        for name in FILES:
            if not (folder / f"{name}.{shard}").is_file():
                raise WorkbenchError(f"{folder} is not an infini-gram index: there is no {name}.{shard}")
        tokens, table = ((folder / f"{name}.{shard}").stat().st_size for name in ("tokenized", "table"))
        if not tokens or tokens % width or not table or table % (tokens // width):
            raise WorkbenchError(
                f"the shard {shard} of {folder} is damaged, or its tokens have another type: {tokens:,} bytes of "
                f"tokens of {width} bytes, and a table of {table:,} bytes"
            )
        yield tokens // width


def _answer(response: dict[str, Any]) -> dict[str, Any]:
    """A response of the engine. Errors: WorkbenchError with its message."""
    if "error" in response:
        raise WorkbenchError(f"the infini-gram engine refused a query: {response['error']}")
    return response


def _source(metadata: str) -> str:
    """What the metadata of a document says of its source: its path, or all of it if there is none."""
    try:
        described = json.loads(metadata or "{}")
    except json.JSONDecodeError:
        return metadata.strip()
    inner = described.get("metadata") or {}
    return str(inner.get("source") or described.get("path") or metadata.strip() or "not stated")
