"""Are numbers numbers: NaN and infinity in weights, found at the price of reading them once."""

import torch
from torch import Tensor


def is_finite(numbers: Tensor) -> bool:
    """Whether no number is NaN or infinite: whether the least and the greatest are numbers, which are NaN where any is.

    Reading takes a tenth of the time that copying takes; `isfinite(numbers).all()` writes masks and takes five copies'.
    """
    return numbers.numel() == 0 or bool(torch.stack(torch.aminmax(numbers)).isfinite().all())


def how_not_finite(numbers: Tensor) -> str:
    """How many numbers are NaN or infinite, of how many."""
    nan, infinite = int(numbers.isnan().sum()), int(numbers.isinf().sum())
    found = [f"{count:,} {name}" for count, name in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"{' and '.join(found)} of {numbers.numel():,} numbers"
