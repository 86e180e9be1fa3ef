"""A cache of recent results, limited in number of entries and in bytes."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor


class ResultCache:
    """Values by key, at most `most` of them and `most_bytes` bytes in total. The least recently used are dropped first.

    A single value larger than `most_bytes` is not kept.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._things: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._things)

    @property
    def nbytes(self) -> int:
        """The approximate total size of all values, in bytes."""
        return sum(size for _, size in self._things.values())

    def get(self, key: Hashable) -> Any | None:  # noqa: ANN401 - whatever was kept
        """The value of a key, which becomes the most recently used; None if there is none."""
        with self._lock:
            if key not in self._things:
                return None
            self._things.move_to_end(key)
            return self._things[key][0]

    def put(self, key: Hashable, thing: object) -> None:
        """Store a value under a key; the least recently used values are dropped until the limits hold."""
        size = weight(thing)
        with self._lock:
            self._things.pop(key, None)
            if size > self.most_bytes:
                return
            self._things[key] = thing, size
            while len(self._things) > self.most or self.nbytes > self.most_bytes:
                self._things.popitem(last=False)


def weight(thing: object) -> int:
    """The approximate size of a value in bytes: the sum over its arrays, strings and other leaves."""
    if isinstance(thing, str):
        return sys.getsizeof(thing)  # tested first, since most values are strings
    if isinstance(thing, np.ndarray | Tensor):
        return thing.nbytes
    if isinstance(thing, Mapping):
        return sum(weight(value) for value in thing.values())
    if isinstance(thing, tuple | list):
        if {*map(type, thing)} <= {str, int, float}:
            return sum(map(sys.getsizeof, thing))  # many times as fast, for the tokens of a long text
        return sum(weight(value) for value in thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        return sum(weight(getattr(thing, field.name)) for field in fields(thing))
    return sys.getsizeof(thing)
