"""Runs without chosen rows, in miniature: resumed to the bit, equal to the recipe where nothing is left out."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hooks import OlmoConfig
from workbench import WorkbenchError
from workbench.corpus.replay import Replay
from workbench.tiny_olmo import leave_out
from workbench.tiny_olmo.leave_out_runs import (
    CONTROL,
    Setting,
    Variant,
    machine,
    run_at,
    run_without_repeats,
    trained_variant,
    without_as_many,
    without_rows,
)
from workbench.tiny_olmo.plant import planted
from workbench.tiny_olmo.recipe import Recipe
from workbench.tiny_olmo.rows import Stage, batch, make_source
from workbench.tiny_olmo.train import train_step

VOCAB = 600
SHORT = Recipe(stages=(Stage(until=60, length=64, rows=4, repeats=1.5, random=0.5),), branch=60, warmup=2)
SHAPE = OlmoConfig(
    vocab_size=VOCAB,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    pad_token_id=1,
)


@pytest.fixture
def setting(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    ids = np.random.default_rng(0).integers(2, VOCAB, 9000).astype(np.uint16)
    source = make_source({"english": ids}, VOCAB, np.arange(VOCAB - 5, VOCAB))
    return Setting(SHORT, SHAPE, source, 4, tmp_path / "runs", tmp_path / "tokenizer")


def weights(run):
    return torch.cat([weight.detach().flatten() for weight in run.model.parameters()])


def test_the_control_is_the_recipe_and_goes_on_to_the_bit(setting):
    plain = run_at(setting, Variant("plain"))
    for _ in range(4):
        train_step(plain)
    stopped = run_at(setting, CONTROL)
    for _ in range(2):
        train_step(stopped)
    torch.save(
        {"model": stopped.model.state_dict(), "optimizer": stopped.optimizer.state_dict(), "step": 2},
        stopped.state_file,
    )
    assert torch.equal(weights(trained_variant(setting, CONTROL)), weights(plain))
    assert torch.equal(weights(trained_variant(setting, CONTROL)), weights(plain))  # read from its state


def test_a_row_that_is_left_out_has_no_weight_and_the_others_keep_theirs(setting):
    run = run_at(setting, without_rows(setting, "without", np.array([[0, 1], [0, 3], [2, 0]])))
    rows = torch.from_numpy(batch(SHORT.stage(0), setting.source, (0, 1), 0))
    with torch.no_grad():
        logits = run.model(input_ids=rows[:, :-1]).logits
    losses = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
    assert train_step(run) == pytest.approx(float(losses.mean(1)[[0, 2]].sum() / 4), rel=1e-2)  # bfloat16
    assert run.keeps is not None and run.keeps(2).tolist() == [False, True, True, True]
    with pytest.raises(WorkbenchError, match="step 1 has no row left"):
        run = run_at(setting, without_rows(setting, "none", np.array([[1, row] for row in range(4)])))
        run.step = 1
        train_step(run)


def test_rows_with_repeats_are_those_that_are_no_piece_of_the_text(setting):
    replay, keeps = Replay.of(setting.source, SHORT), run_without_repeats(setting).keeps
    assert keeps is not None
    for step in range(SHORT.steps):
        natural = (np.diff(replay.place_rows(step)) == 1).all(1)
        assert (keeps(step) == natural).all()


def test_the_control_of_fewer_rows_leaves_out_as_many_drawn_from_all(setting):
    without, fewer = run_without_repeats(setting).keeps, without_as_many(setting).keeps
    assert without is not None and fewer is not None
    kept = np.stack([fewer(step) for step in range(SHORT.steps)])
    assert kept.sum(1).tolist() == [without(step).sum() for step in range(SHORT.steps)]
    assert 0 < kept[:, 0].sum() < SHORT.steps and 0 < kept[:, -1].sum() < SHORT.steps
    assert (fewer(3) == kept[3]).all()


def test_a_planted_sentence_is_read_whole_at_its_steps_and_nowhere_else(setting):
    sentence = np.arange(10, 18)
    text = planted(setting.source, SHORT, sentence, 60, times=2)
    replay, original = Replay.of(text.source, SHORT), Replay.of(setting.source, SHORT)
    found = []
    for step in range(60):
        assert (replay.place_rows(step) == original.place_rows(step)).all()
        windows = np.lib.stride_tricks.sliding_window_view(replay.rows(step).numpy(), len(sentence), axis=1)
        found += [[step, row] for row in np.flatnonzero((windows == sentence).all(2).any(1))]
        assert (replay.rows(step) != original.rows(step)).any(1).sum() == sum(at == step for at, _ in text.read)
    assert found == text.read.tolist() and len(found) == 2
    with pytest.raises(WorkbenchError, match="no place is read whole exactly 50 times"):
        planted(setting.source, SHORT, sentence, 60, times=50)
    with pytest.raises(WorkbenchError, match="kept out"):
        planted(setting.source, SHORT, np.array([10, VOCAB - 1]), 60)


def test_the_table_in_miniature(setting):
    sentence = np.arange(10, 18)
    found = leave_out.plant(setting, sentence, background=6, times=1)
    assert len(found["read"]) == len(found["quantile"]) == 1 and found["read"][0] < 4
    before, after = found["loss"]["planted"][0][:2], found["loss"]["control"][0][:2]
    assert before[0] == after[0] and before[1] < after[1]  # equal weights until the sentence is read
    table = leave_out.subsets(setting, np.random.default_rng(1).integers(2, VOCAB, (3, 20)), count=4, pool=8)
    assert set(table["lds"]) == {"influence", "random", "similarity"}
    assert all(-1 <= value <= 1 for value in table["lds"].values())
    assert table == leave_out.subsets(setting, np.random.default_rng(1).integers(2, VOCAB, (3, 20)), count=4, pool=8)
    assert json.dumps(machine() | found | table)


def test_rank_correlation_knows_order_only():
    one = np.array([0.1, 3.0, 2.0, 9.0])
    assert leave_out.rank_correlation(one, one**3) == pytest.approx(1)
    assert leave_out.rank_correlation(one, -one) == pytest.approx(-1)
    assert leave_out.rank_correlation(one, np.ones(4)) == 0
