"""Checkpoints: list the checkpoints of a series, read their files, load them as models."""

from workbench.checkpoints.catalog import (
    Checkpoint,
    CheckpointLike,
    Gap,
    Series,
    finals,
    folder_series,
    gaps,
    id_of,
    main_run,
    pick,
    series,
)
from workbench.checkpoints.check import check
from workbench.checkpoints.loading import Need, estimate, is_here, load, locate, outline, tokenizer_of
from workbench.checkpoints.names import Revision, parse
from workbench.checkpoints.published import PUBLISHED, Published
from workbench.checkpoints.residency import Residents
from workbench.checkpoints.weights import Weights, fingerprint, open_weights

__all__ = [
    "PUBLISHED",
    "Checkpoint",
    "CheckpointLike",
    "Gap",
    "Need",
    "Published",
    "Residents",
    "Revision",
    "Series",
    "Weights",
    "check",
    "estimate",
    "finals",
    "fingerprint",
    "folder_series",
    "gaps",
    "id_of",
    "is_here",
    "load",
    "locate",
    "main_run",
    "open_weights",
    "outline",
    "parse",
    "pick",
    "series",
    "tokenizer_of",
]
