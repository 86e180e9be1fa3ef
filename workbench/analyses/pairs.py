"""Two models to compare, both in memory or one after the other.

A comparison needs something of A and the same of B, piece by piece (a window of text, a layer). Where both are models
the pieces are made side by side; where one is only named, A's are kept in files while B takes its place in memory. The
pieces are the same numbers either way, and so is what is made of them.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.checkpoints import Checkpoint
from workbench.checkpoints.loading import gigabytes
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part

Subject = OlmoForCausalLM | Checkpoint | str
"""A model in memory, or a checkpoint that is loaded for as long as it is needed: an entry of a series, or an id."""

SPARED = 2**29
"""Bytes of the disk that are left free."""

Pieces = Callable[[OlmoForCausalLM], Iterator[Tensor]]


def side_by_side(
    a: Subject, b: Subject, pieces: Pieces, progress: Progress | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pieces of A and of B in pairs, float32 on the CPU.

    Errors: WorkbenchError if the two have vocabularies of different size, or A's pieces do not fit on the disk, and
    those of `checkpoints.load`.
    """
    if isinstance(a, OlmoForCausalLM) and isinstance(b, OlmoForCausalLM):
        _same_vocabulary(a.config.vocab_size, b.config.vocab_size)
        for one, other in zip(pieces(a), pieces(b), strict=True):
            yield one.float().cpu(), other.float().cpu()
        return
    with tempfile.TemporaryDirectory(prefix="olmo-pair-") as folder:
        model = opened(a, part(progress, 0.0, 0.4))
        vocabulary, count = model.config.vocab_size, 0
        for count, piece in enumerate(pieces(model), start=1):
            _keep(piece, Path(folder) / f"{count}.pt")
            if progress is not None:
                progress(0.4, f"{name_of(a, 'A')}: {count} pieces")
        del model, piece
        model = opened(b, part(progress, 0.4, 0.8))
        _same_vocabulary(vocabulary, model.config.vocab_size)
        for number, piece in enumerate(pieces(model), start=1):
            file = Path(folder) / f"{number}.pt"
            yield torch.load(file).float(), piece.float().cpu()
            file.unlink()
        assert number == count, f"{count} pieces of A and {number} of B"


def _keep(piece: Tensor, file: Path) -> None:
    """Write a piece to a file, in its own dtype. Errors: WorkbenchError if there is no room for it."""
    free = shutil.disk_usage(file.parent).free
    if piece.nbytes > free - SPARED:
        raise WorkbenchError(
            f"what A computes is kept in {file.parent} while B is loaded, and the next {gigabytes(piece.nbytes)} do "
            f"not fit into the {gigabytes(free)} that are free there; give a shorter text, a TMPDIR on a larger disk, "
            "or two models that are both in memory"
        )
    torch.save(piece.detach().contiguous().cpu().clone(), file)


def opened(subject: Subject, progress: Progress | None = None) -> OlmoForCausalLM:
    """The model itself; a checkpoint that is only named is loaded."""
    return subject if isinstance(subject, OlmoForCausalLM) else checkpoints.load(subject, progress=progress)[0]


def name_of(subject: Subject, fallback: str) -> str:
    """What to call a subject in titles: its id, or the fallback for a model in memory."""
    if isinstance(subject, OlmoForCausalLM):
        return fallback
    return subject if isinstance(subject, str) else subject.id


def _same_vocabulary(one: int, other: int) -> None:
    if one != other:
        raise WorkbenchError(
            f"the checkpoints have vocabularies of {one:,} and {other:,} tokens: not the same tokenizer"
        )
