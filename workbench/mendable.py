"""The errors whose messages are shown to the user. Every other error is a bug and is not caught."""

import torch

from hooks import HooksError
from workbench.errors import WorkbenchError

MENDABLE = (WorkbenchError, HooksError, torch.OutOfMemoryError)
