"""The workbench without its page: `python -m workbench COMMAND`. Each command is a module of this package, with

- a docstring, whose first line is the command's summary;
- `EXAMPLES`, which `--help` shows at its end;
- `add_arguments(parser)`;
- `run(arguments) -> Report`;
- `SAVES = False` if its reports hold tables only, so that `--save` would have no results to write.

Only the module of the given command is imported, so that `--help` and usage errors appear at once.
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
from workbench.streams import check_output, complain, tell
from workbench.streams import show as print_out  # `show` is a command

COMMANDS = (
    "generate", "attention", "lens", "probe", "steer", "texts", "ablate", "attribute", "patch", "circuit", "graph",
    "compare", "trajectory", "corpus", "features", "check", "show",
)  # fmt: skip
PROGRAM = ("python", "-m", "workbench")
CONSOLE_SCRIPT = "olmo-workbench"
CODES = "exit codes: 0 success; 1 error (the reason is on stderr) or failed check; 2 wrong usage; 130 Ctrl-C"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, print its tables, write its files; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        check_output()
        return run_command(parsed(given), [*program(), *given])
    except WorkbenchError as error:
        complain(WorkbenchError(submodule("spelling").in_options(str(error))))
        return 1
    except OSError as error:  # the user can correct errors of the operating system
        complain(error)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # the classes of `mendable` are imported only if an error occurs
        if not isinstance(error, mendable()):
            raise
        complain(error)
        return 1


def program() -> tuple[str, ...]:
    """The words that started this program: `olmo-workbench`, or `python -m workbench` for every other way."""
    return (CONSOLE_SCRIPT,) if Path(sys.argv[0]).stem == CONSOLE_SCRIPT else PROGRAM


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The arguments as a namespace. Errors: WorkbenchError for an argument that is not text; SystemExit after help or a
    usage error."""
    for word in given:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise WorkbenchError(f"the argument {word!a} is not text in {sys.getfilesystemencoding()}") from error
    try:
        return parser(given).parse_args(given)
    finally:  # help and usage have been printed
        tell()
        print_out()


def run_command(args: argparse.Namespace, command: Sequence[str]) -> int:
    """Check that results can be written, run a command and write its results; returns the exit code."""
    output = submodule("output")
    output.check_files(args)
    with unwound_on_interrupt():
        report = submodule(args.command).run(args)
        output.write_report(report, args, command)
    return 0 if report.ok else 1


def mendable() -> tuple[type[Exception], ...]:
    """The classes of errors whose messages are shown to the user."""
    return import_module("workbench.mendable").MENDABLE


def submodule(name: str) -> ModuleType:
    """A module of this package, imported with garbage collection switched off, which is faster."""
    with uncollected():
        return import_module(f"{__name__}.{name}")


def parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command line. Arguments are added only to commands that are named among the given words."""
    start = " ".join(program())
    listed = "\n".join(f"  {name:<12}{summary(name)}" for name in COMMANDS)
    top = argparse.ArgumentParser(
        prog=start,
        description="Look inside OLMo checkpoints: tables on the terminal, CSV files, or HTML pages.",
        epilog=f"commands:\n{listed}\n\n{CODES}\nEach command has examples: {start} lens --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of the commands below")
    for name in COMMANDS:
        sub = commands.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in given:
            command = submodule(name)
            examples = command.EXAMPLES.rstrip().replace(" ".join(PROGRAM), start)
            sub.description, sub.epilog = command.__doc__, f"examples:\n{examples}\n\n{CODES}"
            command.add_arguments(sub)
            submodule("output").add_output_arguments(sub, saves=getattr(command, "SAVES", True))
    return top


def summary(name: str) -> str:
    """The summary of a command: the first line of its module's docstring, read from the source."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return str(ast.get_docstring(ast.parse(source))).splitlines()[0]
