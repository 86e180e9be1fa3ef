"""Probes: held-out rows of tokens for measuring checkpoints of tiny-olmo."""

from dataclasses import dataclass

import numpy as np

from workbench.tiny_olmo.rows import TrainingTokens, natural_row

LENGTH = 128
LONG_LENGTH = 2048
GAP = (0, 32)  # tokens before the first copy and between the copies, both ends included; wider than in training
RANDOM_SPAN = 20
TEXT_SPAN = 32


@dataclass(frozen=True)
class Repeats:
    """Rows with two copies of a span; each row has its own span.

    Attributes:
        rows: token ids, row pos.
        first, second: start position of the two copies in each row.
        span: number of tokens of a span.
    """

    rows: np.ndarray  # row pos
    first: np.ndarray  # row
    second: np.ndarray  # row
    span: int


@dataclass(frozen=True)
class Probes:
    """Natural text, and rows with two copies of a span.

    All text is held out of training. No repeated span in the training rows has a token of the random spans.

    Attributes:
        natural: rows of text by source, row pos.
        random: repeated spans of random tokens.
        text: repeated spans of text.
    """

    natural: dict[str, np.ndarray]  # row pos
    random: Repeats
    text: Repeats


def repeats_of(spans: list[np.ndarray], fillers: list[np.ndarray], rng: np.random.Generator) -> Repeats:
    """Rows of filler, span, filler, span, filler; the lengths of the first two fillers are random."""
    span = len(spans[0])
    first = rng.integers(GAP[0], GAP[1] + 1, size=len(spans))
    second = first + span + rng.integers(GAP[0], GAP[1] + 1, size=len(spans))
    rows = np.stack(fillers)
    for row, tokens, starts in zip(rows, spans, zip(first, second, strict=True), strict=True):
        for start in starts:
            row[start : start + span] = tokens
    return Repeats(rows, first, second, span)


def natural_rows(ids: np.ndarray, length: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of text from random positions of one token array: row pos."""
    starts = rng.integers(len(ids) - length + 1, size=rows)
    return ids[starts[:, None] + np.arange(length)]


def make_probes(held_out: TrainingTokens, rows: int = 32, seed: int = 0) -> Probes:
    """Probes with `rows` rows each, from held-out tokens.

    A random span has no token twice and no token in common with its filler. The position "after the first copy of this
    token" is therefore unique.
    """
    rng = np.random.default_rng(seed)
    natural = {name: natural_rows(ids, LENGTH, rows, rng) for name, ids in held_out.tokens.items()}
    random_length, text_length = (2 * (span + GAP[1]) for span in (RANDOM_SPAN, TEXT_SPAN))
    draws = [rng.permutation(held_out.kept_out) for _ in range(rows)]
    spans = [draw[:RANDOM_SPAN] for draw in draws]
    fillers = [rng.choice(draw[RANDOM_SPAN:], random_length) for draw in draws]
    random = repeats_of(spans, fillers, rng)
    spans = [natural_row(held_out, TEXT_SPAN, rng) for _ in range(rows)]
    fillers = [natural_row(held_out, text_length, rng) for _ in range(rows)]
    return Probes(natural, random, repeats_of(spans, fillers, rng))
