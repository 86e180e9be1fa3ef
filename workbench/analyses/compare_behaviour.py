"""Differences between the predictions of two checkpoints, token by token."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.products import fast_products
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.means import means_over_texts
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import CHUNK
from workbench.analyses.support.two_models import ModelOrName, config_of, pair_name, paired_pieces, reader
from workbench.analyses.support.undefined import refuse_undefined
from workbench.errors import WorkbenchError
from workbench.progress import Progress
from workbench.results import Curves, Measures, Scores
from workbench.texts import Batch, Texts, TextsLike, as_texts
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
MEANS = {name: words for name, (words, _) in NAMES.items()} | {
    "flip": "share of positions with another likeliest token"
}
"""The names of the means in words."""
BEHAVIOUR_WHEN_EQUAL = {"overlap": 1.0, "loss_a": math.nan, "loss_b": math.nan}


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
    """How the predictions of A and B differ at each token of a text.

    Returns Curves over positions, one line for each text. With a and b the next-token distributions of A and B:

    - `loss_difference`: −log p of the token in B minus that in A; `loss_a` and `loss_b` are the two losses (nats).
    - `kl`: Σ a log(a/b), and `kl_reverse`: Σ b log(b/a) (nats).
    - `js`: the Jensen–Shannon divergence, ½ KL(a‖m) + ½ KL(b‖m) with m = (a + b) / 2 (nats, at most log 2; Lin 1991).
    - `overlap`: the share of the `top` likeliest tokens that A and B have in common (0 to 1).
    - `flip`: 1 where the likeliest token differs, otherwise 0.

    The value at a position is about the prediction of the token *at* that position. It is undefined (NaN) at the first
    position, and after the end of a text that is shorter than others.

    Texts longer than `window` (or than the context length of either model) are read in windows that overlap by one
    token. A and B may be models, entries of a series or ids; checkpoints that are not in memory are loaded one after
    the other.

    Errors: WorkbenchError if the vocabularies of the two differ in size, or if `window` or `top` is out of range.
    """
    texts = texts_for(config_of(a), tokens, at_least=2)
    if window < 2:
        raise WorkbenchError(f"window={window}; a window needs at least 2 tokens")

    windows = _all_windows(a, b, texts, window)
    pieces, batches = _batches(a, b, texts, windows)

    def predicted(rows: list[int], ids: Tensor) -> Tensor:  # the places of a batch that have a next token: text pos-1
        return pieces.mask[rows, 1 : ids.shape[1]]

    def logits(model: OlmoForCausalLM) -> Iterator[Tensor]:
        for rows, ids in batches:
            with fast_products():
                logits = model.run(ids.to(model.device)).logits
            yield logits[:, :-1][predicted(rows, ids)]  # token vocab

    found = {name: torch.full(texts.ids.shape, float("nan")) for name in NAMES}
    pairs = paired_pieces(a, b, logits, len(batches), progress)
    for (rows, ids), (one, other) in zip(batches, pairs, strict=True):
        differences = _differences(one, other, ids[:, 1:][predicted(rows, ids)], top)
        lengths = [windows[row][2] - windows[row][1] - 1 for row in rows]
        for name, values in differences.items():
            for row, part in zip(rows, values.split(lengths), strict=True):
                text, start, stop = windows[row]
                found[name][text, start + 1 : stop] = part
    _refuse_undefined(found, texts)
    title = pair_name(a, b)
    return Measures(**{name: _curves(name, values, texts, title, tokenizer) for name, values in found.items()})


def _refuse_undefined(found: Mapping[str, Tensor], texts: Texts) -> None:
    """Raise WorkbenchError, with the texts, for a loss of A or B that is not a number. found: text pos each."""
    for name, of in (("loss_a", "A"), ("loss_b", "B")):
        refuse_undefined(found[name].where(texts.mask.cpu(), 0)[:, 1:], f"loss in {of}", texts)


def behaviour_summary(measures: Measures, *, unit: str | None = None, in_words: bool = False) -> Scores:
    """The mean over all tokens of each measure of `compare_behaviour`, as Scores with standard errors over texts.

    `unit` chooses the measures of one unit, which a plot can show on one axis: "nats", or "" for shares between 0 and
    1; None takes all. With `in_words` the means are named in words ("loss of A"), otherwise as the measures ("loss_a").

    Errors: WorkbenchError for a unit that no measure has.
    """
    units = dict.fromkeys(measure.unit for measure in measures.values())
    if unit is not None and unit not in units:
        raise WorkbenchError(f"unit={unit!r}; choices: {', '.join(map(repr, units))}")
    measures = Measures(**{name: each for name, each in measures.items() if unit in (None, each.unit)})
    found = np.stack([measure.values for measure in measures.values()], axis=-1)  # text pos measure
    means = means_over_texts(np.nansum(found.astype(np.float64), axis=1), (~np.isnan(found)).sum(1))
    return Scores(
        means.values,
        [MEANS[name] if in_words else name for name in measures],
        title="Mean over tokens",
        value_name="mean",
        unit=unit or "",
        signed=True,
        value_when_equal=[measure.value_when_equal for measure in measures.values()],
        errors=means.errors,
        texts=means.texts,
    )


def divergences(log_a: Tensor, log_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL(a ‖ b), KL(b ‖ a) and JS(a, b) in nats, from log-probabilities: … vocab -> … each."""
    a, b = log_a.exp(), log_b.exp()
    log_mean = torch.logaddexp(log_a, log_b) - math.log(2)
    js = ((a * (log_a - log_mean)).sum(-1) + (b * (log_b - log_mean)).sum(-1)) / 2
    kl, reverse = (a * (log_a - log_b)).sum(-1), (b * (log_b - log_a)).sum(-1)
    return kl.clamp_min(0), reverse.clamp_min(0), js.clamp_min(0)


def _differences(a: Tensor, b: Tensor, targets: Tensor, top: int) -> dict[str, Tensor]:
    """All measures of `NAMES`, from the logits (pos vocab) of A and B, computed in chunks of positions: pos each."""
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


def _all_windows(a: ModelOrName, b: ModelOrName, texts: Texts, window: int) -> list[tuple[int, int, int]]:
    """The windows of all texts (text, start, stop), within the context length of both models."""
    longest = min(window, *(config_of(subject).max_position_embeddings for subject in (a, b)))
    return [(text, *ends) for text, length in enumerate(texts.lengths) for ends in _windows(length, longest)]


def _windows(length: int, window: int) -> list[tuple[int, int]]:
    """Windows (start, stop) that overlap by one token. Each window predicts all its tokens except the first, so each
    token of the text except the first is predicted exactly once.
    """
    return [(start, min(start + window, length)) for start in range(0, length - 1, window - 1)]


@work_of(compare_behaviour)
def _work(a: ModelOrName, b: ModelOrName, tokens: TextsLike, *, window: int = 2048, **_: object) -> Work:
    texts = texts_for(config_of(a), tokens, at_least=2)
    batches = _batches(a, b, texts, _all_windows(a, b, texts, window))[1]
    sizes = [ids.numel() for _, ids in batches]
    flops = sum(pass_flops(reader(one), sum(sizes), logits=sum(sizes)) for one in (a, b))
    return Work(flops, nbytes=max(fixed + per_token * max(sizes) for per_token, fixed in _bytes(a, b, max(sizes))))


def _batches(
    a: ModelOrName, b: ModelOrName, texts: Texts, windows: Sequence[tuple[int, int, int]]
) -> tuple[Texts, list[Batch]]:
    """The windows as texts, on the CPU, and their batches."""
    ids = texts.ids.cpu()
    found = as_texts([ids[text, start:stop] for text, start, stop in windows])
    sizes = zip((a, b), _bytes(a, b, found.tokens), strict=True)
    return found, found.padded_batches(
        min(
            tokens_at_a_time(reader(one), "next-token distributions", per_token, found.longest, fixed=fixed)
            for one, (per_token, fixed) in sizes
        )
    )


def _bytes(a: ModelOrName, b: ModelOrName, tokens: int) -> list[tuple[float, float]]:
    """Of each model, bytes for each token of a batch: its logits and float32 copies; and those of one chunk, of at most
    `tokens` tokens."""
    sizes = [(reader(one), config_of(one).vocab_size) for one in (a, b)]
    return [
        (run_bytes(model, logits=1) + 3 * 4 * size, 10 * 4 * min(max(CHUNK, size), tokens * size))
        for model, size in sizes
    ]


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
        value_when_equal=BEHAVIOUR_WHEN_EQUAL.get(name, 0.0),
    )
