"""Which tokens of a text are in a piece that occurs verbatim in the training text, and how long that piece is."""

import numpy as np

from workbench.analyses.support.arguments import one_text
from workbench.corpus.index import CorpusIndex
from workbench.results import Curves, Measures
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels


def verbatim(
    tokens: TextsLike, index: CorpusIndex, *, shortest: int = 2, tokenizer: Tokenizer | None = None
) -> Measures:
    """The longest verbatim piece that holds each token of one text (see `CorpusIndex.spans`): Curves over positions.

    - `length`: its number of tokens; 0 for a token that is in no piece of at least `shortest` tokens.
    - `count`: how often it occurs in the training text; 0 likewise. If several pieces have
      this length, it is the count of the first one.

    Source: Liu et al. 2025, OLMoTrace, arXiv:2504.07096. Errors: WorkbenchError for several texts, or token ids that
    the index does not have.
    """
    ids = one_text(tokens).flatten()
    length, count = np.zeros(len(ids)), np.zeros(len(ids))
    for span in index.spans(ids, shortest):
        longer = length[span.start : span.end] < span.length
        length[span.start : span.end][longer] = span.length
        count[span.start : span.end][longer] = span.count
    labels = token_labels(ids.tolist(), tokenizer)

    def curves(values: np.ndarray, name: str, unit: str) -> Curves:
        title = f"{name[0].upper()}{name[1:]}"
        return Curves(
            values[None], ["text 0"], range(len(ids)), x_labels=labels, title=title, value_name=name, unit=unit
        )

    return Measures(
        length=curves(length, "longest verbatim piece with each token", "tokens"),
        count=curves(count, "occurrences of the longest verbatim piece", ""),
    )
