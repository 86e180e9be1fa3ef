"""Stop: what a page asked for before Stop was pressed, or before the page was closed, ends at its next step.

A view computes by a `Permit`, from when it is asked for; what says how far it is checks it. Stop and closing end it.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import gradio as gr
from gradio.components import Component
from gradio.server_messages import ProcessCompletedMessage

from workbench.errors import WorkbenchError

STOPPED = "stopped"


class Stopped(WorkbenchError):
    """What was asked for is no longer wanted."""


@dataclass(unsafe_hash=True)
class Permit:
    """A page's leave to compute. All are equal, so that a state which holds another one has not changed."""

    ended: bool = field(default=False, compare=False)

    def check(self) -> None:
        """Raise Stopped once it has ended."""
        if self.ended:
            raise Stopped(STOPPED)


class Permits:
    """The permits of the open pages, by Gradio's name for each; one that nobody holds is forgotten."""

    def __init__(self) -> None:
        self._held: WeakValueDictionary[str | None, Permit] = WeakValueDictionary()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def of(self, page: str | None) -> Permit:
        """What a page may compute by from now on, until it is ended."""
        with self._lock:
            permit = self._held.get(page)
            if permit is None:
                permit = self._held[page] = Permit()
            return permit

    def end(self, page: str | None) -> None:
        """Let a page's work come to an end; what it asks for later has another permit."""
        with self._lock:
            permit = self._held.pop(page, None)
        if permit is not None:
            permit.ended = True


def stops(button: Component, demo: gr.Blocks, permits: Permits, lines: Sequence[str]) -> None:
    """Make a button stop what its page computes or waits for in some queues; closing the page does the same."""

    async def stop(request: gr.Request) -> None:  # in the queue's own thread
        permits.end(request.session_hash)
        for line in lines:
            drop(demo, request.session_hash, line)

    def leave(request: gr.Request) -> None:
        permits.end(request.session_hash)

    button.click(stop, queue=False, show_progress="hidden")
    demo.unload(leave)


def drop(demo: gr.Blocks, page: str | None, line: str) -> None:
    """Take what a page waits for out of a queue, whose events all have a notice as their first output, and say so.

    Gradio's own `cancels` would also cut the page off from what is running, which then could not say anything.
    """
    queue = demo._queue
    waiting = queue.event_queue_per_concurrency_id[line].queue if line in queue.event_queue_per_concurrency_id else []
    for event in [event for event in waiting if event.session_hash == page]:
        waiting.remove(event)
        queue.event_ids_to_events.pop(event._id, None)
        said = [STOPPED, *[gr.skip()] * (len(event.fn.outputs) - 1)]
        queue.send_message(event, ProcessCompletedMessage(output={"data": said}, success=True))
    if waiting:
        queue.broadcast_estimations(line)
