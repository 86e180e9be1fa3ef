"""Means over a set of texts, with their standard errors."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class MeansOverTexts:
    """The ratio Σ sums / Σ counts over texts, for numbers of any shape, and its standard error.

    With a sum s and a count n for each text (of losses and tokens; of weights and queries), the mean m = Σ s / Σ n
    weighs every token the same, and its standard error over T texts is

        √( T / (T − 1) · Σ (s − m n)² ) / |Σ n|

    which takes texts as independent and the tokens of one text as not (the linearised variance of a ratio, Cochran
    1977, "Sampling techniques", §6.4; cluster-robust, Liang and Zeger 1986). With n = 1 it is the standard deviation
    over √T. A text counts where its n is not 0. Memory: five numbers for each mean, however many texts there are.
    """

    def __init__(self) -> None:
        self._sums: tuple[Tensor, ...] = (torch.zeros((), dtype=torch.float64),) * 6
        self.texts = 0

    def add(self, sums: Tensor, counts: Tensor | float = 1.0) -> None:
        """Add some texts: sums, text …, and counts that broadcast to the same shape."""
        s = sums.detach().double().cpu()
        n = torch.as_tensor(counts, dtype=torch.float64).detach().cpu().expand(s.shape)
        terms = (s, n, s * s, s * n, n * n, (n != 0).double())
        self._sums = tuple(total + term.sum(0) for total, term in zip(self._sums, terms, strict=True))
        self.texts += len(s)

    @property
    def values(self) -> Tensor:
        """The means, float64; NaN where nothing was counted."""
        s, n = self._sums[:2]
        return s / n

    @property
    def errors(self) -> Tensor | None:
        """The standard errors, float64; NaN where fewer than two texts count. None with fewer than two texts."""
        if self.texts < 2:
            return None
        _, n, ss, sn, nn, there = self._sums
        m = self.values
        squares = (ss - 2 * m * sn + m * m * nn).clamp_min(0)
        scale = (there / (there - 1)).where(there > 1, float("nan"))
        return (scale * squares).sqrt() / n.abs()


def means_of(groups: Sequence[MeansOverTexts]) -> tuple[Tensor, Tensor | None]:
    """Values and errors of several means of one shape, stacked: group …; errors are None if no group has errors."""
    values = torch.stack([group.values for group in groups])
    found = [group.errors for group in groups]
    if all(errors is None for errors in found):
        return values, None
    nothing = torch.full_like(values[0], float("nan"))
    return values, torch.stack([nothing if errors is None else errors for errors in found])


def means_over_texts(sums: np.ndarray | np.float64, counts: np.ndarray | float = 1.0) -> MeansOverTexts:
    """The means of arrays that hold all texts: text …"""
    means = MeansOverTexts()
    means.add(torch.as_tensor(sums), torch.as_tensor(counts))
    return means
