"""Loaded models stay within their budget, and the least recently used goes first."""

import threading

import pytest

from workbench import checkpoints
from workbench.checkpoints import Residents
from workbench.errors import WorkbenchError


@pytest.fixture
def series(tmp_path, make_model, tokenizer):
    for seed, name in enumerate(("step0", "step1", "step2")):
        make_model("olmo", seed=seed, num_hidden_layers=1).save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path)
    return checkpoints.series(str(tmp_path))


@pytest.fixture
def size(series):
    return checkpoints.estimate(series[0]).resident


def test_a_model_that_is_kept_is_the_same_object(series, size):
    residents = Residents(2 * size)
    assert residents.load(series[0])[0] is residents.load(series[0].id)[0]
    assert residents.nbytes == size


def test_the_least_recently_used_goes_first(series, size):
    residents = Residents(2 * size)
    first = residents.load(series[0])[0]
    residents.load(series[1])
    assert residents.load(series[0])[0] is first
    residents.load(series[2])
    assert residents.ids == (series[0].id, series[2].id)
    assert residents.nbytes <= residents.budget


def test_one_larger_than_the_budget_is_refused_and_drops_nothing(series, size):
    residents = Residents(size)
    residents.load(series[0])
    residents.budget = size - 1
    with pytest.raises(WorkbenchError, match="budget"):
        residents.load(series[1])
    assert residents.ids == (series[0].id,)


def test_the_budget_counts_the_dtype(series, size):
    residents = Residents(size, dtype="bfloat16")
    residents.load(series[0])
    residents.load(series[1])
    assert residents.nbytes == size


def test_many_threads_get_one_model(series, size):
    residents, found = Residents(3 * size), []
    threads = [threading.Thread(target=lambda: found.append(residents.load(series[1])[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len({id(model) for model in found}) == 1


def test_while_one_is_read_the_others_are_there(series, size, monkeypatch):
    """Cached models are available while another thread loads a checkpoint."""
    residents, reading, read = Residents(3 * size), threading.Event(), threading.Event()
    kept = residents.load(series[0])[0]

    def slow(*args, **options):
        reading.set()
        assert read.wait(timeout=60)
        return checkpoints.load(*args, **options)

    monkeypatch.setattr("workbench.checkpoints.residency.load", slow)
    thread = threading.Thread(target=residents.load, args=[series[1]])
    thread.start()
    assert reading.wait(timeout=60)
    assert residents.load(series[0])[0] is kept
    read.set()
    thread.join()
    assert residents.ids == (series[0].id, series[1].id)
