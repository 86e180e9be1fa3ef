"""The command line: `python -m workbench --help`, or `olmo-workbench --help` where the package is installed.

Exit codes: 0 fine; 1 what was asked cannot be done (its reason is on stderr), or a check failed; 2 the command line was
not understood; 130 interrupted.
"""

import sys

from workbench.interrupts import exit_on_interrupt


def run() -> None:
    """Do what the command line asks, and exit."""
    exit_on_interrupt()
    from workbench.command_line import main  # takes longer to import
    from workbench.streams import prepare_streams

    prepare_streams()
    sys.exit(main())


if __name__ == "__main__":
    run()
