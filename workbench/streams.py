"""Standard input, output and error as they come: closed, full, of another encoding, or with a reader who has gone."""

import io
import os
import sys
import warnings

from workbench.errors import WorkbenchError

LONGEST = 600  # characters of an error's sentence; the middle of a longer one is left out


def prepare_streams() -> None:
    """Make the process's streams safe to use. For a program's start: a notebook's streams are not the command line's.

    A descriptor that is closed would be given to the next file that is opened, and what is printed would go into it.
    What the encoding of the terminal lacks is written as `\\u2581`. Warnings are sentences, without a place in code.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"


def check_output() -> None:
    """See that something can be printed. Errors: WorkbenchError if standard output was closed by who started this."""
    if sys.stdout is None:
        raise WorkbenchError("standard output is closed; to see nothing, redirect it to /dev/null")


def show(text: str = "") -> None:
    """Print, and send off all that was printed, to a reader who may stop reading early, as `head` does.

    Errors: WorkbenchError where it cannot be written.
    """
    check_output()
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout.fileno())
    except OSError as error:
        discard(sys.stdout.fileno())
        raise WorkbenchError(f"standard output cannot be written: {error.strerror}") from error


def complain(error: Exception) -> None:
    """Say an error in one sentence, over a progress bar where there may be one."""
    tell(f"\r{sentence(error)}\n" if sys.stderr.isatty() else f"{sentence(error)}\n")


def sentence(error: Exception) -> str:
    """An error on one line, without its number and the middle of what is very long."""
    text = " ".join(str(error).removeprefix(f"[Errno {getattr(error, 'errno', None)}] ").split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def tell(text: str = "") -> None:
    """Write to standard error, and send off all that was written; lost where that cannot be written."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr.fileno())


def discard(descriptor: int) -> None:
    """Forget what was written to a stream and could not be sent off, or the interpreter tries again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def standard_input() -> str:
    """All of standard input, which is UTF-8 whatever the terminal's encoding, as files are.

    Errors: WorkbenchError where it is closed, cannot be read or is no text.
    """
    if sys.stdin is None:
        raise WorkbenchError("standard input is closed; there is no text to read")
    try:
        return io.StringIO(sys.stdin.buffer.read().decode("utf-8"), newline=None).read()
    except UnicodeDecodeError as error:
        raise WorkbenchError("standard input is no text in UTF-8") from error
    except OSError as error:
        raise WorkbenchError(f"standard input cannot be read: {error.strerror}") from error
