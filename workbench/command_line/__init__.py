"""The workbench without its page: `python -m workbench COMMAND`. One file a command, each with

- a docstring, whose first line is the command's summary;
- `EXAMPLES`, shown by `--help` below it;
- `add_arguments(parser)`;
- `run(arguments) -> Report`.

No more is imported than the command that is asked for, so that `--help` and mistakes are answered at once.
"""

import argparse
import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from workbench.errors import WorkbenchError
from workbench.imports import uncollected
from workbench.interrupts import INTERRUPTED, unwound_on_interrupt
from workbench.streams import check_output, complain, show, tell

COMMANDS = ("generate", "attention", "lens", "compare", "trajectory", "check")
PROGRAM = ("python", "-m", "workbench")
CODES = (
    "exit codes: 0 fine; 1 it cannot be done (the reason is on stderr) or a check failed; 2 not understood; 130 Ctrl-C"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, print its tables, write its files; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        check_output()
        return run(understood(given), [*PROGRAM, *given])
    except (WorkbenchError, OSError) as error:  # what the operating system refuses, whoever runs this can mend
        complain(error)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if not isinstance(error, mendable()):
            raise
        complain(error)
        return 1


def understood(given: Sequence[str]) -> argparse.Namespace:
    """The arguments. Errors: WorkbenchError for one that is no text; SystemExit for help, or if they make no sense."""
    for word in given:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise WorkbenchError(f"the argument {word!a} is no text in {sys.getfilesystemencoding()}") from error
    try:
        return parser(given).parse_args(given)
    finally:  # help and usage have been printed
        tell()
        show()


def run(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Run a command, where its results can be written; returns the exit code."""
    output = imported("output")
    output.check(args)
    with unwound_on_interrupt():
        report = imported(args.command).run(args)
        output.write(report, args, command)
    return 0 if report.ok else 1


def mendable() -> tuple[type[Exception], ...]:
    """The errors whose sentences are shown."""
    return import_module("workbench.mendable").MENDABLE


def imported(name: str) -> ModuleType:
    """One of the modules here."""
    with uncollected():
        return import_module(f"{__name__}.{name}")


def parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """The command line's grammar, as far as the words that were given need it."""
    listed = "\n".join(f"  {name:<12}{summary(name)}" for name in COMMANDS)
    top = argparse.ArgumentParser(
        prog=" ".join(PROGRAM),
        description="Look inside OLMo checkpoints: tables on the terminal, CSV, or a page to keep.",
        epilog=f"commands:\n{listed}\n\n{CODES}\nEach command has examples: python -m workbench lens --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of those below")
    for name in COMMANDS:
        sub = commands.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in given:
            command = imported(name)
            sub.description, sub.epilog = command.__doc__, f"examples:\n{command.EXAMPLES.rstrip()}\n\n{CODES}"
            command.add_arguments(sub)
            imported("output").add_arguments(sub)
    return top


def summary(name: str) -> str:
    """What a command does: the first line of its file, read without importing it."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return str(ast.get_docstring(ast.parse(source))).splitlines()[0]
