"""The index of a training text as a suffix array in mapped files, with its documents and the rows that held them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench.corpus.index import CorpusIndex, Document, Ids
from workbench.corpus.replay import MAIN
from workbench.corpus.row_map import RowMap
from workbench.corpus.suffix_array import SuffixArray
from workbench.errors import WorkbenchError


@dataclass(frozen=True)
class SuffixIndex(CorpusIndex):
    """A training text of which every place, document and row is known.

    Attributes:
        suffixes: the text and its suffix array.
        starts: place of the first token of each document.
        origins: for each document, the index of its entry in `sources`.
        sources: (source, licence) of documents.
        row_map: which rows held which places.
        orders: data orders of the runs in `row_map`.
    """

    suffixes: SuffixArray
    starts: np.ndarray
    origins: np.ndarray
    sources: tuple[tuple[str, str], ...]
    row_map: RowMap
    orders: tuple[int, ...]

    @property
    def vocab(self) -> int:
        """Number of token ids."""
        return self.suffixes.vocab

    @property
    def end(self) -> int:
        """Id of the token that ends a document."""
        return self.suffixes.end

    @property
    def tokens(self) -> np.ndarray:
        """The token ids of the whole text, by place: a mapped file."""
        return self.suffixes.tokens

    def count(self, ids: Ids) -> int:
        """How often an n-gram occurs; the number of all tokens for the empty one."""
        low, high = self.suffixes.interval(self.checked(ids))
        return high - low

    def occurs(self, ids: Ids) -> bool:
        """Whether `count` is above 0; takes half the time."""
        return self.suffixes.occurs(self.checked(ids))

    def places(self, ids: Ids, most: int | None = None) -> np.ndarray:
        """Places of the first token of an n-gram's occurrences, ascending: int64.

        With `most`, at most that many: an even sample of the occurrences sorted by what follows them.
        """
        low, high = self.suffixes.interval(self.checked(ids))
        found = self.suffixes.positions[low:high]
        if most is not None and len(found) > most:
            found = found[np.arange(most) * len(found) // most]
        return np.sort(found).astype(np.int64)

    def document(self, place: int) -> Document:
        """The document with the token at a place. Errors: WorkbenchError for a place outside of the text."""
        if not 0 <= place < len(self.tokens):
            raise WorkbenchError(f"there is no place {place}; the text has the places 0 to {len(self.tokens) - 1:,}")
        number = int(np.searchsorted(self.starts, place, side="right")) - 1
        bounds = np.append(self.starts[number : number + 2], len(self.tokens))
        ids = self.tokens[bounds[0] : bounds[1] - 1].astype(np.int64)
        return Document(number, int(bounds[0]), ids, *self.sources[self.origins[number]])

    def followers(self, ids: Ids) -> np.ndarray:
        """How often each token id follows an n-gram within a document: int64, vocab."""
        return self.suffixes.followers(self.checked(ids))

    def rows_at(self, place: int, length: int = 1, order: int = MAIN) -> pd.DataFrame:
        """The rows that held the `length` tokens from a place, by step; see `RowMap.rows_with`."""
        return self.row_map.rows_with([place], length, self._known(order))

    def rows_with(self, ids: Ids, order: int = MAIN) -> pd.DataFrame:
        """The rows that held an n-gram at any of its places, by step: columns place, step, row, position.

        Step `s` takes checkpoint `step{s}` to `step{s + 1}`: a later checkpoint has read the row, an earlier one not.
        A row that holds several copies has a line for each; `row_map.distinct_rows` of the table has each row once.
        Errors: WorkbenchError for an unknown data order.
        """
        return self.row_map.rows_with(self.places(ids), len(ids), self._known(order))

    def _known(self, order: int) -> int:
        if order not in self.orders:
            raise WorkbenchError(f"order={order}; the rows of these data orders are known: {self.orders}")
        return order
