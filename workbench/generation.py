"""Text generation token by token, with the model's predictions at each position.

`stream` is a generator: each `next` computes one token, and closing the generator ends the computation. `generate` runs
it to the end and returns a labelled result.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import DynamicCache

from hooks import Edit, OlmoForCausalLM
from hooks.products import fast_products
from workbench.analyses.support.arguments import one_text, texts_for
from workbench.analyses.support.cost import ALONE, Work, pass_flops, planned, work_of
from workbench.analyses.support.direction import Direction
from workbench.analyses.support.memory import run_bytes
from workbench.analyses.support.next_tokens import CHUNK, next_token_statistics
from workbench.errors import WorkbenchError
from workbench.progress import Progress, report, steps
from workbench.results import Curves, Grid, Labelled, Values, check_shape, count, frozen_array, labels
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels, vocabulary_labels

ALTERNATIVES = 10  # kept for each token


@dataclass(frozen=True)
class Step:
    """One token of a text, and the model's prediction at its position.

    Probabilities are those of the model's unmodified distribution; temperature, top-k and top-p affect only the draw.

    Attributes:
        id: token id.
        log_probability: log probability of the token in nats, at most 0.
        alternatives: the `ALTERNATIVES` most probable tokens as (id, probability), most probable first.
    """

    id: int
    log_probability: float
    alternatives: tuple[tuple[int, float], ...]

    @property
    def surprisal(self) -> float:
        """−log probability, in nats."""
        return -self.log_probability


@dataclass(frozen=True, eq=False, repr=False)
class Written(Labelled):
    """A text with the surprisal of each token and the most probable tokens at its position.

    The first token has no prediction: its surprisal is NaN and its `alternatives` are empty.

    Attributes:
        values: surprisal of each token in nats.
        tokens: labels of the tokens.
        ids: token ids.
        alternatives: for each position, (token, id, probability) of the most probable tokens, most probable first.
        given: number of prompt tokens at the beginning; the tokens after them were generated.
    """

    values: Values  # token
    tokens: Sequence[str]
    ids: Sequence[int]
    alternatives: Sequence[Sequence[tuple[str, int, float]]]
    given: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        values, tokens = frozen_array(self.values), labels(self.tokens)
        check_shape(values, (len(tokens),), count(tokens, "token"))
        for what in ("ids", "alternatives"):
            check_shape(np.empty(len(getattr(self, what))), values.shape, count(tokens, "token"), what=what)
        self._keep(values=values, tokens=tokens, ids=tuple(self.ids), alternatives=tuple(self.alternatives))

    @property
    def probability(self) -> np.ndarray:
        """The probability of each token given the tokens before it; NaN for the first."""
        return np.exp(-self.values)

    def curve(self) -> Curves:
        """The surprisal of each token, as one curve over the text."""
        return Curves(
            self.values[None],
            ["text"],
            range(len(self.ids)),
            x_name=f"token; the first {self.given} were given",
            x_labels=self.tokens,
            title="How surprising each token was",
            value_name=self.value_name,
            unit=self.unit,
            provenance=self.provenance,
        )

    def plot(self) -> Any:  # noqa: ANN401 - a figure of plotly
        """The plotly figure of `curve()`."""
        return self.curve().plot()

    def table(self) -> pd.DataFrame:
        """One row for each token: position, token, id, `given`, surprisal, probability, and the most probable tokens at
        its position with their ids and probabilities."""
        table = pd.DataFrame({"position": range(len(self.ids)), "token": self.tokens, "id": self.ids})
        table["given"] = table["position"] < self.given
        table["surprisal"], table["probability"] = self.values, self.probability
        for rank in range(max(map(len, self.alternatives))):
            for part, name in enumerate(("", "_id", "_probability")):
                column = [likely[rank][part] if likely else None for likely in self.alternatives]
                table[f"likeliest_{rank + 1}{name}"] = column
        return table


def generate(
    model: OlmoForCausalLM,
    tokens: Tensor,
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    edits: Sequence[Edit] = (),
    stop_at: Sequence[int] = (),
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Written:
    """Continue a text and return the surprisal of every token, including the prompt.

    The arguments are those of `stream`; `tokenizer` gives readable labels.
    """
    ids = one_text(tokens)[0].tolist()
    steps: list[Step] = []
    for step in stream(
        model,
        one_text(tokens),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        edits=edits,
        stop_at=stop_at,
        read=True,
    ):
        steps.append(step)
        report(progress, len(steps) / (len(ids) - 1 + max_new_tokens), "generating")
    return written_result(ids, steps, tokenizer)


@work_of(generate)
def _work(model: OlmoForCausalLM, tokens: Tensor, *, max_new_tokens: int = 64, **_: object) -> Work:
    given, new = one_text(tokens).shape[1], ALONE * (max_new_tokens - 1)  # the first token needs no pass of its own
    whole = run_bytes(model, logits=1) * given
    return Work(pass_flops(model, given + new, logits=given + new), nbytes=whole)


def steered_texts(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    direction: Direction,
    strengths: Sequence[float],
    *,
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    controls: int = 0,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Grid:
    """The text that the model writes after each prompt, by the strength of a steering direction; 0 is unsteered.

    Returns a Grid of prompt × strength. The cells show the new text. Their values are its mean surprisal, in nats per
    token, by the unsteered model: large where steering makes the text less fluent. The direction is added at all
    positions, those of the new tokens included. A text ends after `max_new_tokens` or at the model's end-of-text token.
    Temperature 0 takes the likeliest token; `seed` decides the draws at other temperatures.

    With `controls`, each prompt's row is followed by that number of rows of the same prompt with random directions of
    the same norm (`seed`), named "PROMPT (random 1)". They show what any change of this size does to the text.

    Errors: WorkbenchError for a negative number of controls, those of `stream`, and hooks' errors if the direction does
    not fit the model.
    """
    if controls < 0:
        raise WorkbenchError(f"controls is {controls}; it should be 0 or more")
    texts, directions = texts_for(model, tokens), [direction, *(direction.random(seed + n) for n in range(controls))]
    shape = len(texts), len(directions), len(strengths)
    values, shown = np.empty(shape), np.empty(shape, dtype=object)
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    end, between = model.config.eos_token_id, "" if tokenizer else " "
    ends = [] if end is None else [end] if isinstance(end, int) else end
    for text, which, dose in steps(list(np.ndindex(shape)), progress, "writing"):
        ids, edit = texts[text][None], directions[which].edit(strengths[dose])
        new = [step.id for step in stream(model, ids, edits=[edit], stop_at=ends, **how)]
        values[text, which, dose] = _mean_surprisal(model, ids, new)
        shown[text, which, dose] = between.join(token_labels(new, tokenizer))
    prompts = [between.join(token_labels(ids, tokenizer)) for ids in texts]
    return Grid(
        values.reshape(-1, len(strengths)),
        [f"{prompt} (random {n})" if n else prompt for prompt in prompts for n in range(len(directions))],
        [f"{strength:g}" for strength in strengths],
        row_name="prompt",
        column_name="strength",
        text=shown.reshape(-1, len(strengths)),
        title=f"Text written with {direction.made or 'a direction'}",
        value_name="surprisal to the unsteered model",
        unit="nats",
        provenance={"site": direction.site, "norm": direction.norm, **how},
    )


@work_of(steered_texts)
def _work_of_steered(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    direction: Direction,
    strengths: Sequence[float],
    *,
    max_new_tokens: int = 24,
    controls: int = 0,
    **_: object,
) -> Work:
    texts, reread = texts_for(model.config, tokens), max_new_tokens + 1  # logits for the surprisal
    each = [
        planned(generate, model, ids[None], max_new_tokens=max_new_tokens)
        + Work(pass_flops(model, len(ids) + max_new_tokens, logits=reread), nbytes=run_bytes(model, logits=4) * reread)
        for ids in texts
    ]
    return sum(each, start=Work(0)).times(len(strengths) * (controls + 1))


def _mean_surprisal(model: OlmoForCausalLM, ids: Tensor, new: Sequence[int]) -> float:
    """The mean −log p of new tokens after a prompt (1 pos), in nats."""
    targets = torch.tensor([new], device=ids.device)
    logits = model.run(torch.cat([ids, targets], 1), logits_to_keep=len(new) + 1).logits[:, :-1]
    return float(next_token_statistics(logits, targets)["loss"].mean())


def written_result(given: Sequence[int], steps: Sequence[Step], tokenizer: Tokenizer | None) -> Written:
    """The result from the prompt ids and the steps: one for each prompt token after the first, then the new tokens'."""
    ids = [*given, *(step.id for step in steps[len(given) - 1 :])]
    names = iter(vocabulary_labels([i for step in steps for i, _ in step.alternatives], tokenizer))
    return Written(
        [math.nan, *(step.surprisal for step in steps)],
        token_labels(ids, tokenizer),
        ids,
        [(), *(tuple((next(names), i, p) for i, p in step.alternatives) for step in steps)],
        given=len(given),
        title="Written text, by surprisal",
        value_name="surprisal",
        unit="nats",
    )


def stream(
    model: OlmoForCausalLM,
    tokens: Tensor,
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    edits: Sequence[Edit] = (),
    stop_at: Sequence[int] = (),
    read: bool = False,
) -> Iterator[Step]:
    """Continue a text and yield one `Step` for each new token.

    Generation stops after `max_new_tokens`, or after a token of `stop_at`, which is yielded too. The same seed gives
    the same text. Two models with the same distribution draw the same token.

    Args:
        model: the model.
        tokens: the prompt, 1 pos, not empty.
        max_new_tokens: upper limit of new tokens.
        temperature: divides the logits before the draw; 0 takes the most probable token.
        top_p: draw from the smallest set of most probable tokens with at least this total probability; 1 keeps all.
        top_k: draw from this many most probable tokens; 0 keeps all.
        seed: seed of the draws.
        edits: applied to the prompt and to every new token. Their `positions` must be integers, because a mask would
            have to grow with the text.
        stop_at: token ids that end the text.
        read: True to yield first a step for each prompt token after the first.

    Errors: WorkbenchError, raised by the call and not by the first `next`, if a setting is out of its range or the text
    would exceed the model's maximum length. While generating: WorkbenchError if logits are NaN.
    """
    check_sampling(max_new_tokens, temperature, top_p, top_k, seed)
    if tokens.ndim != 2 or tokens.shape[0] != 1 or tokens.shape[1] == 0:
        raise WorkbenchError(
            f"tokens have shape {tuple(tokens.shape)}; generation takes one text that is not empty: 1 pos"
        )
    room = model.config.max_position_embeddings - tokens.shape[1]
    if max_new_tokens > room:
        raise WorkbenchError(
            f"{max_new_tokens} new tokens do not fit: the model has room for {max(room, 0)} after this text"
        )

    def steps() -> Iterator[Step]:
        chance, ends = torch.Generator().manual_seed(seed), frozenset(stop_at)
        cache = DynamicCache(config=model.config)

        def predicted(ids: Tensor, keep: int = 1) -> Tensor:
            """The last `keep` logits after ids (1 pos) that follow those in the cache, 0 for all: pos vocab."""
            with fast_products():  # for one pass: what the caller of `next` computes in between is not affected
                run = model.run(ids, past_key_values=cache, edits=tuple(edits), logits_to_keep=keep)
            return run.logits[0]

        logits = predicted(tokens, 0 if read else 1)
        if read:
            yield from _known_steps(logits[:-1], tokens[0, 1:])
        for left in reversed(range(max_new_tokens)):
            log_p = logits[-1].float().cpu().log_softmax(-1)  # vocab
            if log_p.isnan().any():
                raise WorkbenchError("the model's predictions are NaN; an edit may be too strong")
            chosen = torch.tensor([draw(log_p, temperature, top_p, top_k, chance)])
            yield from _expected(log_p[None], chosen)
            if left and chosen.item() not in ends:
                logits = predicted(chosen[None].to(tokens.device))
            else:
                return

    return steps()


def _known_steps(logits: Tensor, ids: Tensor) -> Iterator[Step]:
    """The steps of known tokens (pos) from the logits that predict them (pos vocab), in chunks of positions."""
    size = max(1, CHUNK // logits.shape[-1])
    for some, known in zip(logits.split(size), ids.split(size), strict=True):
        yield from _expected(some.float().log_softmax(-1), known.to(some.device))


def _expected(log_p: Tensor, ids: Tensor) -> Iterator[Step]:
    """The steps of tokens (pos) from the log probabilities that predict them (pos vocab)."""
    own = log_p.gather(-1, ids[:, None])[:, 0].tolist()
    likely = log_p.topk(min(ALTERNATIVES, log_p.shape[-1]))
    numbers = (ids.tolist(), own, likely.indices.tolist(), likely.values.exp().tolist())
    for token, log_probability, others, probabilities in zip(*numbers, strict=True):
        yield Step(token, log_probability, tuple(zip(others, probabilities, strict=True)))


def draw(log_p: Tensor, temperature: float, top_p: float, top_k: int, chance: torch.Generator) -> int:
    """Draw one token id from log probabilities (vocab).

    Temperature is applied first, then top-k, then top-p: the smallest set of most probable tokens with at least the
    probability `top_p`.
    """
    if temperature == 0:
        return int(log_p.argmax())
    log_p = (log_p / temperature).log_softmax(-1)
    if 0 < top_k < len(log_p):
        log_p = log_p.where(log_p >= log_p.topk(top_k).values[-1], -math.inf).log_softmax(-1)
    if top_p < 1:
        ordered = log_p.exp().sort(descending=True)
        before = ordered.values.cumsum(-1) - ordered.values  # total probability of the more probable tokens
        log_p[ordered.indices[before >= top_p]] = -math.inf
    return int(torch.multinomial(log_p.exp(), 1, generator=chance))


LIMITS = {  # of the settings of a draw: lowest, highest, whether whole
    "max_new_tokens": (1, 2**31, True),
    "temperature": (0, 100, False),
    "top_p": (1e-6, 1, False),
    "top_k": (0, 2**31, True),
    "seed": (0, 2**63 - 1, True),
}


def check_sampling(max_new_tokens: int, temperature: float, top_p: float, top_k: int, seed: int) -> None:
    """Check the settings of a draw. Errors: WorkbenchError that names the first setting out of its range, or NaN."""
    given = (max_new_tokens, temperature, top_p, top_k, seed)
    for (name, (low, high, whole)), value in zip(LIMITS.items(), given, strict=True):
        check_setting(name, value, low, high, whole)


def check_setting(name: str, value: object, low: float, high: float, whole: bool) -> None:
    """Check one setting. Errors: WorkbenchError with its name if it is no number, NaN, out of range or not whole."""
    is_valid = isinstance(value, int | float) and low <= value <= high and (not whole or value == int(value))
    if not is_valid:
        said = "empty" if value is None else value
        raise WorkbenchError(
            f"{name} is {said}; it should be a {'whole ' if whole else ''}number from {low:g} to {high:,}"
        )
