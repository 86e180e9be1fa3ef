"""How surprised the model was at each token."""

import torch

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import CHUNK_BYTES, next_token_statistics
from workbench.progress import Progress, steps
from workbench.results import Curves, Measures
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels


def token_losses(
    model: OlmoForCausalLM, tokens: TextsLike, *, tokenizer: Tokenizer | None = None, progress: Progress | None = None
) -> Measures:
    """Loss, rank and entropy at each position: how well each token was predicted from those before it.

    Returns Curves `loss` (−log p of the token, nats), `rank` (1 = it was the likeliest) and `entropy` (of the
    distribution it was drawn from, nats), a line a text, each of two tokens or more. The value at a position is about
    the token *at* that position; nothing predicted the first one, so it is undefined (NaN) there, and so it is after
    the end of a text that is shorter than others. The mean of `loss` over the rest is the model's cross-entropy.
    """
    texts = texts_for(model, tokens, at_least=2)
    per_token = run_bytes(model, logits=2)
    size = tokens_at_a_time(model, "token losses", per_token, texts.longest, fixed=CHUNK_BYTES)
    found = {name: torch.full(texts.ids.shape, float("nan")) for name in ("loss", "rank", "entropy")}
    for rows, ids in steps(texts.batches(size), progress, "token losses"):
        statistics = next_token_statistics(model.run(ids).logits[:, :-1], ids[:, 1:])
        for name, values in statistics.items():
            found[name][rows, 1 : ids.shape[1]] = values.cpu()
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
