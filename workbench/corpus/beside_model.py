"""Where a model predicts as its training text does (∞-gram), and where it differs.

    beside_model(model, tokens, corpus.open("tiny-olmo"), tokenizer=tokenizer)["difference"]

Source of the ∞-gram: Liu et al. 2024, "Infini-gram", arXiv:2401.17377.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import one_text
from workbench.analyses.support.cost import Work, planned, work_of
from workbench.analyses.token_losses import token_losses
from workbench.corpus.index import CorpusIndex
from workbench.progress import Progress
from workbench.results import Curves, Measures
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels


def beside_model(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    index: CorpusIndex,
    *,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """The probability of each token of one text, from the training text and from the model: Curves over positions.

    - `text`: count(suffix + token) / count(suffix), where suffix is the longest one of the tokens before that occurs in
      the training text; with the empty suffix, the frequency of the token. 0 to 1.
    - `model`: the probability by the model, 0 to 1.
    - `difference`: `model` − `text`, −1 to 1. Near 1, the model predicts the token for another reason than
      this longest match, for example the prompt; near −1, it does not follow the match; near 0, both agree.
    - `suffix`: the number of tokens of the suffix.

    The values at the first position are undefined (NaN); those of the text also where no token follows the suffix in
    the training text, which is the case only after the end of a document. A suffix does not reach back beyond the last
    token that ends a document.

    Errors: WorkbenchError for several texts, fewer than two tokens, or token ids that the index does not have.
    """
    ids = one_text(tokens, model, at_least=2)
    by_model = np.exp(-token_losses(model, ids, progress=progress)["loss"].values[0])
    found = np.array([(np.nan, 0), *in_text(index.checked(ids.flatten()), index)])
    text, suffix = found[:, 0], found[:, 1]
    suffix[0] = np.nan
    labels = token_labels(ids.flatten().tolist(), tokenizer)

    def curves(values: np.ndarray, name: str, title: str, unit: str = "", signed: bool = False) -> Curves:
        about = partial(Curves, x_labels=labels, title=title, value_name=name, unit=unit, signed=signed)
        return about(values[None], ["text 0"], range(len(values)))

    return Measures(
        text=curves(text, "probability in the text", "Probability after the longest match in the training text"),
        model=curves(by_model, "probability by the model", "Probability by the model"),
        difference=curves(by_model - text, "model − text", "Probability by the model less that in its text", "", True),
        suffix=curves(suffix, "longest match", "Length of the longest match before each token", "tokens"),
    )


@work_of(beside_model)
def _work(model: OlmoForCausalLM, tokens: TextsLike, *_: object, **__: object) -> Work:
    return planned(token_losses, model, tokens)


def in_text(ids: np.ndarray, index: CorpusIndex) -> Iterator[tuple[float, int]]:
    """(probability in the text, length of the suffix) of each token but the first.

    A suffix that occurs grows by at most one token from one position to the next, so each token is tried at most twice.
    """
    start = 0
    for position in range(1, len(ids)):
        if ids[position - 1] == index.end:
            start = position
        while start < position and not index.occurs(ids[start:position]):
            start += 1
        before = index.count(ids[start:position])
        after = index.count(ids[start : position + 1])
        yield (after / before if before else np.nan), position - start
