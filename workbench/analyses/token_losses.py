"""How surprised the model was at each token."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.common import as_batch, next_token_statistics
from workbench.progress import Progress
from workbench.results import Curves, Measures
from workbench.text import Tokenizer, token_labels


def token_losses(
    model: OlmoForCausalLM, tokens: Tensor, *, tokenizer: Tokenizer | None = None, progress: Progress | None = None
) -> Measures:
    """Loss, rank and entropy at each position: how well each token was predicted from those before it.

    `tokens` batch pos, at least two positions. Returns Curves `loss` (−log p of the token, nats), `rank` (1 = it was
    the likeliest) and `entropy` (of the distribution it was drawn from, nats), a line a text. The value at a position
    is about the token *at* that position; nothing predicted the first one, so it is undefined (NaN) there. The mean
    of `loss` over the others is the model's cross-entropy on the text.
    """
    batch = as_batch(tokens, at_least=2)
    if progress is not None:
        progress(0.0, "token losses")
    logits = model.run(batch).logits[:, :-1]  # batch pos-1 vocab
    statistics = next_token_statistics(logits, batch[:, 1:].to(logits.device))
    lines = [f"text {n}" for n in range(len(batch))]
    names = token_labels(batch[0], tokenizer) if len(batch) == 1 else None
    undefined = torch.full((len(batch), 1), float("nan"), device=logits.device)
    curves = {
        name: Curves(
            torch.cat([undefined, values], dim=1),
            lines,
            range(batch.shape[1]),
            x_labels=names,
            title=f"{name.capitalize()} at each token",
            value_name=name,
            unit="" if name == "rank" else "nats",
            log_y=name == "rank",
        )
        for name, values in statistics.items()
    }
    if progress is not None:
        progress(1.0, "token losses")
    return Measures(**curves)
