"""Statistics of next-token distributions."""

import torch
from torch import Tensor

CHUNK = 2**22  # logits turned into probabilities at a time
CPU_CHUNK = 2**18  # the same on a CPU: what stays in its cache
LOGITS_AT_MOST = 1024  # tokens to run at a time on a CPU with all logits; memory for more is slow to get
LEAST = torch.finfo(torch.float32).min  # in place of −∞, so that 0 · log 0 is 0
CHUNK_BYTES = 4 * 4 * CHUNK  # of intermediate results for one chunk, in float32


def next_token_statistics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Loss, rank and entropy of next-token distributions, float32: … each.

    loss = −log p(target), in nats; rank = 1 + the number of tokens with a higher logit; entropy = −Σ p log p, in nats.
    logits: … vocab; targets: …, token ids. Computed in chunks, so no second tensor of the size of the logits is needed.
    """
    flat, wanted = logits.flatten(0, -2), targets.flatten()
    size = max(1, (CPU_CHUNK if flat.device.type == "cpu" else CHUNK) // flat.shape[-1])
    parts: dict[str, list[Tensor]] = {"loss": [], "rank": [], "entropy": []}
    for rows, target in zip(flat.split(size), wanted.split(size), strict=True):
        log_p = rows.float().log_softmax(-1)
        of_target = log_p.gather(-1, target[:, None])
        parts["loss"].append(-of_target[:, 0])
        parts["rank"].append(1 + (log_p > of_target).sum(-1, dtype=torch.int32))
        p = log_p.exp()
        parts["entropy"].append(-p.mul_(log_p.clamp_(min=LEAST)).sum(-1))  # half the time of `torch.special.entr`
    return {name: torch.cat(chunks).float().reshape(targets.shape) for name, chunks in parts.items()}
