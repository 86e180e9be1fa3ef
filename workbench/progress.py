"""Progress and cancellation of long-running analyses.

Every analysis takes a callback `progress`, called as `progress(fraction, text)` with a fraction from 0 to 1. To cancel
the analysis, raise an exception in the callback: it reaches the caller of the analysis unchanged. To cancel it between
two blocks of the model as well, run it in a block of `hooks.stoppable`, whose check is also called with each report.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm.auto import tqdm

from hooks.stopping import check_stop

Progress = Callable[[float, str], None]
Item = TypeVar("Item")


def report(progress: Progress | None, fraction: float, text: str) -> None:
    """Call a progress callback, if it is not None, and the check of an open `hooks.stoppable` block."""
    check_stop()
    if progress is not None:
        progress(fraction, text)


def steps(items: Sequence[Item], progress: Progress | None, text: str) -> Iterator[Item]:
    """Yield the items; before each item and after the last one, call the callback with the fraction that is done."""
    for done, item in enumerate(items):
        report(progress, done / len(items), text)
        yield item
    report(progress, 1.0, text)


def part(progress: Progress | None, start: float, end: float) -> Progress | None:
    """A callback for one stage of a longer run: it maps the fractions 0…1 to `start`…`end`. None stays None."""
    return None if progress is None else lambda fraction, text: progress(start + fraction * (end - start), text)


def tqdm_progress() -> Progress:
    """A callback that draws a progress bar in a notebook or a terminal, and removes it at fraction 1."""
    bar = tqdm(total=100, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}", leave=False, dynamic_ncols=True)

    def report(fraction: float, text: str) -> None:
        bar.set_description_str(text)
        bar.update(100 * fraction - bar.n)
        if fraction >= 1:
            bar.close()

    return report
