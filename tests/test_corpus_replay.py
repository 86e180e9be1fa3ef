"""The rows of each training step, drawn again without a model, and the checks of a fetched text."""

import json

import numpy as np
import pytest

from workbench import WorkbenchError, corpus
from workbench.checkpoints.catalog import EMBEDDED
from workbench.corpus import training_text
from workbench.corpus.replay import Replay, order_of
from workbench.tiny_olmo import data
from workbench.tiny_olmo.recipe import Recipe
from workbench.tiny_olmo.rows import Stage, TrainingTokens, batch, make_source

VOCAB = 600
SHORT = Recipe(
    stages=(
        Stage(until=4, length=16, rows=5, repeats=2, random=1),
        Stage(until=8, length=40, rows=3, repeats=0.5, random=0.5),
    ),
    seed=3,
    branch=5,
)


@pytest.fixture(scope="module")
def source() -> TrainingTokens:
    rng = np.random.default_rng(0)
    tokens = {name: rng.integers(0, VOCAB, size).astype(np.uint16) for name, size in (("english", 4000), ("code", 900))}
    return make_source(tokens, VOCAB, np.arange(580, 600))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_replayed_rows_are_those_of_training(source: TrainingTokens, order: int) -> None:
    replay = Replay.of(source, SHORT)
    for step in range(SHORT.steps):
        own = order if step >= SHORT.branch else 1
        expected = batch(SHORT.stage(step), source, (SHORT.seed, own), step)
        assert (replay.rows(step, order).numpy() == expected).all()


def test_a_place_is_where_the_token_stands(source: TrainingTokens) -> None:
    replay = Replay.of(source, SHORT)
    whole = np.concatenate([source.tokens["english"], source.tokens["code"]])
    for step in range(SHORT.steps):
        places, rows = replay.place_rows(step), replay.rows(step).numpy()
        assert (whole[places[places >= 0]] == rows[places >= 0]).all()
        assert np.isin(rows[places < 0], source.random_ids).all()


def test_a_natural_row_is_one_piece_of_one_source(source: TrainingTokens) -> None:
    plain = Recipe(stages=(Stage(until=50, length=20, rows=4, repeats=0, random=0),), branch=50)
    places = np.concatenate([Replay.of(source, plain).place_rows(step) for step in range(50)])
    assert (np.diff(places) == 1).all()
    in_code = places >= 4000
    assert (in_code.all(1) | ~in_code.any(1)).all() and in_code.any() and not in_code.all()


def test_a_step_or_order_outside_the_recipe_is_refused(source: TrainingTokens) -> None:
    replay = Replay.of(source, SHORT)
    for step, order, message in [(8, 1, "step=8; the run has the steps 0 to 7"), (-1, 1, "step=-1"), (0, 0, "order=0")]:
        with pytest.raises(WorkbenchError, match=message):
            replay.rows(step, order)


def test_the_order_is_that_of_the_checkpoint() -> None:
    assert [order_of(name) for name in ("tiny-olmo", "tiny-olmo@step400", "tiny-olmo@step6000-order3")] == [1, 1, 3]


def test_without_the_text_the_command_that_fetches_it_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(WorkbenchError, match=r"not on this machine.*python -m workbench corpus build tiny-olmo"):
        corpus.prepared_text("tiny-olmo")
    with pytest.raises(WorkbenchError, match="'another' cannot be prepared here; choices: tiny-olmo"):
        corpus.prepared_text("another")


@pytest.fixture
def small_text(tmp_path, monkeypatch) -> dict[str, np.ndarray]:
    """The arrays of a text whose digests stand beside a series."""
    keys = [f"{part}-{name}" for part in data.CORPUS_PARTS for name in data.SOURCES]
    tokens = {key: np.arange(number + 5, dtype=np.uint16) for number, key in enumerate(keys)}
    kept = {key: {"tokens": len(ids), "sha256": training_text.digest_of_ids(ids)} for key, ids in tokens.items()}
    (tmp_path / training_text.DIGESTS).write_text(json.dumps(kept))
    monkeypatch.setitem(EMBEDDED, "tiny-olmo", tmp_path)
    return tokens


def test_a_text_with_the_kept_digests_is_accepted(small_text) -> None:
    text = training_text.checked_text("tiny-olmo", small_text)
    assert (
        text.tokens["code"] is small_text["train-code"] and text.held_out["english"] is small_text["held_out-english"]
    )


@pytest.mark.parametrize("key", ["train-english", "train-code", "held_out-code"])
def test_another_text_is_refused_with_both_digests(small_text, key) -> None:
    other = small_text[key].copy()
    other[2] += 1
    with pytest.raises(WorkbenchError, match=f"{key} is not the text") as error:
        training_text.checked_text("tiny-olmo", small_text | {key: other})
    assert training_text.digest_of_ids(other) in str(error.value)
    assert training_text.digest_of_ids(small_text[key]) in str(error.value)


def test_the_digests_of_the_embedded_series_are_complete() -> None:
    kept = training_text.digests(EMBEDDED["tiny-olmo"])
    assert list(kept) == [f"{part}-{name}" for part in data.CORPUS_PARTS for name in data.SOURCES]
    assert all(len(bytes.fromhex(record["sha256"])) == 32 and record["tokens"] > 0 for record in kept.values())
