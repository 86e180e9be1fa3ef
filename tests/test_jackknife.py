"""The jackknife of a mean is its standard error; groups of texts are about equal in size."""

import pytest
import torch

from workbench.analyses.support.jackknife import jackknife_errors, text_groups


def test_of_a_mean_it_is_the_standard_deviation_over_the_root() -> None:
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = text_groups(12, 12)
    assert groups.sort().values.tolist() == list(range(12))
    without = torch.stack([x[groups != group].mean(0) for group in range(12)])
    torch.testing.assert_close(jackknife_errors(x.mean(0), without, groups), x.std(0) / 12**0.5)


def test_of_equal_groups_it_is_the_spread_of_the_numbers_without_one() -> None:
    x = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = text_groups(30, 10)
    without = torch.stack([x[groups != group].mean() for group in range(10)])
    wanted = (0.9 * (without - without.mean()).square().sum()).sqrt()
    torch.testing.assert_close(jackknife_errors(x.mean(), without, groups), wanted)


@pytest.mark.parametrize("texts", [25, 13])
def test_of_unequal_groups_the_variance_is_right_on_average(texts: int) -> None:
    x = torch.randn(4000, texts, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = text_groups(texts, 10)
    without = torch.stack([x[:, groups != group].mean(1) for group in range(10)])
    variance = jackknife_errors(x.mean(1), without, groups).square().mean()
    assert float(variance) == pytest.approx(1 / texts, rel=0.05)


@pytest.mark.parametrize(("texts", "groups", "sizes"), [(23, 10, {2, 3}), (4, 10, {1}), (7, 1, {7}), (5, 0, {5})])
def test_groups_differ_by_at_most_one_text(texts: int, groups: int, sizes: set[int]) -> None:
    assert set(text_groups(texts, groups).bincount().tolist()) == sizes
