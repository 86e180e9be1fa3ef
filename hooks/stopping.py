"""Stopping a forward or backward pass between two blocks.

    with stoppable(check):
        model.run(input_ids)

`check` is called before each block and raises an exception to stop the pass.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# The checks by thread. Outside of `stoppable` blocks the dict is empty, and a plain forward pass (and torch.compile)
# only tests for that.
_checks: dict[int, Callable[[], None]] = {}


@contextmanager
def stoppable(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before each block of all forward passes of this thread while the `with` block is open, and before
    each block of the backward passes through them.

    `check` raises an exception to stop a pass; the exception reaches the caller of the pass. No number changes. An
    inner `with` block replaces the check of the outer one.
    """
    thread = threading.get_ident()
    outer = _checks.get(thread)
    _checks[thread] = check
    try:
        yield
    finally:
        if outer is None:
            del _checks[thread]
        else:
            _checks[thread] = outer


def check_stop() -> None:
    """Call the check of the `stoppable` block that is open in this thread; does nothing if there is none."""
    check = _checks.get(threading.get_ident()) if _checks else None
    if check is not None:
        check()


def before_block(x: Tensor) -> None:
    """Call the check of this thread now, and again when a backward pass has reached `x`, the input of a block."""
    check = _checks.get(threading.get_ident()) if _checks else None
    if check is None:
        return
    check()
    if x.requires_grad and not x.is_leaf and torch.is_grad_enabled():
        x.register_hook(lambda gradient: check())
