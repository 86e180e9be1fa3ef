"""Text generation one token at a time, with what the model expected at each.

`stream` is a plain generator: it computes a token when asked for the next one and stops when it is closed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from hooks import Edit, OlmoForCausalLM
from workbench.errors import WorkbenchError


@dataclass(frozen=True)
class Step:
    """One generated token.

    `log_probability` (nats, at most 0) and `alternatives`, the likeliest tokens as (id, probability) with the
    likeliest first, are of the model's own distribution: temperature, top-k and top-p change the draw only.
    """

    id: int
    log_probability: float
    alternatives: tuple[tuple[int, float], ...]

    @property
    def surprisal(self) -> float:
        """−log probability, in nats."""
        return -self.log_probability


def stream(
    model: OlmoForCausalLM,
    input_ids: Tensor,
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    edits: Sequence[Edit] = (),
    stop_at: Sequence[int] = (),
) -> Iterator[Step]:
    """Continue a text (1 pos), a step a token, until `max_new_tokens` or a token of `stop_at`, which is yielded too.

    `temperature` 0 takes the likeliest token; `top_k` 0 and `top_p` 1 leave all tokens in. `edits` hold for the prompt
    and for every token after it. One seed gives one text; two models that agree on a distribution draw the same token.
    Errors: WorkbenchError, at the call, for a setting that makes no sense or a text that would not fit.
    """
    check_sampling(max_new_tokens, temperature, top_p, top_k, seed)
    if input_ids.ndim != 2 or input_ids.shape[0] != 1 or input_ids.shape[1] == 0:
        raise WorkbenchError(f"tokens are {tuple(input_ids.shape)}; generation takes one text that is not empty: 1 pos")
    room = model.config.max_position_embeddings - input_ids.shape[1]
    if max_new_tokens > room:
        raise WorkbenchError(
            f"{max_new_tokens} new tokens do not fit: the model has room for {max(room, 0)} after this text"
        )
    return _stream(
        model, input_ids, max_new_tokens, (temperature, top_p, top_k), seed, tuple(edits), frozenset(stop_at)
    )


def _stream(
    model: OlmoForCausalLM,
    input_ids: Tensor,
    max_new_tokens: int,
    sampling: tuple[float, float, int],
    seed: int,
    edits: tuple[Edit, ...],
    stop_at: frozenset[int],
) -> Iterator[Step]:
    chance = torch.Generator().manual_seed(seed)
    cache, given = DynamicCache(config=model.config), input_ids
    for _ in range(max_new_tokens):
        run = model.run(given, edits=edits, past_key_values=cache, logits_to_keep=1)
        log_p = run.logits[0, -1].float().cpu().log_softmax(-1)  # vocab
        chosen = draw(log_p, *sampling, chance)
        likely = log_p.topk(min(10, len(log_p)))
        alternatives = zip(likely.indices.tolist(), likely.values.exp().tolist(), strict=True)
        yield Step(chosen, log_p[chosen].item(), tuple(alternatives))
        if chosen in stop_at:
            return
        given = torch.tensor([[chosen]], device=input_ids.device)


def draw(log_p: Tensor, temperature: float, top_p: float, top_k: int, chance: torch.Generator) -> int:
    """One token from log-probabilities (vocab): tempered, then the top k, then the fewest that hold `top_p`."""
    if temperature == 0:
        return log_p.argmax().item()
    log_p = (log_p / temperature).log_softmax(-1)
    if 0 < top_k < len(log_p):
        log_p = log_p.where(log_p >= log_p.topk(top_k).values[-1], -math.inf).log_softmax(-1)
    if top_p < 1:
        ordered = log_p.exp().sort(descending=True)
        before = ordered.values.cumsum(-1) - ordered.values  # what the likelier ones hold already
        log_p[ordered.indices[before >= top_p]] = -math.inf
    return torch.multinomial(log_p.exp(), 1, generator=chance).item()


def check_sampling(max_new_tokens: int, temperature: float, top_p: float, top_k: int, seed: int) -> None:
    """Errors: WorkbenchError that names the first setting that makes no sense; NaN never does."""
    for name, value, low, high, whole in (
        ("max_new_tokens", max_new_tokens, 1, 2**31, True),
        ("temperature", temperature, 0, 100, False),
        ("top_p", top_p, 1e-6, 1, False),
        ("top_k", top_k, 0, 2**31, True),
        ("seed", seed, 0, 2**63 - 1, True),
    ):
        if not low <= value <= high or (whole and value != int(value)):
            raise WorkbenchError(
                f"{name} is {value}; it should be a {'whole ' if whole else ''}number from {low:g} to {high:g}"
            )
