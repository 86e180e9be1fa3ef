"""Faster linear layers for runs without gradients."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hooks.compat import times


class FastProducts(TorchFunctionMode):
    """In a `with` block of one thread: linear layers are computed by `hooks.compat.times` where no gradient is asked.

    Results differ from those of the ordinary layers by rounding only.
    """

    def __torch_function__(
        self, func: Callable[..., Tensor], types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Tensor:
        if func is not F.linear or kwargs or torch.is_grad_enabled() or type(args[1]) is not torch.nn.Parameter:
            return func(*args, **(kwargs or {}))
        found = times(args[0], args[1])
        return found if len(args) < 3 or args[2] is None else found + args[2]
