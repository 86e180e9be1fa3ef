"""Stop: what a page asked for before Stop was pressed, or before the page was closed, ends at its next step.

The server marks each request with the time at which it arrives. What a request asks for holds a `Permit` of that time,
and what follows from it holds the same one. Stop ends all permits of its page up to its own time, those included that
are made later for a request that arrived before.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import gradio as gr
from fastapi import Request
from gradio.components import Component
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Event
from gradio.server_messages import ProcessCompletedMessage

from workbench.errors import WorkbenchError

STOPPED = "stopped"
ARRIVED = "arrived"  # the key of a request's scope under which its time stands
KEPT_STOPS = 1024  # pages whose last Stop is remembered; it matters to what was under way then


class Stopped(WorkbenchError):
    """What was asked for is no longer wanted."""


@dataclass(frozen=True)
class Permit:
    """Cancellation token of one request. All compare equal, so swapping one does not trigger Gradio's change event."""

    ended: Callable[[], bool] = field(default=lambda: False, compare=False)

    def check(self) -> None:
        """Raise Stopped once it has ended."""
        if self.ended():
            raise Stopped(STOPPED)


class Permits:
    """The permits of all pages, by Gradio's name for each page; all it keeps is when a page was last stopped."""

    def __init__(self) -> None:
        self._stops: OrderedDict[str | None, int] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._stops)

    def of(self, page: str | None, asked: int | None = None) -> Permit:
        """The permit of what a page asked for at a time, now unless given: it ends with the page's next Stop."""
        asked = time.monotonic_ns() if asked is None else asked
        return Permit(lambda: self._stops.get(page, -1) >= asked)

    def of_request(self, request: gr.Request) -> Permit:
        """The permit of what an event asks for."""
        return self.of(request.session_hash, arrived(request.request))

    def end(self, page: str | None, until: int | None = None) -> None:
        """End what a page asked for up to a time, now unless given."""
        with self._lock:
            self._stops[page] = max(self._stops.get(page, -1), time.monotonic_ns() if until is None else until)
            self._stops.move_to_end(page)
            while len(self._stops) > KEPT_STOPS:
                self._stops.popitem(last=False)


def arrived(request: Request) -> int:
    """When a request reached the server, in nanoseconds of the monotonic clock; now if it was not marked."""
    return request.scope.get(ARRIVED, time.monotonic_ns())


def stops(button: Component, demo: gr.Blocks, permits: Permits, lines: Sequence[str]) -> None:
    """Make a button stop what its page computes or waits for in some queues; closing the page does the same."""

    async def stop(request: gr.Request) -> None:  # in the queue's own thread
        permits.end(request.session_hash, arrived(request.request))
        drop(demo, request.session_hash, permits, lines)

    def leave(request: gr.Request) -> None:
        permits.end(request.session_hash)

    button.click(stop, queue=False, show_progress="hidden")
    demo.unload(leave)


def drops_late(demo: gr.Blocks, permits: Permits, lines: Sequence[str]) -> None:
    """Drop events that are put into a queue after a Stop although they belong to what it ended.

    On a busy machine Stop overtakes them: a browser sends an event when the one before it is answered, and Gradio takes
    several turns of its loop to queue it.
    """
    push = demo._queue.push

    async def pushed(body: PredictBodyInternal, request: Request, username: str | None) -> tuple[bool, object, str]:
        answer = await push(body, request, username)
        drop(demo, body.session_hash, permits, lines)
        return answer

    demo._queue.push = pushed


def drop(demo: gr.Blocks, page: str | None, permits: Permits, lines: Sequence[str]) -> None:
    """Take a page's events whose permit has ended out of some queues, and say so in their first output, a notice.

    Gradio's own `cancels` would also cut the page off from what is running, which then could not say anything.
    """
    queue = demo._queue
    for line in [line for line in lines if line in queue.event_queue_per_concurrency_id]:
        waiting = queue.event_queue_per_concurrency_id[line].queue
        ended = [event for event in waiting if event.session_hash == page and permit_of(demo, event, permits).ended()]
        for event in ended:
            waiting.remove(event)
            queue.event_ids_to_events.pop(event._id, None)
            said = [STOPPED, *[gr.skip()] * (len(event.fn.outputs) - 1)]
            queue.send_message(event, ProcessCompletedMessage(output={"data": said}, success=True))
        if ended and waiting:
            queue.broadcast_estimations(line)


def permit_of(demo: gr.Blocks, event: Event, permits: Permits) -> Permit:
    """The permit of a waiting event: the one that its first input holds, else that of its own request."""
    first = event.fn.inputs[0] if event.fn.inputs else None
    held = demo.state_holder[event.session_hash][first._id] if isinstance(first, gr.State) else None
    found = getattr(held, "permit", None)
    return found if isinstance(found, Permit) else permits.of(event.session_hash, arrived(event.request))
