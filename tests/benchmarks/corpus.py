"""Measures the index of the training text: `python -m tests.benchmarks.corpus`. The index has to be built.

Medians over queries at random places of the text; the longest of the frequent contexts.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from workbench import corpus

from .timing import show

QUERIES = 300
LONG = 500
ROWS = 100  # of those whose influence is measured
CONTEXT = 20  # tokens of the prediction


def milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def measure() -> Iterator[tuple[str, str, str]]:
    """The rows of the table, as they are measured."""
    yield "index of the training text", "at most", "measured"
    yield "opening", "1 s", f"{milliseconds(lambda: corpus.open('tiny-olmo')):.1f} ms"
    text, rng = corpus.open("tiny-olmo"), np.random.default_rng(0)
    starts = rng.integers(0, len(text.tokens) - LONG, QUERIES)
    pieces = [text.tokens[at : at + size] for at, size in zip(starts, rng.integers(1, 8, QUERIES), strict=True)]
    yield (
        "count of an n-gram",
        "1 ms",
        f"{statistics.median(milliseconds(lambda p=p: text.count(p)) for p in pieces):.3f} ms",
    )
    follow = [milliseconds(lambda p=p: text.continuations(p)) for p in pieces]
    yield "continuations of a context", "5 ms", f"{statistics.median(follow):.3f} ms"
    frequent = [int(token) for token in np.argsort(text.followers([]))[-20:] if token != text.end]
    slow = [milliseconds(lambda t=t: text.continuations([t])) for t in frequent]
    yield "continuations of the most frequent tokens", "5 ms", f"{statistics.median(slow):.2f} ms"
    long = [text.tokens[at : at + LONG] for at in starts[:10]]
    yield (
        "verbatim spans, 500 tokens",
        "300 ms",
        f"{statistics.median(milliseconds(lambda p=p: text.spans(p)) for p in long):.1f} ms",
    )
    rows = corpus.random_rows("tiny-olmo", ROWS)
    prediction = torch.from_numpy(text.document(int(starts[0])).ids[:CONTEXT])
    corpus.influence("tiny-olmo", prediction, rows[:2])  # warm
    began = time.process_time()
    taken = milliseconds(lambda: corpus.influence("tiny-olmo", prediction, rows)) / 1000
    processor = time.process_time() - began
    yield f"influence on {ROWS} rows, 5 checkpoints", "6 s", f"{taken:.1f} s ({processor:.1f} s of processor time)"


if __name__ == "__main__":
    show(measure())
