"""Places of an n-gram in the training text as a table: text around each, its document, and the steps that read it."""

import pandas as pd

from workbench.analyses.support.arguments import one_text
from workbench.corpus.excerpts import excerpt, plain_text
from workbench.corpus.replay import MAIN
from workbench.corpus.suffix_index import SuffixIndex
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer

COLUMNS = ["document", "source", "licence", "begins", "before", "match", "after", "steps"]


def documents_with(
    tokens: TextsLike,
    index: SuffixIndex,
    *,
    most: int = 4,
    around: int = 20,
    order: int = MAIN,
    tokenizer: Tokenizer,
) -> pd.DataFrame:
    """At most `most` places of an n-gram in the training text, one in each row; none if it does not occur.

    - `document`, `source`, `licence`: the number of the document, where it is from and under which terms.
    - `before`, `match`, `after`: the n-gram and at most `around` tokens of the document on either side, safe to show.
    - `begins`: whether `before` begins with the document.
    - `steps`: the steps of the run at which rows held this place, ascending, each once.

    Args:
        tokens: the n-gram, one text.
        index: the index of the training text.
        order: the data order of the run.
        tokenizer: that of the training text.

    Errors: WorkbenchError for several texts, token ids that the index does not have, or an unknown data order.
    """
    ids = one_text(tokens).flatten()
    found = []
    for place in index.places(ids, most).tolist():
        one, steps = excerpt(index, place, len(ids), around), index.rows_at(place, len(ids), order)["step"]
        about = [one.document.number, one.document.source, one.document.licence]
        begins = len(one.before) == place - one.document.place
        texts = [plain_text(part, tokenizer) for part in (one.before, one.match, one.after)]
        found.append([*about, begins, *texts, tuple(steps.unique().tolist())])
    return pd.DataFrame(found, columns=COLUMNS)
