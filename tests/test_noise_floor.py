"""The noise floor is the largest difference between checkpoints that differ only by data order."""

import numpy as np
import pytest

from workbench import checkpoints
from workbench.analyses.compare_weights import compare_weights
from workbench.analyses.noise_floor import in_floors, noise_floor
from workbench.analyses.representation_similarity import representation_similarity
from workbench.errors import WorkbenchError
from workbench.results import Scores


@pytest.fixture
def finals(tmp_path, make_model, tokenizer):
    for seed, name in enumerate(("step9", "step9-order2", "step9-order3")):
        make_model("olmo", seed=seed).save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path)
    return checkpoints.finals(checkpoints.series(str(tmp_path)))


def test_each_cell_is_the_most_of_all_pairs(finals):
    floor = noise_floor(finals, compare_weights)
    pairs = [compare_weights(finals[i], finals[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert np.array_equal(floor["distance"].values, np.max([pair["distance"].values for pair in pairs], axis=0))
    assert np.array_equal(floor["cosine"].values, np.min([pair["cosine"].values for pair in pairs], axis=0))
    assert floor["distance"].rows == pairs[0]["distance"].rows


def test_signs_do_not_matter(finals):
    numbers = iter([[0.5, -3.0], [-1.0, 2.0], [0.2, 0.1]])
    floor = noise_floor(finals, lambda a, b: Scores(next(numbers), ["x", "y"], signed=True))
    assert floor.values.tolist() == [1.0, 3.0]
    assert not floor.signed


def test_of_what_is_one_for_equals_the_floor_is_the_least(finals, tokens):
    def compare(a, b):
        return representation_similarity(a, tokens, b)

    pairs = [compare(finals[i], finals[j]).values for i, j in ((0, 1), (0, 2), (1, 2))]
    assert np.allclose(noise_floor(finals, compare).values, np.min(pairs, axis=0), atol=1e-6)
    numbers = iter([[0.5, 0.9, 4.0], [0.1, 0.8, 5.0], [0.2, 0.7, 6.0]])
    floor = noise_floor(
        finals, lambda a, b: Scores(next(numbers), ["kl", "overlap", "loss_a"], value_when_equal=[0, 1, np.nan])
    )
    assert floor.values == pytest.approx([0.5, 0.7, np.nan], nan_ok=True)


def test_a_pair_of_finals_is_never_above_the_floor(finals):
    floor = noise_floor(finals, compare_weights)
    ratios = [in_floors(compare_weights(*pair), floor) for pair in ((finals[0], finals[1]), (finals[1], finals[2]))]
    for name in ("distance", "relative_change", "cosine"):
        assert max(ratio[name].values.max() for ratio in ratios) <= 1.01
    assert np.isnan(ratios[0]["norm_a"].values).all()


def test_a_ratio_is_of_distances():
    names = ["kl", "overlap", "flip", "loss_difference"]
    pair = Scores([0.6, 0.4, 0.0, -3.0], names, title="A and B", value_when_equal=[0, 1, 0, 0])
    floor = Scores([0.2, 0.8, 0.0, 1.5], names, value_when_equal=[0, 1, 0, 0])
    found = in_floors(pair, floor)
    assert found.values == pytest.approx([3, 3, np.nan, 2], rel=1e-5, nan_ok=True)
    assert (found.value_label, found.title) == ("noise floors", "A and B: value")


def test_one_checkpoint_has_no_noise_floor(finals):
    with pytest.raises(WorkbenchError, match="there are 1"):
        noise_floor(finals[:1], compare_weights)
