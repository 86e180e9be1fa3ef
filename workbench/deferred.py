"""Functions of upper layers that objects of lower layers call, such as the plot of a result.

The lower layer calls `deferred("plot")(result)`. The package `workbench` registers the place of the function,
whose module is imported at the first call. So the lower layer does not import the upper one.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

_places: dict[str, str] = {}


def defer(**places: str) -> None:
    """Say where functions are: `defer(plot="workbench.plots:plot")`."""
    _places.update(places)


def deferred(name: str) -> Callable[..., Any]:
    """The function of a name."""
    module, _, function = _places[name].partition(":")
    return getattr(import_module(module), function)
