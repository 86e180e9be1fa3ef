"""How long-running analyses say how far they are, and how they are stopped.

Every analysis takes `progress`, called as `progress(fraction, text)` with a fraction from 0 to 1. To cancel, the
callback raises: whatever it raises reaches the caller of the analysis unchanged.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm.auto import tqdm

Progress = Callable[[float, str], None]
Item = TypeVar("Item")


def report(progress: Progress | None, fraction: float, text: str) -> None:
    """Call a progress callback, if there is one. All other code may pass None on without a check."""
    if progress is not None:
        progress(fraction, text)


def steps(items: Sequence[Item], progress: Progress | None, text: str) -> Iterator[Item]:
    """The items one by one. Before each item, and after the last one, the callback gets the fraction that is done."""
    for done, item in enumerate(items):
        report(progress, done / len(items), text)
        yield item
    report(progress, 1.0, text)


def part(progress: Progress | None, start: float, end: float) -> Progress | None:
    """A callback for one stage of a longer run: it maps 0…1 to `start`…`end` of the whole."""
    return None if progress is None else lambda fraction, text: progress(start + fraction * (end - start), text)


def tqdm_progress() -> Progress:
    """A callback that draws a bar, in a notebook or a terminal; it goes away at 1."""
    bar = tqdm(total=100, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}", leave=False, dynamic_ncols=True)

    def report(fraction: float, text: str) -> None:
        bar.set_description_str(text)
        bar.update(100 * fraction - bar.n)
        if fraction >= 1:
            bar.close()

    return report
