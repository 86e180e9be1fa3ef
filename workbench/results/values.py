"""Values and labels as results hold them, and the checks that they fit each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Values = np.ndarray | Any  # the constructor also takes a tensor, and anything that `np.array` takes
Names = tuple[str, ...] | Any  # the constructor takes a sequence of objects and applies `str`


def frozen_array(values: Values) -> np.ndarray:
    """A read-only float32 copy on the CPU. A read-only float32 array, or a view of a whole tensor, is not copied."""
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    is_float32 = isinstance(values, np.ndarray) and values.dtype == np.float32
    is_own = is_float32 and (values.flags.owndata or is_whole_tensor(values.base, values.nbytes))
    if is_own and not values.flags.writeable:
        return values
    array = np.array(values, dtype=np.float32)
    array.setflags(write=False)
    return array


def is_whole_tensor(base: object, nbytes: int) -> bool:
    """Whether an array's base is a tensor whose memory has this size, so that the array keeps no more than it shows."""
    return isinstance(base, torch.Tensor) and base.untyped_storage().nbytes() == nbytes


def labels(names: Sequence[object]) -> tuple[str, ...]:
    """Labels as a tuple of strings: `str` of each name."""
    return tuple(str(name) for name in names)


def label_column(names: Sequence[str]) -> np.ndarray:
    """Labels as a table column: integers if all labels are whole numbers (layers, heads), otherwise text."""
    whole = all(name.isascii() and name.isdecimal() for name in names)
    return np.array([int(name) for name in names]) if whole else np.array(names, dtype=object)


def count(things: Sequence[object], singular: str) -> str:
    """The number of things with the noun in its right form: "1 row", "3 rows"."""
    return f"{len(things)} {singular}{'' if len(things) == 1 else 's'}"


def check_shape(array: np.ndarray, expected: tuple[int, ...], there: str, what: str = "values") -> None:
    """Raise ValueError unless the array has the expected shape; `there` describes that shape in the message."""
    if array.shape != expected:
        raise ValueError(f"{what} are {array.shape} but there are {there}")


def check_positive(array: np.ndarray) -> None:
    """Raise ValueError unless all defined numbers are positive, as a logarithmic scale requires."""
    if np.nanmin(array, initial=1.0) <= 0:
        raise ValueError(f"a logarithmic scale cannot show {np.nanmin(array):g}")
