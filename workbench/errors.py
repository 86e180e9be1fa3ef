"""`WorkbenchError`, the error whose message is written for the user, and helpers for its messages."""

from reprlib import Repr

MOST_SAID = 240  # characters kept of another library's message

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


class WorkbenchError(ValueError):
    """An error that the user can correct. The message names the wrong value, and the choices or the remedy."""


def reason(error: BaseException) -> str:
    """The message of another library's error on one line, shortened; the error's type if the message is empty."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= MOST_SAID else f"{line[:MOST_SAID]} …"


def shown(value: object) -> str:
    """The `repr` of a value from a file, shortened if it is long or deeply nested, for use in a message."""
    return _SHORT.repr(value)
