"""The command line: `python -m workbench --help`.

Exit codes: 0 fine; 1 what was asked cannot be done (its reason is on stderr), or a check failed; 2 the command line was
not understood; 130 interrupted.
"""

import sys

from workbench.command_line import main

sys.exit(main())
