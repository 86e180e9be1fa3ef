"""The workbench without its page: `python -m workbench COMMAND`. One file a command, each with

- `EXAMPLES`, shown by `--help` below the docstring's first line;
- `add_arguments(parser)`;
- `run(arguments) -> Report`.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workbench.command_line import attention, check, compare, generate, lens, trajectory
from workbench.command_line.common import add_output_arguments
from workbench.errors import WorkbenchError
from workbench.report import as_csv, as_html, as_text

COMMANDS = {
    "generate": generate,
    "attention": attention,
    "lens": lens,
    "compare": compare,
    "trajectory": trajectory,
    "check": check,
}
PROGRAM = ("python", "-m", "workbench")
CODES = "exit codes: 0 fine; 1 it cannot be done (the reason is on stderr) or a check failed; 2 not understood"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, print its tables, write its files; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args(given)
    try:
        report = COMMANDS[args.command].run(args)
    except WorkbenchError as error:
        print(f"\r{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report = replace(report, provenance={"command": shlex.join([*PROGRAM, *given]), **report.provenance})
    if args.html:
        args.html.write_text(as_html(report), encoding="utf-8")
    if args.csv and args.csv != Path("-"):
        args.csv.write_text(as_csv(report), encoding="utf-8")
    show(as_csv(report) if args.csv == Path("-") else as_text(report) + "\n")
    return 0 if report.ok else 1


def show(text: str) -> None:
    """Print to a reader who may stop reading early, as `head` does."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    summaries = {name: str(command.__doc__).splitlines()[0] for name, command in COMMANDS.items()}
    listed = "\n".join(f"  {name:<12}{summary}" for name, summary in summaries.items())
    top = argparse.ArgumentParser(
        prog=" ".join(PROGRAM),
        description="Look inside OLMo checkpoints: tables on the terminal, CSV, or a page to keep.",
        epilog=f"commands:\n{listed}\n\n{CODES}\nEach command has examples: python -m workbench lens --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of those below")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            description=command.__doc__,
            epilog=f"examples:\n{command.EXAMPLES.rstrip()}\n\n{CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        add_output_arguments(sub)
    return top
