"""The noise floor is the most that checkpoints differ which should not differ."""

import numpy as np
import pytest

from workbench import checkpoints
from workbench.analyses.compare_weights import compare_weights
from workbench.analyses.noise_floor import noise_floor
from workbench.errors import WorkbenchError
from workbench.results import Scores


@pytest.fixture
def finals(tmp_path, make_model):
    for seed, name in enumerate(("step9", "step9-order2", "step9-order3")):
        make_model("olmo", seed=seed).save_pretrained(tmp_path / name)
    return checkpoints.finals(checkpoints.series(str(tmp_path)))


def test_each_cell_is_the_most_of_all_pairs(finals):
    floor = noise_floor(finals, compare_weights)
    pairs = [compare_weights(finals[i], finals[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert np.array_equal(floor["distance"].values, np.max([pair["distance"].values for pair in pairs], axis=0))
    assert np.array_equal(floor["cosine"].values, np.min([pair["cosine"].values for pair in pairs], axis=0))
    assert floor["distance"].rows == pairs[0]["distance"].rows


def test_signs_do_not_matter(finals):
    numbers = iter([[0.5, -3.0], [-1.0, 2.0], [0.2, 0.1]])
    floor = noise_floor(finals, lambda a, b: Scores(next(numbers), ["x", "y"]))
    assert floor.values.tolist() == [1.0, 3.0]


def test_one_checkpoint_has_no_noise_floor(finals):
    with pytest.raises(WorkbenchError, match="there are 1"):
        noise_floor(finals[:1], compare_weights)
