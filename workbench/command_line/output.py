"""The output of a command's report: on the terminal, as a CSV file, as an HTML page."""

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.report import Report, as_csv, as_html, as_text
from workbench.result_files import save_results
from workbench.streams import show, tell
from workbench.whole_files import cannot_write, check_writable, is_same_file, output_file

PRINTED = Path("-")


def add_output_arguments(parser: argparse.ArgumentParser, saves: bool = True) -> None:
    """Add the arguments that name the files to write; --save only if `saves`, the `SAVES` of the command."""
    for name, use in (
        (
            "--csv",
            "write all numbers to a CSV file, and each further table to a file beside it; - prints the first table",
        ),
        ("--html", "write a self-contained HTML page with plots; - prints it"),
    ):
        parser.add_argument(name, type=Path, metavar="FILE", help=use)
    if saves:
        parser.add_argument(
            "--save", type=Path, metavar="FILE", help="write the results to an .npz file, for `show` and `load_result`"
        )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=sys.stderr.isatty(),
        help="progress bar on stderr (default: if stderr is a terminal)",
    )


def check_files(args: argparse.Namespace) -> None:
    """Check the output files before anything is computed.

    Errors: WorkbenchError for a file that cannot be written, or that is given twice.
    """
    given = files_to_write(args)
    for (one, path), (other, same) in combinations(given.items(), 2):
        if is_same_file(path, same):
            raise WorkbenchError(f"{one} {path} and {other} {same} are the same file; give two different files")
    if given.get("--save") == PRINTED:
        raise WorkbenchError("--save - would print bytes that are not text; name a file")
    for path in set(given.values()) - {PRINTED}:
        try:
            check_writable(path)
        except OSError as error:
            raise cannot_write(path, error) from error


def files_to_write(args: argparse.Namespace) -> dict[str, Path]:
    """The files to write, by the argument that names them; `-` stands for standard output."""
    found = {f"--{name}": getattr(args, name, None) for name in ("csv", "html", "save", "json")}
    return {name: path for name, path in found.items() if path is not None}


def write_report(report: Report, args: argparse.Namespace, command: Sequence[str]) -> None:
    """Write a report's files, and print it; its provenance includes the command.

    Errors: WorkbenchError for a file that cannot be written; an existing file is then unchanged.
    """
    report = replace(report, provenance={"command": shlex.join(command), **report.provenance})
    printed = as_text(report) + "\n"
    for path, texts in ((args.csv, csv_files(report, args.csv)), (args.html, {args.html: as_html})):
        for file, text_of in texts.items():
            if file == PRINTED:
                printed = text_of(report)
            elif path is not None:
                write_file(file, text_of(report))
    if getattr(args, "save", None) is not None:
        save_report(report, args.save)
    show(printed)


def csv_files(report: Report, path: Path | None) -> dict[Path, Callable[[Report], str]]:
    """The files of a report's tables, each with the function that returns its content.

    The first table goes to `path`, each further table to a file beside it that is named after its section. If `path` is
    not a regular file (`-`, /dev/stdout), only the first table is written, and a message on standard error says so.
    """
    if path is None:
        return {}
    others = report.sections[1:]
    if others and (path == PRINTED or (path.exists() and not path.is_file())):
        titles = ", ".join(f'"{section.title}"' for section in others)
        tell(f"{path} has the first table only; --csv FILE also writes {titles}, each to a file of its own\n")
        others = []
    names = [path, *(path.with_name(f"{path.stem}-{slug(section.title)}{path.suffix}") for section in others)]
    return {name: partial(as_csv, number=number) for number, name in enumerate(names)}


def slug(title: str) -> str:
    """A title as part of a file name: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def save_report(report: Report, path: Path) -> None:
    """Write the results of a report to an .npz file, with its provenance: a single result, or several by name."""
    results = {name: found.with_provenance(report.provenance) for name, found in report.results.items()}
    if len(results) == 1:
        next(iter(results.values())).save(path)
    else:
        save_results(results, path)


def write_file(path: Path, text: str) -> None:
    """Write a text to a UTF-8 file, completely or not at all. Errors: WorkbenchError if it cannot be written."""
    with output_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))
