"""How fast this machine runs and loads the models of a series, estimated from the runs and loads so far."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from workbench.analyses.support.cost import SPEED, Work

OPERATIONS = (1e10, 1e10 / SPEED)  # floating-point operations, and the seconds that they are assumed to take at first
BYTES = (1e8, 0.2)  # bytes of checkpoint files, and the seconds that loading them is assumed to take at first
MEMORY = 5.0
"""Decay of older measurements, in multiples of the first guess's amount: after runs of that amount, earlier
measurements have the weight 1/e.
"""


class Rate:
    """An amount per second: the quotient of sums over the measured intervals, in which later intervals weigh more."""

    def __init__(self, amount: float, seconds: float) -> None:
        self._amount, self._seconds, self._memory = amount, seconds, MEMORY * amount
        self._lock = threading.Lock()

    def measured(self, amount: float, seconds: float) -> None:
        """Count one more interval. A short one changes little, because it may consist of overhead."""
        with self._lock:
            keep = math.exp(-amount / self._memory)
            self._amount, self._seconds = keep * self._amount + amount, keep * self._seconds + seconds

    def seconds(self, amount: float) -> float:
        """The time that an amount will take."""
        return amount * self._seconds / self._amount


class Speed:
    """The speed of one series: `runs` in floating-point operations, `loads` in bytes of checkpoint files."""

    def __init__(self) -> None:
        self.runs, self.loads = Rate(*OPERATIONS), Rate(*BYTES)

    @contextmanager
    def timed(self, work: Work) -> Iterator[None]:
        """Measure the speed of runs on a block that does this work."""
        began = time.monotonic()
        yield
        self.runs.measured(work.flops, time.monotonic() - began)

    def seconds(self, work: Work) -> tuple[float, float]:
        """The time that work takes, expected and in the worst case."""
        load = self.loads.seconds(work.read)
        return load + self.runs.seconds(work.flops), load + self.runs.seconds(work.at_most)
