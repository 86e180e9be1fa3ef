"""Standard streams of a program, robust if they are closed, full, of another encoding, or a broken pipe."""

import io
import os
import sys
import warnings

from workbench.errors import WorkbenchError

LONGEST = 600  # characters of an error message; of a longer one, the middle is left out


def prepare_streams() -> None:
    """Make the standard streams of the process safe to use. For the start of a program, not for notebooks.

    - Closed descriptors are opened on /dev/null. Otherwise the next opened file would get the descriptor, and printed
      text would be written into that file.
    - Characters that the terminal's encoding does not have are written as `\\u2581`.
    - Warnings are printed as one sentence, without file and line.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is `number`
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - stays open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"


def check_output() -> None:
    """Check that standard output is open. Errors: WorkbenchError if the process was started with it closed."""
    if sys.stdout is None:
        raise WorkbenchError("standard output is closed; to discard the output, redirect it to /dev/null")


def show(text: str = "") -> None:
    """Write to standard output and flush; a broken pipe (for example after `head`) is ignored.

    Errors: WorkbenchError if standard output cannot be written.
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
    """Write an error to standard error on one line; on a terminal, over a progress bar."""
    tell(f"\r{error_line(error)}\n" if sys.stderr.isatty() else f"{error_line(error)}\n")


def error_line(error: Exception) -> str:
    """The message of an error on one line, without its errno; of a very long one, the middle is left out."""
    text = " ".join(str(error).removeprefix(f"[Errno {getattr(error, 'errno', None)}] ").split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def tell(text: str = "") -> None:
    """Write to standard error and flush; the text is lost if standard error cannot be written."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr.fileno())


def discard(descriptor: int) -> None:
    """Redirect a descriptor to /dev/null, so that the interpreter does not fail on unsent text at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def standard_input() -> str:
    """The whole text of standard input, read as UTF-8 independently of the terminal's encoding.

    Errors: WorkbenchError if standard input is closed, cannot be read, or is not UTF-8.
    """
    if sys.stdin is None:
        raise WorkbenchError("standard input is closed; there is no text to read")
    try:
        return io.StringIO(sys.stdin.buffer.read().decode("utf-8"), newline=None).read()
    except UnicodeDecodeError as error:
        raise WorkbenchError("standard input is not UTF-8 text") from error
    except OSError as error:
        raise WorkbenchError(f"standard input cannot be read: {error.strerror}") from error
