"""Checkpoints whose folders are links out of the folder of their series."""

from pathlib import Path

from workbench.checkpoints import Checkpoint
from workbench.errors import WorkbenchError


def leads_out(checkpoint: Checkpoint) -> Path | None:
    """The folder of a checkpoint, links resolved, if it lies outside the folder of its local series; else None."""
    root = Path(checkpoint.name)
    real = (root / (checkpoint.revision or "")).resolve()
    return real if root.is_dir() and not real.is_relative_to(root.resolve()) else None


def check_root(checkpoint: Checkpoint) -> None:
    """Raise WorkbenchError for a checkpoint whose folder lies outside its series' folder."""
    real = leads_out(checkpoint)
    if real is not None:
        raise WorkbenchError(
            f"{checkpoint.id} is a link out of its series to {real}; to open it, give that folder with --series"
        )
