"""Standard errors over texts of numbers that are no means over texts: the delete-one-group jackknife."""

import torch
from torch import Tensor

GROUPS = 10


def text_groups(texts: int, groups: int) -> Tensor:
    """The number of the group of each text: text. The groups are drawn at random, always the same for the same number
    of texts, and differ in size by at most one text. With fewer texts than groups, each text is a group of its own.
    """
    order = torch.randperm(texts, generator=torch.Generator().manual_seed(0))
    return order % max(1, min(texts, groups))


def jackknife_errors(whole: Tensor, without: Tensor, groups: Tensor) -> Tensor:
    """The standard errors over texts of `whole` (…), a number of all texts, from the same number `without` each group
    of texts (group …).

    With T texts, t of them in a group, h = T / t, and g groups: the pseudo-values are p = h whole − (h − 1) without,
    the estimate is J = g whole − Σ (1 − t/T) without, and the variance is 1/g Σ (p − J)² / (h − 1) (Busing, Meijer and
    van der Leeden 1999, "Delete-m jackknife for unequal m"; Quenouille 1956, Tukey 1958). For groups of equal size
    this is (g − 1)/g Σ (without − mean)²; for the mean of one number of each text, deleted one by one, it gives the
    standard deviation over √T. No text is counted twice, unlike in a bootstrap. The number should change smoothly with
    the texts.

    groups: text, as `text_groups` gives them. NaN where a number is undefined without one of the groups.
    """
    sizes = groups.bincount(minlength=len(without)).double().to(without.device)
    h = (len(groups) / sizes).view(-1, *(1,) * whole.ndim)
    estimate = len(without) * whole - ((1 - 1 / h) * without).sum(0)
    values = h * whole - (h - 1) * without
    return ((values - estimate).square() / (h - 1)).mean(0).sqrt()
