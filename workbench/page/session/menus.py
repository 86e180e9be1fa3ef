"""Values of the entries of menus."""

from collections.abc import Mapping
from typing import Any

from workbench.errors import WorkbenchError

PROMPT, SET = "on this prompt", "on the set of texts"
OVER = {PROMPT: False, SET: True}
"""Entries of the menu for the input of a panel; the value is True for the set of texts, False for the prompt."""


def choice(name: object, choices: Mapping[str, Any], what: str) -> Any:  # noqa: ANN401 - whatever the menu holds
    """The value of a menu's entry. `what` is the kind of the entries, for the error message.

    Errors: WorkbenchError for a name that is not on the menu.
    """
    if not isinstance(name, str) or name not in choices:
        raise WorkbenchError(f"no {what} {name!r}; choose from {', '.join(choices)}")
    return choices[name]
