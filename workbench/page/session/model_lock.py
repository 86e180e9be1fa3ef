"""The lock that allows one model run at a time."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from hooks.stopping import check_stop
from workbench.errors import WorkbenchError

PATIENCE = 120.0  # seconds to wait for the model's lock before an error is shown


class ModelLock:
    """The lock that allows one model run at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[None] = deque()  # an item for each request that waits; safe between threads

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Errors: WorkbenchError after `PATIENCE` seconds, and what the check of an open `hooks.stoppable` block raises.
        """
        self._waiting.append(None)
        until = time.monotonic() + PATIENCE
        try:
            while not self._lock.acquire(timeout=min(0.25, PATIENCE)):
                check_stop()
                if time.monotonic() >= until:
                    raise WorkbenchError(f"busy: {len(self._waiting) - 1} requests before yours; try again in a moment")
        finally:
            self._waiting.pop()
        try:
            yield
        finally:
            self._lock.release()

    def give_way(self) -> float:
        """Release the lock for a moment if other requests wait for it; returns the seconds until it is held again.

        A long run calls this between two steps.
        """
        began = time.monotonic()
        if self._waiting:
            self._lock.release()
            time.sleep(0.002)
            self._lock.acquire()
        return time.monotonic() - began
