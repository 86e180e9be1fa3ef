"""Requests of a page to the server: to run a prompt, to show a tab, to draw one view."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from workbench.page.session.cancellation import CancellationToken
from workbench.page.session.prompts import Prompt


@dataclass(frozen=True)
class Query:
    """The checkpoint and the prompt that all tabs show.

    Attributes:
        run: counts the page's runs; 0 means before the first.
        edits: the interventions that are switched on, in their canonical spelling, one a line.
        change: whether results of the edited model are shown minus those of the unedited one, where they can be
            subtracted.
    """

    checkpoint: str
    prompt: Prompt
    run: int = 0
    edits: str = ""
    change: bool = False


NUMBERS = ("token", "layer", "head", "tuned")
"""The parts of a `Selection` that are numbers."""


@dataclass(frozen=True)
class Selection:
    """The selected token, layer, head, lens and set of texts, shared by all tabs; None where nothing is selected.

    `tuned` is 1 for the tuned lens, 0 or None for the logit lens. `texts` is the name of a set (see `TextSets.get`);
    None means the default set.
    """

    token: int | None = None
    layer: int | None = None
    head: int | None = None
    tuned: int | None = None
    texts: str | None = None


@dataclass(frozen=True)
class RunRequest:
    """A request to run a prompt.

    Attributes:
        at: arrival time in monotonic nanoseconds, so that two requests for the same prompt are not equal.
        checkpoint, prompt, chat, edits, shown: values of the page's components at the request; the components may
            change later. With `chat`, the prompt is the turns of a conversation. `shown` is one of `edit_lines.SHOWN`.
    """

    at: int
    cancellation: CancellationToken
    checkpoint: object
    prompt: object
    chat: object = False
    edits: object = ""
    shown: object = "edited"


@dataclass(frozen=True)
class TabRequest:
    """A request to show a tab.

    Attributes:
        selection: the parts of the selection that the tab follows; the others are None.
        cause: cancellation token of the event that led to this request. It is left out of comparisons, so two requests
            that differ only in it are equal. A later click on the tab has its own token.
        agreed: whether a click has agreed to the price of the view that is drawn (see `prices`).
    """

    query: Query
    selection: Selection
    cause: CancellationToken = field(default=CancellationToken(), compare=False)
    agreed: bool = False

    def only(self, follows: Sequence[str]) -> "TabRequest":
        """The same request, with the parts of the selection that are not in `follows` set to None."""
        return replace(self, selection=Selection(**{name: getattr(self.selection, name) for name in follows}))


class ViewRequest(NamedTuple):
    """A request to draw one view of a tab with the values of its controls. The view is drawn again when `tab`,
    `controls` or `agreed` change, not when the token changes.

    `agreed` is the time of a click that agrees to the price of the view, in monotonic nanoseconds; 0 without a click.
    """

    tab: TabRequest
    controls: tuple[object, ...]
    cancellation: CancellationToken
    agreed: int = 0
