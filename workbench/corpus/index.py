"""The interface of all indexes of a training text: counts, places, documents, continuations, verbatim spans."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from workbench.errors import WorkbenchError, shown

Ids = Sequence[int] | np.ndarray | Tensor
"""Token ids of one text."""


@dataclass(frozen=True)
class Document:
    """A document of the training text.

    Attributes:
        number: its number in the text, from 0.
        place: place of its first token.
        ids: its token ids, without the token that ends it.
        source: what it comes from, for example "HellaSwag".
        licence: its terms of use, as far as we know them.
    """

    number: int
    place: int
    ids: np.ndarray
    source: str
    licence: str


@dataclass(frozen=True)
class Continuations:
    """Which tokens follow the longest suffix of a context that occurs in the text (∞-gram).

    Attributes:
        suffix: number of tokens of that suffix; 0 if not even the last token occurs.
        counts: how often each token id follows it: int64, vocab.
    """

    suffix: int
    counts: np.ndarray

    @property
    def total(self) -> int:
        """How often the suffix occurs before a token of its document."""
        return int(self.counts.sum())

    @property
    def probabilities(self) -> np.ndarray:
        """`counts` divided by their sum: float64, vocab."""
        return self.counts / max(self.total, 1)

    def table(self) -> pd.DataFrame:
        """One row for each token that follows: id, count, probability; the most frequent first, then by id."""
        ids = np.flatnonzero(self.counts)
        ids = ids[np.argsort(-self.counts[ids], kind="stable")]
        return pd.DataFrame({"id": ids, "count": self.counts[ids], "probability": self.probabilities[ids]})


@dataclass(frozen=True)
class VerbatimSpan:
    """A piece of a text that occurs verbatim in the training text: tokens `start` to `end`, `end` not included."""

    start: int
    end: int
    count: int

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.end - self.start


class CorpusIndex(ABC):
    """An index of a training text.

    A place is the position of a token in the text, from 0. An n-gram lies within one document. The last token of a
    document is the one that ends it; no n-gram goes on beyond it.
    """

    @property
    @abstractmethod
    def vocab(self) -> int:
        """Number of token ids."""

    @property
    @abstractmethod
    def end(self) -> int:
        """Id of the token that ends a document."""

    @abstractmethod
    def count(self, ids: Ids) -> int:
        """How often an n-gram occurs; the number of all tokens for the empty one."""

    @abstractmethod
    def occurs(self, ids: Ids) -> bool:
        """Whether `count` is above 0; takes half the time."""

    @abstractmethod
    def places(self, ids: Ids, most: int | None = None) -> np.ndarray:
        """Places of the first token of an n-gram's occurrences, ascending: int64.

        With `most`, at most that many: an even sample of the occurrences sorted by what follows them.
        """

    @abstractmethod
    def document(self, place: int) -> Document:
        """The document with the token at a place. Errors: WorkbenchError for a place outside of the text."""

    @abstractmethod
    def followers(self, ids: Ids) -> np.ndarray:
        """How often each token id follows an n-gram within a document: int64, vocab."""

    def continuations(self, ids: Ids) -> Continuations:
        """What follows the longest suffix of a context that occurs in the text.

        A context reaches back to the last token that ends a document: what comes after it begins a new one. If no
        suffix occurs, the counts are those of all tokens. Source: Liu et al. 2024, Infini-gram, arXiv:2401.17377.
        """
        context = self.checked(ids)
        ends = np.flatnonzero(context == self.end)
        context = context[ends[-1] + 1 :] if len(ends) else context
        low, high = 0, len(context)  # the suffix of `low` tokens occurs; none longer than `high` does
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.occurs(context[len(context) - middle :]) else (low, middle - 1)
        return Continuations(low, self.followers(context[len(context) - low :]))

    def spans(self, ids: Ids, shortest: int = 1) -> list[VerbatimSpan]:
        """All maximal pieces of a text that occur verbatim in one document, by start; none lies within another.

        Pieces of fewer than `shortest` tokens are left out. Each token is tried at most twice, once as the end and once
        as the start of a piece. Source: Liu et al. 2025, OLMoTrace, arXiv:2504.07096.
        """
        text, found, end, covered = self.checked(ids), [], 0, 0
        for start in range(len(text)):
            end = max(end, start)
            while end < len(text) and self.occurs(text[start : end + 1]):
                end += 1
            if end > covered and end - start >= shortest:
                found.append(VerbatimSpan(start, end, self.count(text[start:end])))
            covered = max(covered, end)
        return found

    def checked(self, ids: Ids) -> np.ndarray:
        """Token ids as an int64 array. Errors: WorkbenchError if they are not a list of ids of this vocabulary."""
        values = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
        if values.size == 0:
            return np.zeros(0, np.int64)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise WorkbenchError(f"{shown(ids)} is not a list of token ids")
        if (outside := values[(values < 0) | (values >= self.vocab)]).size:
            raise WorkbenchError(f"there is no token id {outside[0]}; the vocabulary has the ids 0 to {self.vocab - 1}")
        return values.astype(np.int64)
