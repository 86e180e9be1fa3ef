"""The command line: `python -m workbench --help`.

Exit codes: 0 fine; 1 what was asked cannot be done (its reason is on stderr), or a check failed; 2 the command line was
not understood; 130 interrupted.
"""

import sys

from workbench.interrupts import exit_on_interrupt

exit_on_interrupt()

from workbench.command_line import main  # noqa: E402 - takes longer to import
from workbench.streams import prepare_streams  # noqa: E402

prepare_streams()
sys.exit(main())
