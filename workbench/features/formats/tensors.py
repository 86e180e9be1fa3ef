"""Tensors and settings of the files of dictionaries, with errors that name the file."""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from workbench.checkpoints.files import SafetensorsFile
from workbench.errors import WorkbenchError, reason, shown
from workbench.whole_files import output_file

Setting = TypeVar("Setting", bool, int, str)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, float32. Errors: WorkbenchError with its path if it is damaged."""
    file = SafetensorsFile(path)
    return {name: file.rows(name, 0, (*entry.shape, 1)[0]).float() for name, entry in file.entries.items()}


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of a numpy file, float32; pickled objects are refused. Errors: WorkbenchError with its path."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: torch.tensor(np.asarray(file[name], dtype=np.float32)) for name in file.files}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise WorkbenchError(f"{path} is damaged or holds no arrays: {reason(error)}") from error


def named_tensor(tensors: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    """A tensor by name. Errors: WorkbenchError with the names that there are."""
    if name not in tensors:
        raise WorkbenchError(f"{path} has no {name!r}; it has {', '.join(map(shown, tensors)) or 'nothing'}")
    return tensors[name]


def setting(config: Mapping[str, Any], name: str, default: Setting, path: Path) -> Setting:
    """A setting of a config, of the type of its default, which it has if it is missing.

    Errors: WorkbenchError for a setting of another type.
    """
    value = config.get(name)
    if value is None:
        return default
    if type(value) is not type(default):
        raise WorkbenchError(f"{path}: {name!r} is {shown(value)}; it should be of type {type(default).__name__}")
    return value


def integer_setting(config: Mapping[str, Any], name: str, path: Path) -> int:
    """A whole number, which must be there. Errors: WorkbenchError if it is not."""
    value: Any = config.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value == int(value):
        return int(value)
    raise WorkbenchError(f"{path}: {name!r} is {shown(value)}; it should be a whole number")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write a safetensors file. Errors: WorkbenchError if it cannot be written."""
    _write_bytes(path, save({name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in tensors.items()}))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file. Errors: WorkbenchError if it cannot be written."""
    _write_bytes(path, json.dumps(value, indent=1).encode())


def write_text(path: Path, text: str) -> None:
    """Write a text file. Errors: WorkbenchError if it cannot be written."""
    _write_bytes(path, text.encode())


def _write_bytes(path: Path, content: bytes) -> None:
    with output_file(path, make_folder=True) as file:
        file.write(content)
