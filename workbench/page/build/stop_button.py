"""The Stop button: it ends what its page computes, and what of it waits in a queue."""

from collections.abc import Callable, Sequence

import gradio as gr
from gradio.components import Component

from workbench.page.compat import Event, cancel_queued, first_state
from workbench.page.session.cancellation import STOPPED, Cancellations, CancellationToken, arrival


def token_of(cancellations: Cancellations, http: gr.Request) -> CancellationToken:
    """The cancellation token of an event that a page sent."""
    return cancellations.token(http.session_hash, arrival(http.request))


def connect_stop(
    button: Component, demo: gr.Blocks, cancellations: Cancellations, queues: Sequence[str]
) -> Callable[[str | None], None]:
    """Make a button end what its page computes or waits for in some queues. Closing the page does the same.

    Returns a function that takes cancelled events of a page out of the queues. It should also be called after each
    event that is queued: on a busy machine Stop can arrive before an event that was sent earlier, since Gradio takes
    several turns of its loop to queue one.
    """

    def remove_cancelled(page: str | None) -> None:
        cancel_queued(demo, page, queues, lambda event: _token(demo, event, cancellations).cancelled(), STOPPED)

    async def stop(http: gr.Request) -> None:  # asynchronous, so that it runs in the thread of the queues
        cancellations.stop(http.session_hash, arrival(http.request))
        remove_cancelled(http.session_hash)

    def leave(http: gr.Request) -> None:
        cancellations.stop(http.session_hash)

    button.click(stop, queue=False, show_progress="hidden")
    demo.unload(leave)
    return remove_cancelled


def _token(demo: gr.Blocks, event: Event, cancellations: Cancellations) -> CancellationToken:
    """The token of the request that a queued event holds as its first input, if any; else the event's own."""
    token = getattr(first_state(demo, event), "cancellation", None)
    if isinstance(token, CancellationToken):
        return token
    return cancellations.token(event.session_hash, arrival(event.request))
