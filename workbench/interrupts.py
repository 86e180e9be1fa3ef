"""Ctrl-C ends a program with exit code 130, within a second and without a traceback.

Only `exit_on_interrupt` changes how a process takes SIGINT, and a program calls it, never a library: in a notebook
Ctrl-C raises KeyboardInterrupt as ever. Little is imported here, since it comes before everything else.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # exit code: 128 + SIGINT
SILENT = "ignore:resource_tracker:UserWarning"  # joblib's, that it cleans up after worker processes which were ended
GRACE = 0.6  # seconds to remove temporary files and end worker processes


def exit_on_interrupt() -> None:
    """From now on Ctrl-C ends this process at once.

    Made for the time of imports: an exception in the midst of them passes through C code, which may print it or turn it
    into an ImportError. Where SIGINT is ignored (`nohup`, a shell's background jobs), it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)
        os.environ.setdefault("PYTHONWARNINGS", SILENT)


@contextmanager
def unwound_on_interrupt() -> Iterator[None]:
    """After `exit_on_interrupt`, a block in which Ctrl-C raises KeyboardInterrupt, so that `with` blocks are left.

    The process exits when the block has ended, and `GRACE` seconds after Ctrl-C in any case: also where the exception
    was swallowed or turned into another, and where the main thread is in a long computation in C. In a process that
    did not call `exit_on_interrupt` it does nothing.
    """
    if signal.getsignal(signal.SIGINT) is not _exit:
        yield
        return
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would interrupt the removal
        raise KeyboardInterrupt

    with _deadline():
        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            if interrupted:
                os._exit(INTERRUPTED)  # the interpreter's own end may take seconds
            signal.signal(signal.SIGINT, _exit)


@contextmanager
def _deadline() -> Iterator[None]:
    """In the block, a thread ends the process `GRACE` seconds after SIGINT. It waits for a pipe that C code writes to,
    since handlers in Python run only between two steps of the main thread."""
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
