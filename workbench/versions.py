"""Versions of the packages that results depend on."""

import platform
from datetime import datetime
from functools import cache
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on, of Python, and the current time (`made`)."""
    return packages() | {"made": datetime.now().astimezone().isoformat("T", "minutes")}


@cache
def packages() -> dict[str, str]:
    """Versions of the packages that results depend on, and of Python, by name."""
    names = ("torch", "transformers", "numpy")
    return {name: version(name) for name in names} | {"python": platform.python_version()}
