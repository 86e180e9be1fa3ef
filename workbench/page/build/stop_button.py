"""The Stop button: it cancels the running and the queued events of its page."""

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
    """Make a button cancel its page's running events and those that wait in `queues`.

    Closing the page cancels all its tokens, too.

    Returns a function that removes the cancelled events of a page from the queues. It should also be called after each
    event is queued: Gradio needs several turns of its event loop to queue an event, so on a busy machine Stop can
    arrive before an event that was sent earlier.
    """

    def remove_cancelled(page: str | None) -> None:
        cancel_queued(demo, page, queues, lambda event: _token(demo, event, cancellations).cancelled(), STOPPED)

    async def stop(http: gr.Request) -> None:  # asynchronous, so that it runs in the thread of the queues
        cancellations.stop(http.session_hash, arrival(http.request))
        remove_cancelled(http.session_hash)

    button.click(stop, queue=False, show_progress="hidden")
    return remove_cancelled


def _token(demo: gr.Blocks, event: Event, cancellations: Cancellations) -> CancellationToken:
    """The cancellation token of the request in a queued event's first input; without one, the event's own token."""
    token = getattr(first_state(demo, event), "cancellation", None)
    if isinstance(token, CancellationToken):
        return token
    return cancellations.token(event.session_hash, arrival(event.request))
