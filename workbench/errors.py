"""The one error whose sentence is meant for the person at the keyboard."""

from reprlib import Repr

MOST_SAID = 240  # letters of another library's message

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


class WorkbenchError(ValueError):
    """Something the user can mend; the message names the value, and the choices or what would do."""


def reason(error: BaseException) -> str:
    """What another library's error says, in one short line; the error's type where it says nothing."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= MOST_SAID else f"{line[:MOST_SAID]} …"


def shown(value: object) -> str:
    """A value from a file as it stands in a sentence: its `repr`, cut short where it is long or deep."""
    return _SHORT.repr(value)
