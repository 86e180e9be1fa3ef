"""What the entries of menus stand for."""

from collections.abc import Mapping
from typing import Any

from workbench.errors import WorkbenchError


def choice(name: object, choices: Mapping[str, Any], what: str) -> Any:  # noqa: ANN401 - whatever the menu holds
    """What a menu's entry stands for. Raises WorkbenchError for one that is not on the menu."""
    if not isinstance(name, str) or name not in choices:
        raise WorkbenchError(f"no {what} {name!r}; choose from {', '.join(choices)}")
    return choices[name]
