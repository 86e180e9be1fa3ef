"""Statistics of next-token distributions."""

import torch
from torch import Tensor

CHUNK = 2**22  # logits turned into probabilities at a time
CHUNK_BYTES = 4 * 4 * CHUNK  # of intermediate results for one chunk, in float32


def next_token_statistics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Loss, rank and entropy of next-token distributions, float32: … each.

    loss = −log p(target), in nats; rank = 1 + the number of tokens with a higher logit; entropy = −Σ p log p, in nats.
    logits: … vocab; targets: …, token ids. Computed in chunks, so no second tensor of the size of the logits is needed.
    """
    flat, wanted = logits.flatten(0, -2), targets.flatten()
    size = max(1, CHUNK // flat.shape[-1])
    parts: dict[str, list[Tensor]] = {"loss": [], "rank": [], "entropy": []}
    for rows, target in zip(flat.split(size), wanted.split(size), strict=True):
        log_p = rows.float().log_softmax(-1)
        of_target = log_p.gather(-1, target[:, None])
        parts["loss"].append(-of_target[:, 0])
        parts["rank"].append(1 + (log_p > of_target).sum(-1))
        parts["entropy"].append(torch.special.entr(log_p.exp()).sum(-1))
    return {name: torch.cat(chunks).float().reshape(targets.shape) for name, chunks in parts.items()}
