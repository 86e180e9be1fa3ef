"""Imports that take less time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without garbage collection.

    torch, transformers and gradio make some million objects, and none of them is garbage: looking for it takes a
    quarter of the time that importing them takes.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def to_stay() -> None:
    """What there is stays for good, so it is not looked through again and again while people wait."""
    gc.freeze()
