"""The errors of `hooks` that a caller can mend; their texts are sentences for people.

Each is also the built-in error of its kind, so that `except KeyError` and its like catch it too. Other errors that
leave this package are faults of the package, or of an edit's own function.
"""


class HooksError(Exception):
    """The base of all errors here."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))  # KeyError would show its text in quotes


class UnknownSite(HooksError, KeyError):
    """A name or glob that stands for no site, or for one that was not captured; the text lists the choices."""


class OutOfRange(HooksError, IndexError):
    """A head, position or layer that is not there."""


class WrongValue(HooksError, ValueError):
    """An argument whose shape, dtype or content does not fit, or that contradicts another one."""


class WrongType(HooksError, TypeError):
    """An argument of a type that is not taken."""
