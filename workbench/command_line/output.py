"""The output of a command's report: on the terminal, as a CSV file, as an HTML page."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.report import Report, as_csv, as_html, as_text
from workbench.streams import show
from workbench.whole_files import check_writable, is_same_file, whole_file

PRINTED = Path("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that set where results go besides the terminal."""
    for name, use in (
        ("--csv", "write all numbers to a CSV file; - prints them instead of tables"),
        ("--html", "write a self-contained HTML page with plots; - prints it"),
    ):
        parser.add_argument(name, type=Path, metavar="FILE", help=use)
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=sys.stderr.isatty(),
        help="progress bar on stderr (default: if stderr is a terminal)",
    )


def check(args: argparse.Namespace) -> None:
    """Check the output files before anything is computed.

    Errors: WorkbenchError for a file that cannot be written, or that is given twice.
    """
    if args.csv and args.html and is_same_file(args.csv, args.html):
        raise WorkbenchError(f"--csv {args.csv} and --html {args.html} are the same file; give two different files")
    for path in files(args):
        try:
            check_writable(path)
        except OSError as error:
            raise refused(path, error) from error


def files(args: argparse.Namespace) -> list[Path]:
    """The files to write; `-`, which prints, is left out."""
    return [path for path in (args.csv, args.html) if path not in (None, PRINTED)]


def refused(path: Path, error: OSError) -> WorkbenchError:
    """The error for a file that cannot be written."""
    return WorkbenchError(f"{path} cannot be written: {error.strerror or error}")


def write(report: Report, args: argparse.Namespace, command: Sequence[str]) -> None:
    """Write a report's files, and print it; its provenance includes the command.

    Errors: WorkbenchError for a file that cannot be written; an existing file is then unchanged.
    """
    report = replace(report, provenance={"command": shlex.join(command), **report.provenance})
    printed = as_text(report) + "\n"
    for path, text_of in ((args.csv, as_csv), (args.html, as_html)):
        if path == PRINTED:
            printed = text_of(report)
        elif path is not None:
            write_file(path, text_of(report))
    show(printed)


def write_file(path: Path, text: str) -> None:
    """Write a text to a UTF-8 file, completely or not at all. Errors: WorkbenchError if it cannot be written."""
    try:
        with whole_file(path) as file:
            file.write(text.encode(errors="backslashreplace"))
    except OSError as error:
        raise refused(path, error) from error
