"""Losses, ranks and entropies equal those of the model's distributions."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM, edits
from workbench.analyses.support.next_tokens import next_token_statistics, text_statistics
from workbench.analyses.token_losses import token_losses
from workbench.errors import WorkbenchError


def test_mean_loss_is_the_models_cross_entropy(model: OlmoForCausalLM, tokens: Tensor) -> None:
    losses = token_losses(model, tokens)["loss"].values
    assert np.isnan(losses[:, 0]).all()
    expected = model(input_ids=tokens, labels=tokens).loss
    assert losses[:, 1:].mean() == pytest.approx(expected.item(), abs=1e-5)


def test_a_position_is_about_the_token_at_it(model: OlmoForCausalLM, tokens: Tensor) -> None:
    log_p = model.run(tokens).logits.log_softmax(-1)
    losses = token_losses(model, tokens)["loss"].values
    assert losses[1, 5] == pytest.approx(-float(log_p[1, 4, tokens[1, 5]]), abs=1e-5)


def test_rank_is_one_for_the_likeliest_token(model: OlmoForCausalLM, tokens: Tensor) -> None:
    likeliest = model.run(tokens).logits[0, -1].argmax()
    extended = torch.cat([tokens[0], likeliest[None]])
    ranks = token_losses(model, extended)["rank"].values[0]
    assert ranks[-1] == 1
    assert (ranks[1:] >= 1).all() and (ranks[1:] <= model.config.vocab_size).all()


def test_known_distributions_have_known_statistics() -> None:
    certain = torch.tensor([100.0, 0.0, 0.0, 0.0])
    found = next_token_statistics(torch.stack([torch.zeros(4), certain, certain]), torch.tensor([2, 0, 1]))
    torch.testing.assert_close(found["entropy"], torch.tensor([4.0, 1.0, 1.0]).log())
    torch.testing.assert_close(found["loss"], torch.tensor([torch.tensor(4.0).log(), 0.0, 100.0]))
    assert found["rank"].tolist() == [1, 1, 2]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    whole = next_token_statistics(logits, targets)
    monkeypatch.setattr("workbench.analyses.support.next_tokens.CHUNK", 14)
    for name, values in next_token_statistics(logits, targets).items():
        assert values.shape == (3, 5)
        torch.testing.assert_close(values, whole[name])


@pytest.mark.parametrize("rows", [1, 6, 40])
def test_statistics_of_texts_are_those_of_all_their_logits(
    model: OlmoForCausalLM, tokens: Tensor, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("workbench.analyses.support.next_tokens.ROWS", rows)
    sites = ("blocks.1.resid_post", "ln_final.normalized", "logits")
    changes = [edits.scale(site, 1.5, positions=[3, -2]) for site in sites]
    for change in ([], changes):
        with model.tapped(edits=change):
            found, logits = text_statistics(model, tokens), model.run(tokens).logits
        for name, expected in next_token_statistics(logits[:, :-1], tokens[:, 1:]).items():
            torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-5)


def test_statistics_of_padded_texts_are_those_of_each_text(model: OlmoForCausalLM, tokens: Tensor) -> None:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, 4:] = False
    found = text_statistics(model, tokens, mask)
    for row, there in enumerate(mask):
        for name, expected in text_statistics(model, tokens[row, there][None]).items():
            torch.testing.assert_close(found[name][row, there[1:]], expected[0], rtol=0, atol=1e-5)
            assert found[name][row, ~there[1:]].isnan().all()


def test_impossible_tokens_are_left_out_of_the_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])
    found = next_token_statistics(logits, torch.tensor([1]))
    assert found["entropy"].item() == found["loss"].item() == pytest.approx(np.log(2)) and found["rank"].item() == 1


def test_labels_are_the_tokens_of_a_single_text(model: OlmoForCausalLM, tokens: Tensor, tokenizer: object) -> None:
    assert token_losses(model, tokens[0], tokenizer=tokenizer)["rank"].x_labels[0] == f"w{tokens[0, 0]}"
    assert token_losses(model, tokens)["rank"].x_labels is None


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (torch.tensor([3]), "the text has 1 tokens.* at least 2"),
        (torch.zeros(2, 2, 2, dtype=torch.long), "tokens have 3 dimensions"),
        (torch.zeros(4), "tokens are torch.float32"),
    ],
)
def test_what_is_no_text_is_refused(model: OlmoForCausalLM, bad: Tensor, sentence: str) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        token_losses(model, bad)
