"""The command line: `python -m workbench --help`, or `olmo-workbench --help` where the package is installed.

Exit codes: 0 success; 1 the command cannot be done (the reason is on stderr), or a check failed; 2 usage error; 130
interrupted.
"""

import sys

from workbench.interrupts import exit_on_interrupt


def run() -> None:
    """Run the command line, and exit with its exit code."""
    exit_on_interrupt()
    from workbench.command_line import main  # a slow import, so it comes after the interrupt handler
    from workbench.streams import prepare_streams

    prepare_streams()
    sys.exit(main())


if __name__ == "__main__":
    run()
