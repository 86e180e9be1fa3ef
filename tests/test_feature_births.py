"""When features of a crosscoder are born: the rule on norms made by hand, and identities of trained crosscoders."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench import WorkbenchError, features
from workbench.features import Dictionary, Gate
from workbench.features.births import FLOOR_QUANTILE, FeatureBirths

SITE, WIDTH = "blocks.1.resid_post", 16
RUN = ("run@step0", "run@step10", "run@step20", "run@step40")
OTHERS = ("run@step40-order2", "run@step40-order3")


def crosscoder(norms, sources, sizes=None, seed=0):
    """A crosscoder whose directions have these norms: feature source."""
    norms = torch.tensor(norms, dtype=torch.float32)
    n, width = len(norms), WIDTH * len(sources)
    directions = torch.randn(n, len(sources), WIDTH, generator=torch.Generator().manual_seed(seed))
    sizes = torch.ones(len(sources)) if sizes is None else torch.tensor(sizes)
    decoder = (torch.nn.functional.normalize(directions, dim=-1) * (norms * sizes)[..., None]).flatten(1)
    return Dictionary(
        decoder.T.clone(),
        torch.zeros(n),
        decoder,
        torch.zeros(width),
        Gate("topk", min(2, n)),
        SITE,
        SITE,
        sources=tuple(sources),
        provenance={"sizes": sizes.tolist()},
    )


@pytest.mark.parametrize(
    ("norms", "born", "died"),
    [
        ([1, 1, 1, 1], 0, np.nan),
        ([0.4, 0.51, 0.9, 1], 10, np.nan),
        ([0.1, 0.2, 0.3, 1], 40, np.nan),
        ([1, 0.2, 0.1, 0.1], 0, 10),
        ([0.1, 1, 0.8, 0.1], 10, 40),
        ([0.9, 0.1, 0.7, 1], 20, np.nan),  # the stretch of the largest norm counts
        ([1, 0.1, 0.7, 0.9], 0, 10),
        ([0, 0, 0, 0], np.nan, np.nan),
    ],
)
def test_the_rule_of_birth_and_death(norms, born, died):
    found = features.births(crosscoder([norms], RUN))
    assert np.array_equal([found.born[0], found.died[0]], [born, died], equal_nan=True)
    assert found.floor == 0 and np.isnan(found.apart[0])


def test_norms_are_in_sizes_of_the_activations_and_sources_in_order():
    norms = [[0.1, 0.2, 0.9, 1.0], [1.0, 0.5, 0.3, 0.2]]
    order = [2, 0, 3, 1]
    shuffled = crosscoder(np.array(norms)[:, order].tolist(), [RUN[n] for n in order], sizes=[3.0, 0.5, 7.0, 11.0])
    found = features.births(shuffled)
    assert (found.checkpoints, found.steps, found.others) == (RUN, (0, 10, 20, 40), ())
    np.testing.assert_allclose(found.norms, norms, rtol=1e-6)
    np.testing.assert_allclose(
        features.births(shuffled, sizes=[6.0, 1.0, 14.0, 22.0]).norms, np.array(norms) / 2, rtol=1e-6
    )


def test_the_floor_is_what_ends_differ_by():
    drawn = np.random.default_rng(0).uniform(0.4, 1, (200, 6))
    drawn[:, 4:] = drawn[:, 3:4] + np.random.default_rng(1).normal(0, 0.02, (200, 2))
    found = features.births(crosscoder(drawn.tolist(), RUN + OTHERS))
    ends = found.norms[:, 3:]
    assert found.ends == (RUN[-1], *OTHERS)
    assert found.floor == pytest.approx(np.quantile(np.ptp(ends, axis=1), FLOOR_QUANTILE))
    low = features.births(crosscoder([[0.0, 0.0, 0.0, 0.9, 0.9, 0.0], *[[0, 0, 0.0, 0.5, 0.5, 0.5]] * 9], RUN + OTHERS))
    assert low.floor > 0.5 and np.isnan(low.born[1])  # nothing below the floor is born
    assert low.apart[0] == 1 and low.holding_ends[0].tolist() == [True, True, False]
    assert low.holding_ends[1:].all()


def test_the_table_can_be_sorted_by_any_column_and_counts_add_up():
    found = features.births(crosscoder(np.random.default_rng(2).uniform(0.01, 1, (60, 6)).tolist(), RUN + OTHERS))
    table = found.table()
    assert list(table["feature"]) == list(range(60))
    for column in table:
        assert len(table.sort_values(column)) == 60
    counts = found.by_step()
    assert (
        counts["born"].sum() == np.isfinite(found.born).sum() and counts["died"].sum() == np.isfinite(found.died).sum()
    )
    assert (counts["born in all ends"] <= counts["born"]).all()
    curves = found.curves([3, 5])
    assert np.array_equal(curves.values, found.run_norms[[3, 5]]) and list(curves.x) == list(found.steps)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sources": ()}, "an? SAE is of one checkpoint; births need a crosscoder"),
        ({"sources": ("a", "b@step3", "c", "d@step4")}, "the step of a, c is not known"),
        ({"sources": tuple(f"run@step4-order{n}" for n in range(4))}, "are all branches of a run"),
        ({"provenance": {}}, "need the size of the activations of each of 4 sources.*has none"),
        ({"provenance": {"sizes": [1, 2]}}, r"has \[1, 2\]"),
    ],
)
def test_what_has_no_births_is_refused(change, sentence):
    with pytest.raises(WorkbenchError, match=sentence):
        features.births(replace(crosscoder([[1.0, 1, 1, 1]], RUN), **change))


def test_two_columns_of_one_checkpoint_have_exactly_equal_norms(make_model):
    # Steps 0 and 2 have the same weights.
    models = {f"run@step{step}": make_model("olmo2", seed=step % 2) for step in (0, 1, 2)}
    rows = torch.randint(1, 99, (40, 12), generator=torch.Generator().manual_seed(4))
    settings = features.TrainingSettings(30, 3, batches=20, warmup=2)
    trained = features.train(features.Streamed(models, rows, SITE, batch_tokens=60), settings)
    found = features.births(trained)
    assert np.array_equal(found.norms[:, 0], found.norms[:, 2])
    assert not np.array_equal(found.norms[:, 0], found.norms[:, 1])
    np.testing.assert_allclose((found.norms**2).sum(1), 1, rtol=1e-4)  # training keeps the norm of all sources together


def test_an_unknown_feature_and_shapes_that_do_not_fit_are_refused():
    found = features.births(crosscoder([[1.0, 1, 1, 1]], RUN))
    with pytest.raises(WorkbenchError, match="no feature 1; there are features 0 to 0"):
        found.curves([1])
    with pytest.raises(ValueError, match="but there are 2 checkpoints"):
        FeatureBirths("x", RUN[:2], (0, 1), (), found.norms)
