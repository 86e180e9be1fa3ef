"""Cache keys of values: equal for two values with the same contents, in any process."""

import functools
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.texts import Texts


@runtime_checkable
class HasIdentity(Protocol):
    """A value whose key is made from a part of its contents only."""

    @property
    def cache_identity(self) -> tuple[object, ...]:
        """What the key is made from."""


def content_key(value: object) -> object:
    """A form of a value whose hash depends on its contents only.

    The key of a function is made from its source, its defaults and its closure; that of a dataclass from its fields, or
    from its `cache_identity` if it has one.

    Errors: WorkbenchError for a function whose source cannot be read.
    """
    if isinstance(value, Tensor):
        return ("tensor", str(value.dtype), value.detach().cpu().double().numpy())
    if isinstance(value, Texts):
        return ("texts", content_key(value.ids), content_key(value.mask), value.labels)
    if isinstance(value, functools.partial):
        return (content_key(value.func), content_key(value.args), content_key(value.keywords))
    if isinstance(value, HasIdentity):
        return tuple(map(content_key, value.cache_identity))
    if is_dataclass(value) and not isinstance(value, type):  # what it has computed besides its fields does not count
        return (type(value).__qualname__, [(one.name, content_key(getattr(value, one.name))) for one in fields(value)])
    if isinstance(value, Mapping):
        return [(name, content_key(item)) for name, item in sorted(value.items())]
    if isinstance(value, list | tuple):
        return [content_key(item) for item in value]
    if inspect.isfunction(value):
        try:
            source = inspect.getsource(value)
        except OSError as error:
            raise WorkbenchError(
                f"the source of {value.__qualname__} cannot be read, so its results cannot be cached; pass cache=None"
            ) from error
        held = [content_key(cell.cell_contents) for cell in value.__closure__ or ()]
        return (value.__module__, value.__qualname__, source, content_key(value.__defaults__), held)
    return repr(value) if isinstance(value, torch.dtype | torch.device) else value
