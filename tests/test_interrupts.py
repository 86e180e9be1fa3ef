"""Ctrl-C ends a program with exit code 130 and without output, at any point of its run."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.interrupts import unwound_on_interrupt

ROOT = Path(__file__).parents[1]
START = """
import os, signal, sys, threading, time
from workbench.interrupts import exit_on_interrupt, unwound_on_interrupt
exit_on_interrupt()
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
"""
IN_THE_MIDST = {
    "outside of a block": "interrupt()\ntime.sleep(600)",
    "in a block": "with unwound_on_interrupt():\n    interrupt()\n    time.sleep(600)",
    "where it is swallowed": """
with unwound_on_interrupt():
    try:
        interrupt()
    except KeyboardInterrupt:
        pass
    time.sleep(600)""",
    "where it is turned into another exception": """
with unwound_on_interrupt():
    try:
        interrupt()
    except KeyboardInterrupt as error:
        raise ImportError("half a module") from error""",
    "in a long computation in C": """
import hashlib
with unwound_on_interrupt():
    threading.Timer(0.1, interrupt).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)""",
    "after a block": "with unwound_on_interrupt():\n    pass\ninterrupt()\ntime.sleep(600)",
}


def default_interrupt() -> None:
    """Handle SIGINT as in a terminal. If the tests run in the background, processes inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ran(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", START + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, preexec_fn=default_interrupt)


@pytest.mark.parametrize("where", IN_THE_MIDST)
def test_a_program_ends_silently(where):
    done = ran(IN_THE_MIDST[where])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_what_a_block_has_begun_is_undone_also_when_one_is_impatient():
    done = ran("""
with unwound_on_interrupt():
    try:
        interrupt()
    finally:
        interrupt()
        print("undone", flush=True)""")
    assert (done.returncode, done.stdout, done.stderr) == (130, "undone\n", "")


def test_who_ignores_ctrl_c_still_does():
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    rest = "with unwound_on_interrupt():\n    interrupt()\nprint('goes on')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{START}\n{rest}"], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_a_library_leaves_ctrl_c_alone():
    before = signal.getsignal(signal.SIGINT)
    with unwound_on_interrupt():
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="how far a program is, is read from /proc")
@pytest.mark.parametrize("program", [["-m", "workbench", "lens", "The cat"], ["app.py", "--port", "0"]])
def test_a_program_that_is_importing_torch_ends_silently(program):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, *program]
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=default_interrupt, **pipes) as running:
        while "libtorch" not in Path(f"/proc/{running.pid}/maps").read_text():
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        assert (running.wait(timeout=300), *running.communicate()) == (130, "", "")
