"""The workbench without its page: `python -m workbench COMMAND`. One file a command, each with

- `EXAMPLES`, shown by `--help` below the docstring's first line;
- `add_arguments(parser)`;
- `run(arguments) -> Report`.
"""

import argparse
import sys
from collections.abc import Sequence

from workbench.command_line import attention, check, compare, generate, lens, trajectory
from workbench.command_line.common import add_output_arguments
from workbench.errors import WorkbenchError
from workbench.report import as_text, write_csv, write_html

COMMANDS = {
    "generate": generate,
    "attention": attention,
    "lens": lens,
    "compare": compare,
    "trajectory": trajectory,
    "check": check,
}
CODES = "exit codes: 0 fine; 1 it cannot be done (the reason is on stderr) or a check failed; 2 not understood"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, print its tables, write its files; returns the exit code."""
    args = parser().parse_args(arguments)
    try:
        report = COMMANDS[args.command].run(args)
    except WorkbenchError as error:
        print(f"\r{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(as_text(report))
    if args.csv:
        write_csv(report, args.csv)
    if args.html:
        write_html(report, args.html)
    return 0 if report.ok else 1


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="python -m workbench",
        description="Look inside OLMo checkpoints: tables on the terminal, CSV, or a page to keep.",
        epilog=f"{CODES}\nEach command has examples: python -m workbench lens --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = command.__doc__.splitlines()[0]
        sub = commands.add_parser(
            name,
            help=summary,
            description=command.__doc__,
            epilog=f"examples:\n{command.EXAMPLES.rstrip()}\n\n{CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        add_output_arguments(sub)
    return top
