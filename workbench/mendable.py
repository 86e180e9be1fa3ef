"""The errors whose sentences are shown to people. Any other is a fault of the program, and stays one."""

import torch

from hooks import HooksError
from workbench.errors import WorkbenchError

MENDABLE = (WorkbenchError, HooksError, torch.OutOfMemoryError)
