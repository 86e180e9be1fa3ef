"""Numbers over a set of texts are those of its texts one by one, with the standard error over texts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_texts_of_analyses import ALL, SINGLE, Two, numbers, rows_of, two  # noqa: F401 - a fixture
from texts_of_analyses import METRICS, ONE_LENGTH, SETS

from workbench.analyses.compare_behaviour import behaviour_summary, compare_behaviour
from workbench.analyses.support.means import MeansOverTexts, means_of, means_over_texts
from workbench.results import Curves, Estimated, Grid, Measures, Scores
from workbench.texts import Batch, Texts

OF_SETS = SETS | ONE_LENGTH | METRICS
Weights = Callable[[Any, str], float]
"""How much one text counts, from its own result and the name of a measure."""


def of_tokens(result: Any, name: str, length: int) -> float:
    """Losses and queries count once for each token but the first; what is said of a text's end counts once."""
    once = "target" in name or name in ("log_probability", "surprisal")
    return 1.0 if once else length - 1.0


def of_pairs(result: Any, name: str, length: int) -> float:
    """A pair counts as much as its two ends differ."""
    return result[name].provenance["at 1"] - result[name].provenance["at 0"]


MEANS: dict[str, Callable[[Any, str, int], float]] = {
    "ablation by zeros": of_tokens,
    "activation_patching": of_pairs,
    "attribution_patching": of_pairs,
    "path_patching": of_pairs,
    "circuit": lambda result, name, length: 1.0,
    "compare_attention": of_tokens,
    "head_atlas": of_tokens,
    "mean_lens": lambda result, name, length: 1.0,
    "mean_attribution": lambda result, name, length: 1.0,
    "behaviour_summary": of_tokens,
    "transplant of weights": of_tokens,
    "transplant of activations": of_tokens,
    "transplant_parts": of_tokens,
    "held_out_loss": of_tokens,
    "head_scores": of_tokens,
    "residual_norms along a run": of_tokens,
    "kl_to_last": lambda result, name, length: float(length),
    "head_needed": of_tokens,
}
"""Analyses that return means over texts, and how much a text counts."""

CALLS = (
    SETS
    | METRICS
    | {"behaviour_summary": lambda a, b, texts, others: behaviour_summary(compare_behaviour(a, b, texts))}
)


def measures_of(result: Any) -> dict[str, Estimated]:
    return dict(result.items()) if isinstance(result, Measures) else {"": result}


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_is_that_of_the_texts_one_by_one(two: Two, name: str) -> None:  # noqa: F811
    """m = Σ n v / Σ n, and its standard error that of a ratio, from the results v of the texts one by one."""
    rows, others = rows_of("head_atlas", 1)[:5], rows_of("head_atlas", 2)[:5]
    together = measures_of(CALLS[name](*two, rows, others))
    alone = [CALLS[name](*two, [row], [other]) for row, other in zip(rows, others, strict=True)]
    for measure, found in together.items():
        if measure == "duplicate":  # counts only the queries with an earlier copy
            continue
        assert (found.texts_of_values() == len(rows)).all() and found.errors is not None
        values = np.stack([measures_of(result)[measure].values.astype(np.float64) for result in alone])
        names = [measure] if not isinstance(found, Scores) else found.names
        counts = np.array(
            [[MEANS[name](result, said, len(row)) for said in names] for result, row in zip(alone, rows, strict=True)]
        ).reshape(len(rows), *((1,) * (values.ndim - 1) if len(names) == 1 else (-1,)))
        mean = (counts * values).sum(0) / counts.sum(0)
        squares = ((counts * (values - mean)) ** 2).sum(0)
        error = np.sqrt(len(rows) / (len(rows) - 1) * squares) / np.abs(counts.sum(0))
        np.testing.assert_allclose(found.values, mean, rtol=1e-3, atol=2e-4, err_msg=measure)
        np.testing.assert_allclose(found.errors, error, rtol=2e-3, atol=2e-4, err_msg=measure)
        one = measures_of(alone[0])[measure]
        assert one.errors is None and (one.texts_of_values() == 1).all()


@pytest.mark.parametrize("name", OF_SETS)
def test_one_text_at_a_time_gives_the_same_numbers(two: Two, name: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    given = rows_of(name, 1), rows_of(name, 2)
    wanted = numbers(ALL[name](*two, *given))
    batches = Texts.batches

    def one_each(self: Texts, tokens: int) -> list[Batch]:
        return [Batch([row], ids[None]) for some in batches(self, tokens) for row, ids in zip(*some, strict=True)]

    monkeypatch.setattr(Texts, "batches", one_each)
    monkeypatch.setattr(Texts, "padded_batches", one_each)
    found = numbers(ALL[name](*two, *given))
    assert wanted.keys() == found.keys() and wanted
    for column, values in wanted.items():
        np.testing.assert_allclose(found[column], values, rtol=1e-4, atol=1e-5, err_msg=column)


def test_every_analysis_of_sets_is_compared_text_by_text() -> None:
    assert set(ALL) == set(OF_SETS) | set(SINGLE)
    assert set(MEANS) - {"behaviour_summary"} <= set(SETS | METRICS)


def test_equal_counts_give_the_standard_error_of_a_mean() -> None:
    values = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = MeansOverTexts()
    for some in values.split(7):
        means.add(4 * some, 4)
    assert means.texts == 20
    torch.testing.assert_close(means.values, values.mean(0))
    torch.testing.assert_close(means.errors, values.std(0) / 20**0.5)


def test_texts_in_which_nothing_counts_are_left_out() -> None:
    means = means_over_texts(
        np.array([[2.0, 0.0], [4.0, 5.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    )
    assert means.errors is not None and means.values.tolist() == [3.0, 5.0]
    assert means.errors[0].item() == pytest.approx(1.0)  # of 2 and 4
    assert means.errors[1].isnan() and means.texts == 3


def test_one_text_has_no_error() -> None:
    one, two_of_them = means_over_texts(np.ones((1, 2))), means_over_texts(np.ones((2, 2)))
    assert one.errors is None and means_of([one, one])[1] is None
    values, errors = means_of([one, two_of_them])
    assert errors is not None and errors[0].isnan().all() and (errors[1] == 0).all() and values.shape == (2, 2)


def test_tables_have_the_error_and_the_number_of_texts() -> None:
    grid = Grid([[1.0, 2.0]], ["0"], ["0", "1"], errors=[[0.1, 0.2]], texts=7)
    assert grid.table()["standard_error"].tolist() == pytest.approx([0.1, 0.2]) and grid.table()["texts"].tolist() == [
        7,
        7,
    ]
    both = Measures(a=grid, b=Grid([[3.0, 4.0]], ["0"], ["0", "1"])).table()
    assert list(both) == ["row", "column", "layer", "position", "a", "a_standard_error", "texts", "b"]
    scores = Scores([1.0, -5.0, 3.0], ["a", "b", "c"], errors=[0.1, 0.2, 0.3], texts=[4, 5, 6])
    assert scores.top(2).texts == (5, 6) and scores.top(2).errors.tolist() == pytest.approx([0.2, 0.3])
    curves = Curves([[1.0, 2.0], [3.0, 4.0]], ["a", "b"], [0, 1], texts=[8, 9])
    assert curves.table()["texts"].tolist() == [8, 8, 9, 9] and "standard_error" not in curves.table()
    with pytest.raises(ValueError, match=r"numbers of texts are \(2,\) but there are 3 names"):
        Scores([1.0, 2.0, 3.0], ["a", "b", "c"], texts=[1, 2])
    with pytest.raises(ValueError, match=r"errors are \(1, 1\)"):
        Grid([[1.0, 2.0]], ["0"], ["0", "1"], errors=[[0.1]])
