"""Python programs in processes that are forked from one interpreter, in which the libraries are imported already.

A new interpreter takes about 4 seconds of CPU to import torch, transformers and the workbench, and much more on a slow
machine; a forked one starts at once. A program gets the same arguments, folder, environment and streams as from
`python`. One thing differs: what libraries read from the environment while they are imported is that of the forking
interpreter, which has an empty `home()` and keeps the hub offline.
"""

import atexit
import os
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "torch",
    "transformers",
    "sklearn.decomposition",
    "ipykernel.kernelapp",
    "workbench.metrics",
    "workbench.analyses.trajectory",
    "workbench.generation",
    "workbench.views.standalone",
)
"""Modules that are imported before the fork. Neither plotly nor Gradio is among them: tests ask who imports these."""

ERRORS = {"stdout": "strict", "stderr": "backslashreplace"}
NOWHERE = (os.devnull, os.devnull)


@cache
def home() -> Path:
    """The folder in which forked programs look for the hub's files and the workbench's cache; empty at first."""
    folder = tempfile.mkdtemp(prefix="olmo-home-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def interpreter() -> ForkServerContext:
    """The interpreter that forks, started at the first call, once for each process that runs tests."""
    context = get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED])
    ours = {"HF_HOME": str(home()), "XDG_CACHE_HOME": str(home()), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    with patch.dict(os.environ, ours):
        first = context.Process(target=os.getpid)
        first.start()
    first.join()
    return context


class Forked:
    """A running program, with those parts of `subprocess.Popen` that Jupyter and the tests use.

    `command` is that of `subprocess`; its first word, the interpreter, is not used. `streams` are files for standard
    output and standard error; if there are none, the program has those of the forking interpreter.
    """

    stdin = stdout = stderr = None

    def __init__(
        self, command: Sequence[str], cwd: str | Path, env: Mapping[str, str], streams: Sequence[str] = NOWHERE
    ) -> None:
        self.args = list(command[1:])
        ready, told = interpreter().Pipe(duplex=False)
        with ready, told:
            given = (told, self.args, str(cwd), dict(env), list(streams))
            self.process = interpreter().Process(target=run, args=given)
            self.process.start()
            told.close()
            ready.recv()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while the program runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """The exit code; None while the program runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the program; returns the exit code. Errors: TimeoutExpired."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise TimeoutExpired(self.args, timeout or 0)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the program."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """End the program."""
        self.process.terminate()

    def kill(self) -> None:
        """End the program at once."""
        self.process.kill()


def python(*arguments: str | Path, cwd: str | Path = ROOT, env: Mapping[str, str] | None = None) -> CompletedProcess:
    """The result of `python ARGUMENTS…`, with its output as text."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "stdout", Path(folder) / "stderr"]
        running = Forked(["python", *map(str, arguments)], cwd, env or os.environ, [*map(str, files)])
        code = running.wait(timeout=300)
        return CompletedProcess(running.args, code, *(file.read_text(encoding="utf-8") for file in files))


def run(told: Connection, arguments: list[str], folder: str, variables: dict[str, str], streams: list[str]) -> None:
    """Run in this process what `python ARGUMENTS…` would: `-m module`, `-c code` or a file."""
    os.setsid()  # a signal to the group of this program reaches no other
    signal.signal(signal.SIGINT, signal.default_int_handler)  # multiprocessing ignores it
    for descriptor, name in enumerate(streams, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
    for descriptor, (stream, errors) in enumerate(ERRORS.items(), 1):
        setattr(sys, stream, open(descriptor, "w", encoding="utf-8", errors=errors, closefd=False))  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    told.send("ready")
    told.close()
    kind, *rest = [word for word in arguments if not word.startswith("-X")]
    if kind == "-m":
        sys.path.insert(0, folder)
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, folder)
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(kind).parent))
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")
