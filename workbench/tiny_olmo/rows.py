"""Rows of training tokens: natural text, and rows in which a span comes again after random gaps.

What a step trains on is a function of (stage, corpus, seed, step) alone, so a run can stop and go on anywhere.
"""

from dataclasses import dataclass

import numpy as np

ENGLISH_SHARE = 0.8
SPAN = (6, 40)  # tokens, both ends included
GAP = (0, 20)
FIRST_MERGE = 258  # ids below are the special tokens and the 256 bytes
KEPT_OUT = 256


@dataclass(frozen=True)
class Stage:
    """What the steps before `until` train on: `rows` rows of `length` tokens, `repeats` of them with a repeated
    span in natural text and `random` with one in random tokens. `repeats` and `random` may be fractions: so many
    on average."""

    until: int
    length: int
    rows: int
    repeats: float
    random: float


@dataclass(frozen=True)
class TrainingTokens:
    """Training tokens with what rows need to know of them.

    `clean[source][i]` is how many tokens from position i on hold none of the `kept_out` ids.
    """

    tokens: dict[str, np.ndarray]
    clean: dict[str, np.ndarray]
    kept_out: np.ndarray
    random_ids: np.ndarray


def kept_out_ids(vocab: int, count: int = KEPT_OUT) -> np.ndarray:
    """Token ids that no repeated span of the training rows holds, so that induction can be measured on them.

    They come from the rarer half of the merges: ordinary tokens, seen in natural text, and few spans are lost.
    """
    candidates = np.arange((vocab + FIRST_MERGE) // 2, vocab)
    return np.sort(np.random.default_rng(0).choice(candidates, size=count, replace=False))


def run_lengths(is_clean: np.ndarray) -> np.ndarray:
    """For each position, how many True follow in a row, itself included."""
    positions = np.arange(len(is_clean))
    stops = np.where(is_clean, len(is_clean), positions)
    return np.minimum.accumulate(stops[::-1])[::-1] - positions


def make_source(tokens: dict[str, np.ndarray], vocab: int, kept_out: np.ndarray) -> TrainingTokens:
    """Prepare token arrays for drawing rows."""
    clean = {name: run_lengths(~np.isin(ids, kept_out)) for name, ids in tokens.items()}
    random_ids = np.setdiff1d(np.arange(FIRST_MERGE, vocab), kept_out)
    return TrainingTokens(tokens, clean, kept_out, random_ids)


def draw_source(source: TrainingTokens, rng: np.random.Generator) -> str:
    """`english` or `code`, English more often than its share of the tokens."""
    return "english" if "code" not in source.tokens or rng.random() < ENGLISH_SHARE else "code"


def natural_row(source: TrainingTokens, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` tokens of text from a random place."""
    ids = source.tokens[draw_source(source, rng)]
    start = rng.integers(len(ids) - length + 1)
    return ids[start : start + length]


def natural_span(source: TrainingTokens, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` tokens of text from a random place, none of them kept out."""
    while True:
        name = draw_source(source, rng)
        start = rng.integers(len(source.tokens[name]) - length + 1)
        if source.clean[name][start] >= length:
            return source.tokens[name][start : start + length]


def repeat_row(source: TrainingTokens, length: int, rng: np.random.Generator, random_tokens: bool) -> np.ndarray:
    """A row that holds one span again and again, a new random gap before each copy, until it is full.

    The gaps are random tokens or natural text, as the span is.
    """

    def gap() -> np.ndarray:
        size = int(rng.integers(GAP[0], GAP[1] + 1))
        return rng.choice(source.random_ids, size) if random_tokens else natural_row(source, size, rng)

    size = int(rng.integers(SPAN[0], SPAN[1] + 1))
    span = rng.choice(source.random_ids, size) if random_tokens else natural_span(source, size, rng)
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < length:
        pieces += [gap(), span]
    return np.concatenate(pieces)[:length]


def whole_number(mean: float, rng: np.random.Generator) -> int:
    """An integer next to `mean`, which is its expectation."""
    return int(mean) + int(rng.random() < mean % 1)


def batch(stage: Stage, source: TrainingTokens, seed: tuple[int, int], step: int) -> np.ndarray:
    """The rows of one step, one token longer than the stage's rows for the targets.  # row pos

    seed: the run's seed and the number of its data order.
    """
    rng = np.random.default_rng([*seed, step])
    length = stage.length + 1
    repeats, random = whole_number(stage.repeats, rng), whole_number(stage.random, rng)
    rows = [repeat_row(source, length, rng, random_tokens=False) for _ in range(repeats)]
    rows += [repeat_row(source, length, rng, random_tokens=True) for _ in range(random)]
    rows += [natural_row(source, length, rng) for _ in range(stage.rows - repeats - random)]
    return np.stack(rows).astype(np.int64)
