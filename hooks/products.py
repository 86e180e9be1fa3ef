"""Linear layers, computed by the faster of torch's two CPU libraries in threads that request it.

    with fast_products():
        model.run(input_ids)

The forward pass calls every linear layer by `product`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .compat import is_plain, times

# The threads with an open block. Outside of them the set is empty, and a plain forward pass (and torch.compile) only
# tests for that.
_fast: set[int] = set()


@contextmanager
def fast_products() -> Iterator[None]:
    """Compute linear layers by `compat.times` in this thread's forward passes without gradients while the `with` block
    is open.

    Results differ from those of the ordinary layers by rounding only. Quantised, adapted, sharded and offloaded layers,
    and layers with hooks of torch, are called as always.
    """
    thread = threading.get_ident()
    outer = thread in _fast
    _fast.add(thread)
    try:
        yield
    finally:
        if not outer:
            _fast.remove(thread)


def product(layer: nn.Module, x: Tensor) -> Tensor:
    """The output of a linear layer: … in -> … out."""
    fast = _fast and threading.get_ident() in _fast and not torch.is_grad_enabled()
    found: Tensor = times(x, layer.weight, layer.bias) if fast and is_plain(layer) else layer(x)
    return found
