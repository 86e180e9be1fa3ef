"""Ctrl-C ends a program with exit code 130, within a second and without a traceback.

Only `exit_on_interrupt` changes the handling of SIGINT. Only programs call it, so in a notebook Ctrl-C still raises
KeyboardInterrupt. This module imports little, because programs import it first.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # exit code: 128 + SIGINT
SILENT = "ignore:resource_tracker:UserWarning"  # joblib's warning about ended workers
GRACE = 0.6  # seconds to remove temporary files and end worker processes


def exit_on_interrupt() -> None:
    """From this call on, Ctrl-C ends the process at once.

    This is for the time of imports: a KeyboardInterrupt during an import passes through C code, which may print it or
    turn it into an ImportError. If SIGINT is ignored (`nohup`, background jobs of a shell), it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)
        os.environ.setdefault("PYTHONWARNINGS", SILENT)


@contextmanager
def unwound_on_interrupt() -> Iterator[None]:
    """After `exit_on_interrupt`: a block in which Ctrl-C raises KeyboardInterrupt, so that `with` blocks clean up.

    After Ctrl-C the process exits when the block ends, and at the latest after `GRACE` seconds, even if the exception
    is caught or replaced, or the main thread is in a long computation in C. Without `exit_on_interrupt`, this does
    nothing.
    """
    if signal.getsignal(signal.SIGINT) is not _exit:
        yield
        return
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would interrupt the cleanup
        raise KeyboardInterrupt

    with _deadline():
        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            if interrupted:
                os._exit(INTERRUPTED)  # a normal exit of the interpreter may take seconds
            signal.signal(signal.SIGINT, _exit)


@contextmanager
def _deadline() -> Iterator[None]:
    """A block in which a thread ends the process `GRACE` seconds after SIGINT.

    The thread reads a pipe that Python's C signal handler writes to, because Python handlers run only between two
    bytecode instructions of the main thread.
    """
    import threading  # not needed for --help
    import time

    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while (number := os.read(reader, 1)) and number[0] != signal.SIGINT:
            pass
        if number:
            time.sleep(GRACE)
            os._exit(INTERRUPTED)
        os.close(reader)

    threading.Thread(target=watch, daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(writer)


def _exit(*_: object) -> None:
    os._exit(INTERRUPTED)
