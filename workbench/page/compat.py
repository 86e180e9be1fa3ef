"""Uses of Gradio's private interfaces, except `stubs`. `tests/test_page_compat.py` checks each assumption."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import gradio as gr
from fastapi import Request
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Event
from gradio.server_messages import ProcessCompletedMessage

PROGRESS_MARK = 'data-testid="status-tracker"'
"""The attribute of the box with which Gradio covers a component while an event computes it. `views/page.css` and
`views/status.js` look for it, to show the Stop button and to dim old results: Gradio has no documented sign, on the
page, that an event runs.
"""

STYLED_CLASSES = ("fillable", "wrap", "wrap-inner", "translucent", "generating", "hide", "progress-bar")
"""Undocumented CSS classes inside Gradio's components to which `views/page.css` refers, because there is no documented
way to set the size of a menu, to dim an old result, or to draw the progress bar without a delay.
"""

LINGER = 2.0
"""Seconds for which the stream of messages to a page stays open after the page's last event (see `keep_stream`)."""

POLL_SECONDS, PROGRESS_SECONDS = 0.005, 0.2
"""How long Gradio's queue waits before it looks again for a waiting event, and for a progress message to send."""


def quiet_state() -> gr.State:
    """An empty state whose change event is not fired by an event that leaves it empty.

    Gradio leaves a state that holds None out of the first values that it sends to the browser. The first event that
    returns the state then counts as a change of it, and each new page would request every view of every tab. There is
    no documented way around this.
    """
    state = gr.State(None)
    config = state.get_config
    state.get_config = lambda: config() | {"value": float("nan")}  # sent as null, and not left out
    return state


def event_data(event: gr.EventData) -> dict[str, Any]:
    """The data of an event that one of the page's own components sent; empty for another event.

    Gradio documents how to read single attributes of the data, but not how to test whether an event has data.
    """
    return event._data if isinstance(event._data, dict) else {}


def cancel_queued(
    demo: gr.Blocks,
    page: str | None,
    queues: Sequence[str],
    is_cancelled: Callable[[Event], bool],
    message: str,
) -> None:
    """Cancel the queued events of one page, and show a message in the first output of each.

    Gradio's documented `cancels` also disconnects the page from an event that is running, which then could not show
    its last result.
    """
    queue = demo._queue
    for name in [name for name in queues if name in queue.event_queue_per_concurrency_id]:
        waiting = queue.event_queue_per_concurrency_id[name].queue
        cancelled = [event for event in waiting if event.session_hash == page and is_cancelled(event)]
        for event in cancelled:
            waiting.remove(event)
            queue.event_ids_to_events.pop(event._id, None)
            values = [message, *[gr.skip()] * (len(event.fn.outputs) - 1)]
            queue.send_message(event, ProcessCompletedMessage(output={"data": values}, success=True))
        if cancelled and waiting:
            queue.broadcast_estimations(name)


def after_queueing(demo: gr.Blocks, callback: Callable[[str | None], None]) -> None:
    """Call `callback` with the page's session hash after each event is queued. Gradio has no such documented hook."""
    push: Callable[..., Awaitable[tuple[bool, Any, str]]] = demo._queue.push

    async def pushed(body: PredictBodyInternal, request: Request, username: str | None) -> tuple[bool, Any, str]:
        answer = await push(body, request, username)
        callback(body.session_hash)
        return answer

    demo._queue.push = pushed


def before_leaving(demo: gr.Blocks, callback: Callable[[str | None], None]) -> None:
    """Call `callback` with the session hash of a page that is closed while events of it run or wait.

    Such a page has a connection open, over which it gets the results; Gradio cleans up after it when that breaks. The
    documented event, `unload`, needs a connection that an idle page keeps open too (see `without_heartbeat`).
    """
    clean: Callable[..., Awaitable[None]] = demo._queue.clean_events

    async def cleaned(*, session_hash: str | None = None, event_id: str | None = None) -> None:
        callback(session_hash)
        await clean(session_hash=session_hash, event_id=event_id)

    demo._queue.clean_events = cleaned


def without_heartbeat(demo: gr.Blocks) -> None:
    """Let open pages without a running event hold no connection.

    Gradio keeps one open for each page that has a `gr.State`. Browsers open at most six to a server, so the seventh
    open page would never load. Without it, Gradio does not learn that an idle page was closed, and keeps its states
    until `state_session_capacity` other pages have come. There is no documented way to choose this.
    """
    config = demo.get_config_file
    demo.get_config_file = lambda: config() | {"connect_heartbeat": False}


def poll_less(demo: gr.Blocks) -> None:
    """Let the queue look for events, and send progress, less often.

    Gradio looks 1,000 times a second, which keeps an idle server busy, and sends up to 100 progress messages a second.
    At each one the browser updates every component that ever had a status, which takes it longer than that. There is no
    documented way to choose either.
    """
    demo._queue.sleep_when_free = POLL_SECONDS
    demo._queue.progress_update_sleep_when_free = PROGRESS_SECONDS


def hide_progress_in(demo: gr.Blocks, state: gr.State) -> None:
    """Let every event that shows no progress report its status to one state, which has no element on the page.

    Gradio reports an event's status to each of its outputs, although nothing is shown there, and from then on the
    browser copies all properties of these components at each message of any event. An event may name other components
    (`show_progress_on`), but there is no documented default for all.
    """
    for event in demo.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [state]


def undescribed(demo: gr.Blocks) -> None:
    """Leave the page's events out of the description of Gradio's API, which no program may use here.

    It is computed for each request for the page, and sent with it: a quarter of what the browser reads at first. Each
    event has the documented argument `api_visibility`, but there is no documented default for all.
    """
    for event in demo.fns.values():
        event.api_visibility = "private"


def keep_stream(demo: gr.Blocks) -> None:
    """Keep the stream of messages to a page open until `LINGER` seconds after its last event.

    Gradio closes the stream when no event of the page waits or runs. A page that sends an event at this moment still
    believes that the stream is open, and never gets the result. So a placeholder waits beside the page's events, and
    ends when there were none for a while. There is no documented way around this.
    """
    queue, numbers, held = demo._queue, itertools.count(), dict[str, asyncio.Task[None]]()
    push: Callable[..., Awaitable[tuple[bool, Any, str]]] = queue.push

    async def hold(page: str, placeholder: str) -> None:
        last = time.monotonic()
        while time.monotonic() - last < LINGER:
            await asyncio.sleep(LINGER / 4)
            if queue.pending_event_ids_session.get(page, set()) - {placeholder}:
                last = time.monotonic()
        del held[page]
        if page in queue.pending_messages_per_session:
            done = ProcessCompletedMessage(output={"data": []}, success=True, event_id=placeholder)
            await queue.pending_messages_per_session[page].put(done)
        else:  # the page was closed
            queue.pending_event_ids_session.pop(page, None)

    async def pushed(body: PredictBodyInternal, request: Request, username: str | None) -> tuple[bool, Any, str]:
        page = body.session_hash
        if LINGER and page is not None and page not in held:
            placeholder = f"placeholder {next(numbers)}"
            queue.pending_event_ids_session.setdefault(page, set()).add(placeholder)
            held[page] = asyncio.create_task(hold(page, placeholder))
        return await push(body, request, username)

    queue.push = pushed


def first_state(demo: gr.Blocks, event: Event) -> object:
    """The value of a queued event's first input, if that is a state; else None."""
    first = event.fn.inputs[0] if event.fn.inputs else None
    return demo.state_holder[event.session_hash][first._id] if isinstance(first, gr.State) else None
