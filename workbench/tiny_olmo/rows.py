"""Rows of training tokens: natural text, and rows that repeat a span after random gaps.

The rows of a step depend only on (stage, corpus, seed, step), so a run can stop and resume at any step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

ENGLISH_SHARE = 0.8
SPAN = (6, 40)  # tokens, both ends included
GAP = (0, 20)
FIRST_MERGE = 258  # smaller ids are the special tokens and the 256 bytes
KEPT_OUT = 256


@dataclass(frozen=True)
class Stage:
    """The training rows of the steps before `until`.

    Attributes:
        until: first step of the next stage.
        length: tokens in a row.
        rows: rows in a step.
        repeats: rows among them that repeat a span of natural text; a fraction is an average over steps.
        random: rows among them that repeat a span of random tokens; a fraction is an average over steps.
    """

    until: int
    length: int
    rows: int
    repeats: float
    random: float


@dataclass(frozen=True)
class TrainingTokens:
    """Token arrays, prepared for drawing rows.

    Attributes:
        tokens: token ids by source.
        clean: by source, for each position, the number of tokens from there to the next `kept_out` id or the end.
        kept_out: ids that no repeated span contains; see `kept_out_ids`.
        random_ids: ids for random spans and gaps: all merges that are not kept out.
    """

    tokens: dict[str, np.ndarray]
    clean: dict[str, np.ndarray]
    kept_out: np.ndarray
    random_ids: np.ndarray


def kept_out_ids(vocab: int, count: int = KEPT_OUT) -> np.ndarray:
    """Token ids that no repeated span of the training rows contains; induction is measured on them.

    They are drawn from the rarer half of the merges, so that few natural spans are lost. They still occur in natural
    training text.
    """
    candidates = np.arange((vocab + FIRST_MERGE) // 2, vocab)
    return np.sort(np.random.default_rng(0).choice(candidates, size=count, replace=False))


def run_lengths(is_clean: np.ndarray) -> np.ndarray:
    """For each position, the number of consecutive True values from this position on."""
    positions = np.arange(len(is_clean))
    stops = np.where(is_clean, len(is_clean), positions)
    return np.minimum.accumulate(stops[::-1])[::-1] - positions


def make_source(
    tokens: dict[str, np.ndarray],
    vocab: int,
    kept_out: np.ndarray,
    hidden: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> TrainingTokens:
    """Token arrays by source, prepared for drawing rows.

    `hidden` has further positions by source that count as kept out, independently of their tokens.
    """
    clean = {}
    for name, ids in tokens.items():
        is_clean = ~np.isin(ids, kept_out)
        is_clean[hidden.get(name, [])] = False
        clean[name] = run_lengths(is_clean)
    random_ids = np.setdiff1d(np.arange(FIRST_MERGE, vocab), kept_out)
    return TrainingTokens(tokens, clean, kept_out, random_ids)


def draw_source(source: TrainingTokens, rng: np.random.Generator) -> str:
    """A random source: `english` with probability `ENGLISH_SHARE`, else `code`; `english` if there is no code."""
    return "english" if "code" not in source.tokens or rng.random() < ENGLISH_SHARE else "code"


def natural_row(source: TrainingTokens, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` tokens of text from a random position."""
    ids = source.tokens[draw_source(source, rng)]
    start = rng.integers(len(ids) - length + 1)
    return ids[start : start + length]


def natural_span(source: TrainingTokens, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` tokens of text from a random position, without kept-out ids."""
    while True:
        name = draw_source(source, rng)
        start = rng.integers(len(source.tokens[name]) - length + 1)
        if source.clean[name][start] >= length:
            return source.tokens[name][start : start + length]


def repeat_row(source: TrainingTokens, length: int, rng: np.random.Generator, random_tokens: bool) -> np.ndarray:
    """A row filled with copies of one span, with a new random gap before each copy.

    Span and gaps are random tokens if `random_tokens`, else natural text.
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
    """`mean` randomly rounded down or up to an integer, with expectation `mean`."""
    return int(mean) + int(rng.random() < mean % 1)


def batch(stage: Stage, source: TrainingTokens, seed: tuple[int, int], step: int) -> np.ndarray:
    """The rows of one step: row pos, with one token more than the stage's length, for the targets.

    `seed` is the seed of the run and the number of its data order.
    """
    rng = np.random.default_rng([*seed, step])
    length = stage.length + 1
    repeats, random = _repeats(stage, rng)
    rows = [repeat_row(source, length, rng, random_tokens=False) for _ in range(repeats)]
    rows += [repeat_row(source, length, rng, random_tokens=True) for _ in range(random)]
    rows += [natural_row(source, length, rng) for _ in range(stage.rows - repeats - random)]
    return np.stack(rows).astype(np.int64)


def repeats_in(stage: Stage, seed: tuple[int, int], step: int) -> tuple[int, int]:
    """How many rows of a step repeat a span of natural text, and how many one of random tokens.

    They are the first rows of the step, in this order.
    """
    return _repeats(stage, np.random.default_rng([*seed, step]))


def _repeats(stage: Stage, rng: np.random.Generator) -> tuple[int, int]:
    return whole_number(stage.repeats, rng), whole_number(stage.random, rng)
