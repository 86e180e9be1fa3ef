"""Comparison of two models, both in memory or loaded one after the other.

A comparison computes the same pieces of A and of B, for example one for each window of text, and compares them in
pairs. If A and B are both models in memory, their pieces are computed in turn. Otherwise A's pieces are written to
files before B is loaded. The pieces, and so the results, are the same numbers in both cases.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.support.memory import Reader
from workbench.checkpoints import CheckpointLike
from workbench.checkpoints.loading import readable
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps

ModelOrName = OlmoForCausalLM | CheckpointLike
"""A model in memory, or a checkpoint that is loaded while it is needed, with the defaults of `checkpoints.load`."""

SPARED = 2**29
"""Bytes of the disk that stay free."""

Pieces = Callable[[OlmoForCausalLM], Iterator[Tensor]]


def paired_pieces(
    a: ModelOrName, b: ModelOrName, pieces: Pieces, count: int, progress: Progress | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of the pieces of A and of B, float32 on the CPU. There are `count` pairs.

    Errors: WorkbenchError if the vocabularies of the two differ in size, or A's pieces do not fit on the disk, and
    those of `checkpoints.load`.
    """
    sizes = [config_of(subject).vocab_size for subject in (a, b)]
    if sizes[0] != sizes[1]:
        raise WorkbenchError(
            f"the checkpoints have vocabularies of {sizes[0]:,} and {sizes[1]:,} tokens, so their tokenizers differ"
        )
    if isinstance(a, OlmoForCausalLM) and isinstance(b, OlmoForCausalLM):
        both = zip(pieces(a), pieces(b), strict=True)
        for _, (one, other) in zip(steps(range(count), progress, "comparing"), both, strict=True):
            yield one.float().cpu(), other.float().cpu()
        return
    with tempfile.TemporaryDirectory(prefix="olmo-pair-") as folder:
        files = [Path(folder) / f"{number}.pt" for number in range(count)]
        _write_pieces(a, pieces, files, part(progress, 0.0, 0.5))
        model = loaded_model(b, part(progress, 0.5, 0.75))
        told = steps(files, part(progress, 0.75, 1.0), f"comparing with {name_of(b, 'B')}")
        for file, piece in zip(told, pieces(model), strict=True):
            yield torch.load(file).float(), piece.float().cpu()
            file.unlink()


def _write_pieces(subject: ModelOrName, pieces: Pieces, files: Sequence[Path], progress: Progress | None) -> None:
    """Write the pieces of a subject to files. If the subject is not in memory, it is loaded only for that time."""
    model = loaded_model(subject, part(progress, 0.0, 0.5))
    told = steps(files, part(progress, 0.5, 1.0), f"running {name_of(subject, 'A')}")
    for file, piece in zip(told, pieces(model), strict=True):
        _keep(piece, file)


def _keep(piece: Tensor, file: Path) -> None:
    """Write a piece to a file, in its own dtype. Errors: WorkbenchError if the disk has no room for it."""
    free = shutil.disk_usage(file.parent).free
    if piece.nbytes > free - SPARED:
        raise WorkbenchError(
            f"the results of A are kept in {file.parent} while B is loaded, and the next {readable(piece.nbytes)} do "
            f"not fit: {readable(free)} are free there, and {readable(SPARED)} must stay free; use a shorter text, "
            "a TMPDIR on a larger disk, or two models that are both in memory"
        )
    torch.save(piece.detach().contiguous().cpu().clone(), file)


def config_of(subject: ModelOrName) -> PreTrainedConfig:
    """The configuration of a model or a checkpoint, read without loading the weights."""
    if isinstance(subject, OlmoForCausalLM):
        return subject.config
    return checkpoints.open_weights(checkpoints.locate(subject)).config


def reader(subject: ModelOrName) -> Reader:
    """The model, or the configuration of a checkpoint that will be loaded, for `support.memory` and `support.cost`."""
    return subject if isinstance(subject, OlmoForCausalLM) else config_of(subject)


def shared_layers(a: ModelOrName, b: ModelOrName) -> int:
    """The number of layers of A and B. Errors: WorkbenchError if they differ in their number of layers or heads."""
    shapes = [(config.num_hidden_layers, config.num_attention_heads) for config in (config_of(a), config_of(b))]
    if shapes[0] != shapes[1]:
        raise WorkbenchError(f"A has {shapes[0][0]} layers of {shapes[0][1]} heads, B {shapes[1][0]} of {shapes[1][1]}")
    return shapes[0][0]


def loaded_model(subject: ModelOrName, progress: Progress | None = None) -> OlmoForCausalLM:
    """The model itself, or the loaded checkpoint."""
    if isinstance(subject, OlmoForCausalLM):
        return subject
    return checkpoints.load(subject, with_tokenizer=False, progress=progress)[0]


def name_of(subject: ModelOrName, fallback: str) -> str:
    """The name of a model or a checkpoint for titles: its id, or the fallback for a model in memory."""
    if isinstance(subject, OlmoForCausalLM):
        return fallback
    return checkpoints.id_of(subject)


def pair_name(a: ModelOrName, b: ModelOrName) -> str:
    """The names of A and B for the end of a title: " (A: tiny-olmo@step0, B: tiny-olmo)". Models in memory have no
    name; for two of them it is the empty string.
    """
    said = [f"{letter}: {name}" for letter, one in (("A", a), ("B", b)) if (name := name_of(one, "")) != ""]
    return f" ({', '.join(said)})" if said else ""
