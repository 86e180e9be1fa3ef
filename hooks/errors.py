"""Errors that a caller of `hooks` can fix by changing the arguments; their messages are written for users.

Each class also derives from the built-in error of the same kind, so `except KeyError` catches `UnknownSite`, and so on.
Any other error from this package is a bug in the package, or comes from the function of an edit.
"""


class HooksError(Exception):
    """The base class of all errors in this file."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))  # KeyError would show the message in quotes


class UnknownSite(HooksError, KeyError):
    """A name or glob that matches no site, or a site that was not captured; the message lists the choices."""


class OutOfRange(HooksError, IndexError):
    """A head, position or layer that does not exist in this model or sequence."""


class WrongValue(HooksError, ValueError):
    """An argument whose shape, dtype or content does not fit, or that contradicts another argument."""


class WrongType(HooksError, TypeError):
    """An argument of a type that is not accepted."""


class Unwritable(HooksError, OSError):
    """A file that cannot be written, for example because the disk is full."""
