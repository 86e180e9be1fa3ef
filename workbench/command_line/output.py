"""Where a command's report goes: to the terminal, into a table, onto a page."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workbench.report import Report, as_csv, as_html, as_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where results go besides the terminal."""
    parser.add_argument(
        "--csv", type=output_file, metavar="FILE", help="write every number; - prints them, and no tables"
    )
    parser.add_argument("--html", type=output_file, metavar="FILE", help="write a page with pictures that stands alone")
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=sys.stderr.isatty(),
        help="a bar on stderr (where that is a terminal)",
    )


def output_file(name: str) -> Path:
    """A file that can be written, or `-`; said before anything is computed."""
    path = Path(name)
    if name == "-":
        return path
    if not path.parent.is_dir() or path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{name} cannot be written")
    return path


def write(report: Report, args: argparse.Namespace, command: Sequence[str]) -> None:
    """Print a report and write its files; it says which command made it."""
    report = replace(report, provenance={"command": shlex.join(command), **report.provenance})
    if args.html:
        args.html.write_text(as_html(report), encoding="utf-8")
    if args.csv and args.csv != Path("-"):
        args.csv.write_text(as_csv(report), encoding="utf-8")
    show(as_csv(report) if args.csv == Path("-") else as_text(report) + "\n")


def show(text: str) -> None:
    """Print to a reader who may stop reading early, as `head` does."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
