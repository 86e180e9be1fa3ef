"""What a page asks the server for: to run a prompt, to show a tab, to draw one view."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from workbench.page.session.cancellation import CancellationToken


@dataclass(frozen=True)
class Query:
    """What all tabs show: a checkpoint and a prompt. `run` counts how often Run was pressed; 0 is before the first."""

    checkpoint: str
    prompt: str
    run: int = 0


@dataclass(frozen=True)
class Selection:
    """The token, layer and head that a person chose; all tabs share them."""

    token: int | None = None
    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True)
class RunRequest:
    """A request to run a prompt.

    Attributes:
        at: nanoseconds at which it arrived, so that two requests for the same prompt differ.
        checkpoint, prompt: copies of the values of the bar, whose components may have changed since.
    """

    at: int
    cancellation: CancellationToken
    checkpoint: object
    prompt: object


@dataclass(frozen=True)
class TabRequest:
    """A request to show a tab.

    Attributes:
        selection: the parts of the selection that the tab follows; the others are None.
        cause: cancellation token of the event that led to this request. It is no part of what is shown, so two requests
            that differ in it alone are equal. A later click on the tab has a token of its own.
    """

    query: Query
    selection: Selection
    cause: CancellationToken = field(default=CancellationToken(), compare=False)

    def only(self, follows: Sequence[str]) -> "TabRequest":
        """The same request without the parts of the selection that are not named."""
        return replace(self, selection=Selection(**{name: getattr(self.selection, name) for name in follows}))


class ViewRequest(NamedTuple):
    """A request to draw one view of a tab with the values of its controls. It is drawn again when the first two change,
    not when the token does."""

    tab: TabRequest
    controls: tuple[object, ...]
    cancellation: CancellationToken
