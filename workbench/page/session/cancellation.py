"""Cancellation of a page's requests: Stop, or closing the page, ends the work for earlier requests at its next step.

The server marks each request with its arrival time. The work for a request holds a `CancellationToken` of that time,
and so does all work that follows from it. Stop cancels all tokens of its page with an earlier or equal time, including
tokens that are made after Stop for a request that arrived before it.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import Request

from workbench.errors import WorkbenchError

STOPPED = "stopped"
ARRIVED = "arrived"  # key in a request's ASGI scope; its value is the arrival time in nanoseconds, monotonic clock
REMEMBERED_STOPS = 1024  # pages whose last Stop time is kept; only work that has already begun needs it


class Stopped(WorkbenchError):
    """Raised in work that was cancelled."""


@dataclass(frozen=True)
class CancellationToken:
    """Cancellation token of one request. All compare equal, so swapping one does not trigger Gradio's change event."""

    cancelled: Callable[[], bool] = field(default=lambda: False, compare=False)

    def check(self) -> None:
        """Raise Stopped if the token is cancelled."""
        if self.cancelled():
            raise Stopped(STOPPED)


class Cancellations:
    """Makes and cancels the cancellation tokens of all pages. A page is identified by Gradio's session hash.

    The only state is the time of each page's last Stop.
    """

    def __init__(self) -> None:
        self._stops: OrderedDict[str | None, int] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._stops)

    def token(self, page: str | None, arrived: int | None = None) -> CancellationToken:
        """The token of a page's request, which arrived at `arrived` (monotonic nanoseconds; None means now)."""
        arrived = time.monotonic_ns() if arrived is None else arrived
        return CancellationToken(lambda: self._stops.get(page, -1) >= arrived)

    def stop(self, page: str | None, until: int | None = None) -> None:
        """Cancel all requests of a page that arrived at or before `until`, in monotonic nanoseconds; None means now."""
        with self._lock:
            self._stops[page] = max(self._stops.get(page, -1), time.monotonic_ns() if until is None else until)
            self._stops.move_to_end(page)
            while len(self._stops) > REMEMBERED_STOPS:
                self._stops.popitem(last=False)


def arrival(request: Request) -> int:
    """The arrival time of a request, in monotonic nanoseconds; the current time if the server did not mark it."""
    return request.scope.get(ARRIVED, time.monotonic_ns())
