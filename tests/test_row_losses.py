"""The loss of a row along a run is its loss at each checkpoint."""

import pytest
import torch

from workbench import WorkbenchError, checkpoints, corpus
from workbench.analyses.token_losses import token_losses

STEPS = (0, 10)


@pytest.fixture
def series(tmp_path, make_model, tokenizer):
    for seed, step in enumerate(STEPS):
        make_model("olmo2", seed=seed, num_hidden_layers=2).save_pretrained(tmp_path / "run" / f"step{step}")
    tokenizer.save_pretrained(tmp_path / "run")
    return checkpoints.series(str(tmp_path / "run"))


def test_a_row_has_its_mean_loss_at_each_checkpoint(series, tokens):
    rows = [tokens[0], tokens[1, :6]]
    curves = corpus.row_losses(series, rows, read=[4, None], cache=None)
    assert curves.lines == ("mean", "row 0 (read at step 4)", "row 1")
    assert curves.x.tolist() == list(STEPS)
    for column, checkpoint in enumerate(series):
        model = checkpoints.load(checkpoint)[0]
        expected = [token_losses(model, row[None])["loss"].values[0, 1:].mean() for row in rows]
        assert curves.values[1:, column] == pytest.approx(expected, rel=1e-5)
        assert curves.values[0, column] == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_rows_may_be_a_tensor_and_have_labels_of_any_kind(series, tokens):
    plain = corpus.row_losses(series, tokens, cache=None)
    as_list = corpus.row_losses(series, list(tokens), cache=None)
    assert (plain.values == as_list.values).all()


def test_wrong_rows_are_refused(series, tokens):
    with pytest.raises(WorkbenchError, match="read has 1 steps for 2 rows"):
        corpus.row_losses(series, tokens, read=[3], cache=None)
    with pytest.raises(WorkbenchError, match="a row has 1 token"):
        corpus.row_losses(series, [tokens[0], torch.tensor([5])], cache=None)
