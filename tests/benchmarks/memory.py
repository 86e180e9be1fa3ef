"""Memory of captures and edits: the peak of a process that builds a model and makes one call."""

import json
from collections.abc import Iterator

import psutil
import torch

from hooks import OlmoForCausalLM

from . import model
from .timing import in_own_process, peak_bytes

LIMIT = 1.1
THEIRS = "transformers' forward"
STREAMED = "streamed statistics of all heads"
WHAT = (
    "forward without taps", THEIRS, "last query row of every head and layer", STREAMED, "one layer's patterns",
    "every layer's patterns",
)  # fmt: skip


def peaks(family: str, length: int, threads: int) -> Iterator[tuple[str, ...]]:
    """Peak memory of a process, and the part of it that the call added."""
    yield f"peak memory, {length} tokens", "MB of the process", "at most", "of the plain forward's", "MB of the call"
    arguments = ["--family", family, "--tokens", str(length), "--threads", str(threads), "--measure", "peak"]
    plain = None
    for what in WHAT:
        added, peak = json.loads(in_own_process([*arguments, "--what", what]))
        plain = plain or peak
        limit = f"{LIMIT:.2f} ×" if what == STREAMED else ""
        yield what, f"{peak / 1e6:.0f}", limit, f"{peak / plain:.2f} ×", f"{added / 1e6:.0f}"


@torch.no_grad()
def peak(family: str, length: int, what: str) -> tuple[int, int]:
    """Bytes that one call adds to the memory of this process, and the peak so far."""
    config_class, their_class = model.FAMILIES[family]
    ids = model.some_tokens(1, length)
    built = (their_class if what == THEIRS else OlmoForCausalLM)(config_class(**model.SIZES)).eval()
    before = psutil.Process().memory_info().rss
    if what == THEIRS:
        built(ids, use_cache=False)
    else:
        model.LOOKING[what].call(built, ids)
    return peak_bytes() - before, peak_bytes()
