"""Read tensors from checkpoint files, one at a time or by rows. Every file is checked first.

A safetensors file has 8 bytes of header length, a JSON header, and the raw numbers (specification:
https://github.com/huggingface/safetensors). The numbers are read with ordinary file reads, not through a memory map, so
that only the requested rows take memory. A pickle file is opened only with `torch.load(weights_only=True)`, which does
not run code.
"""

import json
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import RawIOBase
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from workbench.errors import WorkbenchError, reason, shown

STORED_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin", "model.pt")
UNCONVERTED = {
    "model_and_optim": "convert them with OLMo-core's src/examples/huggingface/convert_checkpoint_to_hf.py (for a run "
    "with config.yaml: OLMo's scripts/unshard.py)",
    "model/rank*.pt": "OLMo's scripts/unshard.py converts them to model.pt",
    "rank*.pt": "OLMo's scripts/unshard.py converts them to model.pt",
    "*.distcp": "torch.distributed.checkpoint.format_utils.dcp_to_torch_save converts them to one file",
}
"""Files of distributed training that are not read, by pattern, and the tool that converts them."""

MOST_HEADER_BYTES = 100_000_000
MOST_TEXT_BYTES = 100_000_000  # size of a config, an index or a tokenizer file
MOST_NAME_BYTES = 255  # length of a file name

NO_TENSORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)
"""Errors that `torch.load` raises for a file that `torch.save` did not write, or that is incomplete."""


@dataclass(frozen=True)
class Entry:
    """Shape and dtype of one tensor in a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class StoredEntry(Entry):
    """A tensor that is stored contiguously in its file, from byte `start`."""

    start: int


class TensorFile(Protocol):
    """A file of named tensors."""

    @property
    def path(self) -> Path:
        """Path of the file."""
        ...

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The tensors of the file by name."""
        ...

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        """A copy of the rows `start:stop` of a tensor (along its first dimension), in the dtype of the file."""
        ...


@dataclass(frozen=True)
class SafetensorsFile:
    """One safetensors file."""

    path: Path

    @cached_property
    def entries(self) -> dict[str, StoredEntry]:
        """All tensors of the file by name, from its header.

        Errors: WorkbenchError if the file is shorter or longer than its header says, or is not a safetensors file.
        """
        with _opening(self.path):
            size = self.path.stat().st_size
            header, data_start = self._header(size)
        entries = {key: self._entry(key, said, data_start) for key, said in header.items() if key != "__metadata__"}
        end = max((entry.start + entry.nbytes for entry in entries.values()), default=data_start)
        if size < end:
            raise WorkbenchError(
                f"{self.path} is truncated: its header describes {end:,} bytes, but the file has {size:,}; "
                "download or copy it again"
            )
        if size > end:
            raise WorkbenchError(f"{self.path} has {size:,} bytes, but its header describes only {end:,}")
        self._check_that_none_overlap(entries)
        return entries

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        entry = self.entries[key]
        row_bytes = entry.nbytes // entry.shape[0] if entry.shape and entry.shape[0] else entry.nbytes
        shape = (stop - start, *entry.shape[1:]) if entry.shape else ()
        out = torch.empty(shape, dtype=entry.dtype)
        with _opening(self.path), self.path.open("rb", buffering=0) as file:
            file.seek(entry.start + start * row_bytes)
            _fill(out, file, self.path)
        return out

    def _check_that_none_overlap(self, entries: Mapping[str, StoredEntry]) -> None:
        """Raise WorkbenchError if two tensors have bytes in common, which the format forbids."""
        in_order = sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes))
        for (name, entry), (after, following) in pairwise(in_order):
            if entry.start + entry.nbytes > following.start:
                raise WorkbenchError(f"{self.path}: the header gives {shown(name)} and {shown(after)} the same bytes")

    def _header(self, size: int) -> tuple[dict[str, dict], int]:
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MOST_HEADER_BYTES):
                raise WorkbenchError(f"{self.path} ({size:,} bytes) is truncated or is not a safetensors file")
            raw = file.read(length)
        try:
            header = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise WorkbenchError(
                f"{self.path} is not a safetensors file: its header is not JSON ({reason(error)})"
            ) from error
        if not isinstance(header, dict):
            raise WorkbenchError(f"{self.path} is not a safetensors file: its header is not a JSON object")
        return header, 8 + length

    def _entry(self, key: str, said: dict, data_start: int) -> StoredEntry:
        try:
            name, shape, (begin, end) = said["dtype"], tuple(said["shape"]), said["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken(key, said) from error
        if not isinstance(name, str) or any(type(number) is not int or number < 0 for number in (*shape, end)):
            raise self._broken(key, said)
        if name not in STORED_DTYPES:
            raise WorkbenchError(
                f"{self.path}: {shown(key)} has dtype {shown(name)}; readable dtypes: {', '.join(STORED_DTYPES)}"
            )
        entry = StoredEntry(shape, STORED_DTYPES[name], data_start + begin)
        if begin < 0 or end - begin != entry.nbytes:
            raise WorkbenchError(
                f"{self.path}: {shown(key)} of shape {shown(list(shape))} and dtype {name} needs {entry.nbytes:,} "
                f"bytes, but the header gives it {end - begin:,}"
            )
        return entry

    def _broken(self, key: str, said: object) -> WorkbenchError:
        return WorkbenchError(f"{self.path}: the header's entry for {shown(key)} is broken: {shown(said)}")


@dataclass(frozen=True)
class PickleFile:
    """One file written by `torch.save`; code in it is never run."""

    path: Path

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """All tensors of the file by name.

        Errors: WorkbenchError if the file contains anything else than tensors, or cannot be read.
        """
        return {key: Entry(tuple(tensor.shape), tensor.dtype) for key, tensor in self._tensors.items()}

    def rows(self, key: str, start: int, stop: int) -> Tensor:
        tensor = self._tensors[key]
        return (tensor[start:stop] if tensor.ndim else tensor).clone()

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        with _opening(self.path):
            try:
                loaded = torch.load(self.path, map_location="cpu", weights_only=True, mmap=_is_zip(self.path))
            except pickle.UnpicklingError as error:
                raise WorkbenchError(
                    f"{self.path} holds pickled code or objects, which are never run; only tensors are read from "
                    "pickle files. If you trust it, convert it to safetensors"
                ) from error
            except NO_TENSORS as error:
                raise WorkbenchError(f"{self.path} is truncated or not a file of tensors: {reason(error)}") from error
        plain = isinstance(loaded, dict) and all(
            isinstance(key, str)
            and isinstance(value, Tensor)
            and value.device.type == "cpu"
            and value.layout is torch.strided
            for key, value in loaded.items()
        )
        if not plain:
            raise WorkbenchError(f"{self.path} is not a dictionary of dense tensors")
        return loaded


def tensor_files(folder: Path) -> list[TensorFile]:
    """The weight files of a checkpoint folder: the shards of an index, or one file; safetensors before pickles.

    Errors: WorkbenchError that names the missing files.
    """
    for name in INDEX_FILES:
        if is_there(folder / name):
            return [_opened(path) for path in _shards(folder / name)]
    for name in SINGLE_FILES:
        if is_there(folder / name):
            return [_opened(folder / name)]
    raise WorkbenchError(why_no_weights(folder))


def has_weights(folder: Path) -> bool:
    """Whether a folder has a weight file or an index of weight files that can be read."""
    return any((folder / name).is_file() for name in INDEX_FILES + SINGLE_FILES)


def why_no_weights(folder: Path) -> str:
    """The message for a folder without readable weights: its contents, and how to convert them if that is known."""
    for place, remedy in UNCONVERTED.items():
        if next(folder.glob(place), None) is not None:
            return f"{folder} holds the shards of a distributed run ({place}), which cannot be read directly; {remedy}"
    pieces = sorted(path.name for path in folder.glob("*-of-*"))
    if pieces:
        return (
            f"{folder} is incomplete: it has {len(pieces)} shards ({pieces[0]}, …) but no index file "
            f"({' or '.join(INDEX_FILES)})"
        )
    there = sorted(_name_and_kind(path) for path in folder.iterdir()) if folder.is_dir() else []
    return (
        f"no weights in {folder}: looked for {', '.join(INDEX_FILES + SINGLE_FILES)}; "
        f"found {', '.join(there[:12]) or 'nothing'}"
    )


def _name_and_kind(path: Path) -> str:
    """The name of a file; for a folder or a broken link, the name and its kind."""
    return path.name if path.is_file() else f"{path.name} ({'a folder' if path.is_dir() else 'a broken link'})"


def is_there(path: Path) -> bool:
    """Whether a file exists. Errors: WorkbenchError if the path is something else: a folder, a broken link."""
    try:
        if path.is_file():
            return True
        other = "a folder" if path.is_dir() else "a link to a file that does not exist" if path.is_symlink() else ""
        if not other and not path.exists():
            return False
    except (OSError, ValueError) as error:
        raise WorkbenchError(f"{shown(str(path))} is not a valid file name: {reason(error)}") from error
    raise WorkbenchError(f"{path} is {other or 'something else'} where a file was expected")


def read_text(path: Path) -> str:
    """The text of a file. Errors: WorkbenchError with its path if it cannot be read, is not UTF-8, or is too large."""
    with _opening(path):
        size = path.stat().st_size
        if size > MOST_TEXT_BYTES:
            raise WorkbenchError(f"{path} is too large: it has {size:,} bytes; at most {MOST_TEXT_BYTES:,} are read")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise WorkbenchError(f"{path} is not UTF-8 text: {reason(error)}") from error


def read_json(path: Path) -> dict:
    """The object of a JSON file. Errors: WorkbenchError with its path if it cannot be read or is not a JSON object."""
    text = read_text(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WorkbenchError(f"{path} cannot be read as JSON: {reason(error)}") from error
    if not isinstance(found, dict):
        raise WorkbenchError(f"{path} holds {type(found).__name__} instead of a JSON object")
    return found


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into a WorkbenchError that names the file."""
    try:
        yield
    except OSError as error:
        raise WorkbenchError(f"{path} cannot be read: {error.strerror or reason(error)}") from error


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WorkbenchError(f"{index} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise WorkbenchError(f"{index} names a file outside its folder: {shown(outside[0])}")
    too_long = [name for name in names if len(name.encode(errors="replace")) > MOST_NAME_BYTES]
    if too_long:
        raise WorkbenchError(f"{index} names a file with too long a name: {shown(too_long[0])}")
    missing = [name for name in names if not is_there(index.parent / name)]
    if missing:
        raise WorkbenchError(
            f"{index.parent} is incomplete: {len(missing)} of {len(names)} shards that {index.name} names are "
            f"missing: {', '.join(shown(name) for name in missing[:4])}"
        )
    return [index.parent / name for name in names]


def _opened(path: Path) -> TensorFile:
    return SafetensorsFile(path) if path.suffix == ".safetensors" else PickleFile(path)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _fill(out: Tensor, file: RawIOBase, path: Path) -> None:
    """Read the next bytes of an open file into a tensor's memory."""
    if out.numel() == 0:
        return
    view = out.view(-1).view(torch.uint8).numpy().data
    done = 0
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            raise WorkbenchError(f"{path} ended while it was read")
        done += got
