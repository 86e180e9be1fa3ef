"""Show a result that was saved with --save, or with `save` in Python."""

import argparse
from pathlib import Path

from workbench.report import Report, report_of_all
from workbench.result_files import load_result

EXAMPLES = """
  python -m workbench show lens.npz
  python -m workbench show lens.npz --csv lens.csv --html lens.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument: a file."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the .npz file of a saved result")


def run(args: argparse.Namespace) -> Report:
    """A table for each result of the file, with its plots and the provenance that it was saved with."""
    found = load_result(args.file)
    several = isinstance(found, dict)
    return report_of_all(found if several else {title_of(found) or args.file.name: found}, args.file.name)


def title_of(found: object) -> str:
    """The title of a result; "" for `Measures`, which have none."""
    return getattr(found, "title", "")
