"""Faster imports: no garbage collection during imports, and no later collection of the imported objects."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """A block without garbage collection, for imports.

    torch, transformers and gradio create about a million objects, none of which is garbage. Garbage collection would
    take a quarter of their import time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def to_stay() -> None:
    """Exempt all current objects from garbage collection, which makes later collections faster."""
    gc.freeze()
