"""A suffix array over token ids: counts and positions of any n-gram by binary search.

The text is one array in which each document ends in an end token. An n-gram may end in it, but does not go past it, so
none crosses the border of two documents. The suffix array lists the positions of the text in the order of the text that
begins at each, so the positions of an n-gram are one interval of it (Manber and Myers 1993).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np

TOKEN_TYPE = np.dtype(">u2")  # big-endian: the order of the bytes of two texts is then the order of their token ids
PLACE_TYPE = np.dtype(np.int32)
GATHERED = 50_000  # up to this many occurrences, the tokens that follow are read one by one


@dataclass(frozen=True)
class SuffixArray:
    """Token ids and their suffix array, in memory or in mapped files.

    Attributes:
        text: token ids as bytes, two for each, big-endian.
        order: the suffix array as bytes, int32 in the machine's byte order.
        end: id of the token that ends each document, the last one included.
        vocab: number of token ids.
    """

    text: bytes | mmap
    order: bytes | mmap
    end: int
    vocab: int

    @classmethod
    def of(cls, tokens: np.ndarray, end: int, vocab: int) -> "SuffixArray":
        """The suffix array of token ids, in memory."""
        return cls(tokens.astype(TOKEN_TYPE).tobytes(), sorted_suffixes(tokens).tobytes(), end, vocab)

    @cached_property
    def tokens(self) -> np.ndarray:
        """The token ids of the text, not copied."""
        return np.frombuffer(self.text, TOKEN_TYPE)

    @cached_property
    def positions(self) -> np.ndarray:
        """The suffix array, not copied."""
        return np.frombuffer(self.order, PLACE_TYPE)

    @cached_property
    def _order(self) -> memoryview:
        return memoryview(self.order).cast("i")

    def interval(self, ids: np.ndarray) -> tuple[int, int]:
        """The interval of the suffix array with the positions of an n-gram: (first, last + 1); empty if none."""
        if self.end in ids[:-1]:
            return 0, 0
        key = ids.astype(TOKEN_TYPE).tobytes()
        low = bisect_left(self._order, key, key=self._beginning(len(key)))
        return low, bisect_right(self._order, key, lo=low, key=self._beginning(len(key)))

    def occurs(self, ids: np.ndarray) -> bool:
        """Whether an n-gram occurs in the text."""
        if self.end in ids[:-1]:
            return False
        key = ids.astype(TOKEN_TYPE).tobytes()
        beginning = self._beginning(len(key))
        low = bisect_left(self._order, key, key=beginning)
        return low < len(self._order) and beginning(self._order[low]) == key

    def followers(self, ids: np.ndarray) -> np.ndarray:
        """How often each token id follows an n-gram in the text: int64, `vocab` of them.

        Many occurrences are not read: the interval is sorted by the token that follows, so binary searches for all
        token ids at once find where each begins.
        """
        if self.end in ids:
            return np.zeros(self.vocab, np.int64)
        return self._followers(ids) if len(ids) else self._frequencies

    @cached_property
    def _frequencies(self) -> np.ndarray:
        return self._followers(np.zeros(0, np.int64))

    def _followers(self, ids: np.ndarray) -> np.ndarray:
        low, high = self.interval(ids)
        if high - low <= GATHERED:
            following = self.tokens[self.positions[low:high] + len(ids)] if high > low else self.tokens[:0]
            return np.bincount(following, minlength=self.vocab)
        first, last = np.full(self.vocab + 1, low), np.full(self.vocab + 1, high)
        wanted = np.arange(self.vocab + 1)
        while (open_ := first < last).any():
            middle = np.minimum((first + last) // 2, high - 1)
            is_before = self.tokens[self.positions[middle] + len(ids)] < wanted
            first = np.where(open_ & is_before, middle + 1, first)
            last = np.where(open_ & ~is_before, middle, last)
        return np.diff(first)

    def _beginning(self, size: int) -> Callable[[int], bytes]:
        text = self.text
        return lambda position: text[2 * position : 2 * position + size]


def sorted_suffixes(tokens: np.ndarray) -> np.ndarray:
    """The suffix array of token ids: int32. Takes 0.2 s and 20 MB of memory for each million tokens."""
    from pydivsufsort import divsufsort  # imported here: only a build needs it

    return np.asarray(divsufsort(np.ascontiguousarray(tokens, np.uint16)), PLACE_TYPE)


def mapped(path: Path) -> mmap:
    """The bytes of a file, mapped into memory."""
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)
