"""A faster start: no garbage collection during imports, and no later collection of the imported objects."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """A block without garbage collection, for imports and for what is built once, such as the page.

    torch, transformers and gradio create about a million objects, none of which is garbage. Garbage collection would
    take a quarter of their import time, and twice as long as building the page itself.
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
