"""Loss, rank and entropy of the prediction of each token."""

import torch

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import work_of
from workbench.analyses.support.next_tokens import WHAT, text_batches, text_statistics, work_of_text_statistics
from workbench.progress import Progress, steps
from workbench.results import Curves, Measures
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels


def token_losses(
    model: OlmoForCausalLM, tokens: TextsLike, *, tokenizer: Tokenizer | None = None, progress: Progress | None = None
) -> Measures:
    """Loss, rank and entropy at each position: how well each token is predicted from the tokens before it.

    Returns Curves over positions, one line for each text; every text needs at least two tokens:

    - `loss`: −log p of the token, in nats: 0 if the model is certain of it, log(number of tokens in the vocabulary) for
      a uniform guess. Its mean over all defined positions is the model's cross-entropy.
    - `rank`: the rank of the token (1 is the likeliest).
    - `entropy`: the entropy of the predicted distribution, in nats: from 0 to log(number of tokens in the vocabulary).

    The value at a position is about the prediction of the token *at* that position. It is undefined (NaN) at the first
    position, which nothing predicts, and after the end of a text that is shorter than others.
    """
    texts = texts_for(model, tokens, at_least=2)
    found = {name: torch.full(texts.ids.shape, float("nan")) for name in ("loss", "rank", "entropy")}
    for rows, ids in steps(text_batches(model, texts), progress, WHAT):
        for name, values in text_statistics(model, ids, texts.mask[rows, : ids.shape[1]]).items():
            found[name][rows, 1 : ids.shape[1]] = values.cpu()
    for values in found.values():
        values[~texts.mask.cpu()] = float("nan")
    return Measures(
        **{
            name: Curves(
                values,
                [f"text {n}" for n in range(len(texts))],
                range(texts.longest),
                x_labels=token_labels(texts[0], tokenizer) if len(texts) == 1 else None,
                title=f"{name.capitalize()} at each token",
                value_name=name,
                unit="" if name == "rank" else "nats",
                log_y=name == "rank",
                surprisal=name == "loss",
            )
            for name, values in found.items()
        }
    )


work_of(token_losses)(work_of_text_statistics)
