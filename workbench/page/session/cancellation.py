"""Cancellation: what a page asked for before Stop was pressed, or before the page was closed, ends at its next step.

The server marks each request with the time at which it arrives. The work for a request holds a `CancellationToken` of
that time, and so does all work that follows from it. Stop cancels all tokens of its page up to its own time, including
tokens that are made later for a request that arrived earlier.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import Request

from workbench.errors import WorkbenchError

STOPPED = "stopped"
ARRIVED = "arrived"  # key in a request's ASGI scope: nanoseconds of the monotonic clock
REMEMBERED_STOPS = 1024  # pages whose last Stop is remembered; it matters only to work that has already begun


class Stopped(WorkbenchError):
    """Raised in work that was cancelled."""


@dataclass(frozen=True)
class CancellationToken:
    """Cancellation token of one request. All compare equal, so swapping one does not trigger Gradio's change event."""

    cancelled: Callable[[], bool] = field(default=lambda: False, compare=False)

    def check(self) -> None:
        """Raise Stopped if it is cancelled."""
        if self.cancelled():
            raise Stopped(STOPPED)


class Cancellations:
    """The cancellation tokens of all pages, by Gradio's session hash.

    All that it keeps is the time of each page's last Stop.
    """

    def __init__(self) -> None:
        self._stops: OrderedDict[str | None, int] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._stops)

    def token(self, page: str | None, arrived: int | None = None) -> CancellationToken:
        """A token for a request of a page that arrived at a time, now by default: the page's next Stop cancels it."""
        arrived = time.monotonic_ns() if arrived is None else arrived
        return CancellationToken(lambda: self._stops.get(page, -1) >= arrived)

    def stop(self, page: str | None, until: int | None = None) -> None:
        """Cancel all requests of a page that arrived up to a time, now by default."""
        with self._lock:
            self._stops[page] = max(self._stops.get(page, -1), time.monotonic_ns() if until is None else until)
            self._stops.move_to_end(page)
            while len(self._stops) > REMEMBERED_STOPS:
                self._stops.popitem(last=False)


def arrival(request: Request) -> int:
    """When a request reached the server, in nanoseconds of the monotonic clock; now if it was not marked."""
    return request.scope.get(ARRIVED, time.monotonic_ns())
