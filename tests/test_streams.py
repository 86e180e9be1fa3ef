"""Standard streams that are closed, full or of another encoding: at most a sentence, never a traceback."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.errors import WorkbenchError
from workbench.streams import LONGEST, error_line, show, standard_input

PREPARED = "from workbench.streams import *; prepare_streams(); "


def shell(command: str, **options: str) -> subprocess.CompletedProcess:
    """The result of a shell command in which `python` is this interpreter."""
    return subprocess.run(
        ["sh", "-c", f'python() {{ "{sys.executable}" "$@"; }}; {command}'],
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1]), **options},
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:surrogateescape"])
def test_what_an_encoding_lacks_is_written_readably(encoding):
    done = shell(f"python -c '{PREPARED} print(\"a ▁…\")'", PYTHONIOENCODING=encoding)
    assert (done.stdout, done.stderr, done.returncode) == (b"a \\u2581\\u2026\n", b"", 0)


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("> /dev/full", 1, "standard output cannot be written: No space left on device\n"),
        (">&-", 1, "standard output is closed; to discard the output, redirect it to /dev/null\n"),
        ("2>&-", 0, ""),
        (">&- 2>&-", 1, ""),
        ("> /dev/null 2> /dev/full", 0, ""),
    ],
)
def test_help_into_a_stream_that_cannot_be_written(redirection, code, said):
    done = shell(f"python -m workbench --help {redirection}")
    assert (done.returncode, done.stderr.decode()) == (code, said)
    assert bool(done.stdout) == (redirection == "2>&-")


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full", "2>&1 | true"])
def test_mistakes_that_nobody_hears_of_are_mistakes_all_the_same(redirection):
    done = shell(f"(python -m workbench dance; echo $? >&3) 3>&1 > /dev/null {redirection}")
    assert (done.stdout, done.stderr) == (b"2\n" if "|" not in redirection else b"", b"")


def test_nothing_that_is_opened_takes_the_place_of_a_closed_stream(tmp_path):
    code = f'{PREPARED} file = open("data", "w"); import os; os.write(1, b"stray"); os.write(2, b"stray"); file.close()'
    shell(f"cd {tmp_path}; python -c '{code}' <&- >&- 2>&-")
    assert (tmp_path / "data").read_text() == ""


def test_a_reader_who_has_gone_is_no_error():
    done = shell("(python -m workbench --help; echo $? >&3) 3>&2 | true")
    assert (done.stderr, done.stdout) == (b"0\n", b"")


def test_warnings_are_sentences():
    done = shell(f"python -c '{PREPARED} warnings.warn(\"it is late\", stacklevel=1)'")
    assert done.stderr == b"warning: it is late\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_is_full_or_closed_is_an_error(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(WorkbenchError, match="No space left"):
            show("text")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(WorkbenchError, match="closed"):
        show("text")


def test_standard_input_is_text_in_utf_8_whatever_the_terminal_is(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\r\n語".encode()), encoding="ascii"))
    assert standard_input() == "é\n語"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), errors="surrogateescape"))
    with pytest.raises(WorkbenchError, match="not UTF-8 text"):
        standard_input()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(WorkbenchError, match="closed"):
        standard_input()


def test_errors_are_one_line_of_bounded_length():
    assert error_line(WorkbenchError("two\n  lines")) == "two lines"
    assert error_line(OSError(36, "File name too long", "x")) == "File name too long: 'x'"
    long = error_line(WorkbenchError("begin" + 5000 * "x" + "end"))
    assert len(long) < LONGEST + 10 and long.startswith("begin") and long.endswith("end")
