"""Where two checkpoints predict differently, token by token."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import CHUNK
from workbench.analyses.support.two_models import ModelOrName, config_of, pair_name, side_by_side
from workbench.errors import WorkbenchError
from workbench.progress import Progress
from workbench.results import Curves, Measures, Scores
from workbench.texts import Texts, TextsLike
from workbench.tokens import Tokenizer, token_labels

NAMES = {
    "loss_difference": ("loss of B − loss of A", "nats"),
    "loss_a": ("loss of A", "nats"),
    "loss_b": ("loss of B", "nats"),
    "kl": ("KL(A ‖ B)", "nats"),
    "kl_reverse": ("KL(B ‖ A)", "nats"),
    "js": ("JS(A, B)", "nats"),
    "overlap": ("share of the likeliest tokens in common", ""),
    "flip": ("1 where the likeliest token differs", ""),
}
WHEN_EQUAL = {"overlap": 1.0, "loss_a": math.nan, "loss_b": math.nan}


def compare_behaviour(
    a: ModelOrName,
    b: ModelOrName,
    tokens: TextsLike,
    *,
    top: int = 10,
    window: int = 2048,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """How A's and B's predictions of each token of a text differ. Curves over positions, a line a text:

    `loss_difference`, B's −log p of the token less A's; `loss_a`, `loss_b`; `kl` Σ a log(a/b) and `kl_reverse`, of the
    whole next-token distributions; `js`, the Jensen–Shannon divergence (½ KL(a‖m) + ½ KL(b‖m), m their mean; at most
    log 2, Lin 1991); `overlap`, the share of the `top` likeliest tokens that both have; `flip`, 1 where the likeliest
    one differs. The value at a position is about the token *at* that position; the first is undefined (NaN), and so is
    what lies after the end of a text that is shorter than others.

    Texts longer than `window` (or than the models take) are read in windows that overlap by one
    token. A and B may be models, entries of a series or ids; those that are not models are loaded one after the other.
    Errors: WorkbenchError if the two have vocabularies of different size.
    """
    texts = texts_for(config_of(a), tokens, at_least=2)
    if window < 2:
        raise WorkbenchError(f"window={window}; a window needs at least 2 tokens")

    longest = min(window, *(config_of(subject).max_position_embeddings for subject in (a, b)))
    windows = [(text, *ends) for text, length in enumerate(texts.lengths) for ends in _windows(length, longest)]
    _fits(a, b, min(longest, texts.longest))

    def logits(model: OlmoForCausalLM) -> Iterator[Tensor]:
        for text, start, stop in windows:
            yield model.run(texts.ids[text, None, start:stop].to(model.device)).logits[0, :-1]  # pos-1 vocab

    found = {name: torch.full(texts.ids.shape, float("nan")) for name in NAMES}
    pairs = side_by_side(a, b, logits, len(windows), progress)
    for (text, start, stop), (one, other) in zip(windows, pairs, strict=True):
        for name, values in _differences(one, other, texts.ids[text, start + 1 : stop].cpu(), top).items():
            found[name][text, start + 1 : stop] = values
    title = pair_name(a, b)
    return Measures(**{name: _curves(name, values, texts, title, tokenizer) for name, values in found.items()})


def behaviour_summary(measures: Measures) -> Scores:
    """The mean of each measure over all tokens, so that pairs of checkpoints can be set beside each other."""
    means = [torch.from_numpy(measure.values.copy()).nanmean().item() for measure in measures.values()]
    equal = [measure.value_when_equal for measure in measures.values()]
    return Scores(
        means, list(measures), title="Mean over tokens", value_name="mean", signed=True, value_when_equal=equal
    )


def divergences(log_a: Tensor, log_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL(a ‖ b), KL(b ‖ a) and JS(a, b) in nats of log-probabilities … vocab."""
    a, b = log_a.exp(), log_b.exp()
    log_mean = torch.logaddexp(log_a, log_b) - math.log(2)
    js = ((a * (log_a - log_mean)).sum(-1) + (b * (log_b - log_mean)).sum(-1)) / 2
    kl, reverse = (a * (log_a - log_b)).sum(-1), (b * (log_b - log_a)).sum(-1)
    return kl.clamp_min(0), reverse.clamp_min(0), js.clamp_min(0)


def _differences(a: Tensor, b: Tensor, targets: Tensor, top: int) -> dict[str, Tensor]:
    """All measures of `NAMES` for logits pos vocab, in chunks of positions: pos each."""
    if not 1 <= top <= a.shape[-1]:
        raise WorkbenchError(f"top={top}; choices: 1 … {a.shape[-1]}")
    size = max(1, CHUNK // a.shape[-1])
    chunks = [_difference(*part, top) for part in zip(a.split(size), b.split(size), targets.split(size), strict=True)]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in NAMES}


def _difference(a: Tensor, b: Tensor, targets: Tensor, top: int) -> dict[str, Tensor]:
    log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
    loss_a, loss_b = (-log.gather(-1, targets[:, None])[:, 0] for log in (log_a, log_b))
    best_a, best_b = a.topk(top).indices, b.topk(top).indices  # pos top
    kl, reverse, js = divergences(log_a, log_b)
    return {
        "loss_difference": loss_b - loss_a,
        "loss_a": loss_a,
        "loss_b": loss_b,
        "kl": kl,
        "kl_reverse": reverse,
        "js": js,
        "overlap": (best_a[:, :, None] == best_b[:, None]).any(-1).float().mean(-1),
        "flip": (best_a[:, 0] != best_b[:, 0]).float(),
    }


def _windows(length: int, window: int) -> list[tuple[int, int]]:
    """Stretches of a text in which all but the first token of each is predicted, and every token but the first once."""
    return [(start, min(start + window, length)) for start in range(0, length - 1, window - 1)]


def _fits(a: ModelOrName, b: ModelOrName, length: int) -> None:
    """Check that a window fits: the logits of both, as computed and in float32, and what is made of some of them."""
    for one in (a, b):
        model, size = one if isinstance(one, OlmoForCausalLM) else config_of(one), config_of(one).vocab_size
        per_token = run_bytes(model, logits=1) + 3 * 4 * size
        tokens_at_a_time(model, "next-token distributions", per_token, length, fixed=10 * 4 * min(CHUNK, length * size))


def _curves(name: str, values: Tensor, texts: Texts, of: str, tokenizer: Tokenizer | None) -> Curves:
    label, unit = NAMES[name]
    return Curves(
        values,
        [f"text {n}" for n in range(len(texts))],
        range(texts.longest),
        x_labels=token_labels(texts[0], tokenizer) if len(texts) == 1 else None,
        title=label[0].upper() + label[1:] + of,
        value_name=label,
        unit=unit,
        signed=name == "loss_difference",
        value_when_equal=WHEN_EQUAL.get(name, 0.0),
    )
