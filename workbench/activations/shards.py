"""One shard: tensors in a safetensors file that says which recording it is a part of, with a digest of the tensors."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from workbench.whole_files import output_file

MARK = "part_of"
"""The metadata of a shard: the recording and the shard's number, then the digest. One entry, because the order of
several is random, and two processes should write the same bytes.
"""
TensorForms = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""The dtype and the shape of each tensor of a shard."""


def write_shard(path: Path, tensors: Mapping[str, Tensor], part_of: str) -> None:
    """Write contiguous tensors of the CPU to a file, completely or not at all.

    `part_of` names the recording and the shard. Errors: WorkbenchError if the file cannot be written.
    """
    with output_file(path) as file:
        file.write(save(dict(tensors), {MARK: f"{part_of} {digest(tensors)}"}))


def open_shard(
    path: Path, part_of: str, shapes: TensorForms | None, *, check_digest: bool = False
) -> dict[str, Tensor] | None:
    """The tensors of a shard as memory maps; None if the file is missing, damaged, or part of another recording.

    `shapes` are the forms that the tensors should have; None if they may have any. Changing a tensor in place does not
    change the file. `check_digest` reads the whole file; without it, only the header and the size of the file are
    checked.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    mark, _, said = metadata.get(MARK, "").rpartition(" ")
    if mark != part_of or (shapes is not None and found != dict(shapes)) or (check_digest and said != digest(tensors)):
        return None
    return tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
