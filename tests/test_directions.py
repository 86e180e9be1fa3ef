"""Directions are the differences that they say, and an edit adds so much of them."""

import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.directions import head_direction, label_direction, token_direction
from workbench.analyses.support.direction import Direction
from workbench.errors import WorkbenchError
from workbench.texts import Texts

LABELS = ("a", "b", "a", "c")


@pytest.fixture(scope="module")
def texts() -> Texts:
    lengths = torch.tensor([5, 3, 7, 5])
    ids = torch.randint(1, 99, (4, 7), generator=torch.Generator().manual_seed(0))
    return Texts(ids, torch.arange(7) < lengths[:, None], LABELS)


def states(model: OlmoForCausalLM, texts: Texts, site: str) -> list[Tensor]:
    """The states of each text, run alone: pos d_model each."""
    return [model.run(ids[None], capture=site)[site][0] for ids in texts]


def test_a_direction_of_two_labels_is_the_difference_of_their_means(model: OlmoForCausalLM, texts: Texts) -> None:
    a, b, other_a, c = (state[-1] for state in states(model, texts, "blocks.2.resid_post"))
    direction = label_direction(model, texts, "a", "b", layer=2)
    torch.testing.assert_close(direction.vector, (a + other_a) / 2 - b)
    assert direction.site == "blocks.2.resid_post" and "'a' (2 texts) minus 'b' (1)" in direction.made
    torch.testing.assert_close(label_direction(model, texts, "a", layer=-2).vector, (a + other_a) / 2 - (b + c) / 2)
    pair = label_direction(model, texts[[0, 1]], "a", "b", layer=2)  # activation addition: one text each
    torch.testing.assert_close(pair.vector, a - b)


def test_the_mean_over_tokens_and_a_position_for_each_text(model: OlmoForCausalLM, texts: Texts) -> None:
    a, b, other_a, _ = states(model, texts, "embed")
    mean = label_direction(model, texts, "a", "b", layer="embed", position="mean")
    torch.testing.assert_close(mean.vector, (a.mean(0) + other_a.mean(0)) / 2 - b.mean(0))
    places = label_direction(model, texts, "a", "b", layer="embed", position=[1, -3, 6, 0])
    torch.testing.assert_close(places.vector, (a[1] + other_a[6]) / 2 - b[0])


def test_strength_one_moves_one_mean_to_the_other(model: OlmoForCausalLM, texts: Texts) -> None:
    direction = label_direction(model, texts, "a", "b", layer=1)
    (ids,) = texts[[1]]
    moved = model.run(ids[None], edits=direction.edit(), capture=direction.site)[direction.site][0, -1]
    both = states(model, texts, direction.site)
    torch.testing.assert_close(moved, (both[0][-1] + both[2][-1]) / 2, rtol=1e-5, atol=1e-4)
    unmoved = model.run(ids[None], edits=direction.edit(0.0)).logits
    assert torch.equal(unmoved, model.run(ids[None]).logits)


def test_the_direction_of_a_head_is_what_it_adds(model: OlmoForCausalLM, texts: Texts) -> None:
    outputs = [result[-1, 2] for result in states(model, texts, "blocks.1.attn.result")]
    mean = head_direction(model, texts, 1, 2)
    torch.testing.assert_close(mean.vector, torch.stack(outputs).mean(0), rtol=1e-4, atol=1e-5)
    assert mean.site == "blocks.1.attn_out"
    pair = head_direction(model, texts, 1, 2, "a", "b")
    torch.testing.assert_close(pair.vector, (outputs[0] + outputs[2]) / 2 - outputs[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(head_direction(model, texts, -3, -2).vector, mean.vector)


def test_a_row_of_the_unembedding_raises_logits_as_computed_by_hand(model: OlmoForCausalLM, texts: Texts) -> None:
    """Before the unembedding: by strength · row(u) · row(token) for every token u."""
    token, strength = 42, 0.7
    rows = model.get_output_embeddings().weight.detach()
    direction = token_direction(model, token)
    before, after = (model.run(texts[0][None], edits=edits).logits for edits in ((), direction.edit(strength)))
    by_hand = strength * torch.stack([row @ rows[token] for row in rows])
    torch.testing.assert_close(after - before, by_hand.expand_as(before), rtol=1e-4, atol=1e-4)
    rise = (after - before)[0, -1]
    assert rise[token].item() == pytest.approx(strength * rows[token].square().sum().item(), rel=1e-4)


def test_a_row_after_the_last_layer_is_read_through_the_norm(model: OlmoForCausalLM, texts: Texts) -> None:
    """It is the gradient of the token's logit with the norm's scale frozen, and an edit gives what the head makes of
    the sum."""
    direction, ids = token_direction(model, 42, layer=-1), texts[0][None]
    assert direction.site == "blocks.3.resid_post"
    resid = model.run(ids, capture=direction.site)[direction.site]
    with torch.no_grad():
        by_hand = model.lm_head(model.model.norm(resid + 2.0 * direction.vector))
    steered = model.run(ids, edits=direction.edit(2.0)).logits
    torch.testing.assert_close(steered, by_hand)
    weight = getattr(model.model.norm, "weight", None)
    row = model.get_output_embeddings().weight[42].detach()
    torch.testing.assert_close(direction.vector, row if weight is None else row * weight.detach())
    assert (steered - model.run(ids).logits)[0, :, 42].min() > 0


def test_a_random_direction_has_the_norm_and_follows_its_seed() -> None:
    direction = Direction("embed", torch.tensor([3.0, 4.0, 0.0]), "planted")
    one, again, other = (direction.random(seed) for seed in (1, 1, 2))
    assert one.norm == pytest.approx(5.0) and torch.equal(one.vector, again.vector) and one.site == "embed"
    assert abs(one.cosine(other)) < 0.999 and "planted" in one.made
    assert direction.cosine(direction.scaled(2.0)) == pytest.approx(1.0)
    assert direction.scaled(2.0).norm == pytest.approx(2.0)
    assert list(direction.table()["value"]) == [3.0, 4.0, 0.0]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m, t: label_direction(m, t, "z", layer=0), "no text has the label 'z'; labels: a, b, c"),
        (lambda m, t: label_direction(m, t, "a", "a", layer=0), "both labels are 'a'"),
        (lambda m, t: label_direction(m, t, "a", labels=["a"] * 4, layer=0), "all 4 texts have the label 'a'"),
        (lambda m, t: label_direction(m, t, "a", layer=9), "no layer 9; choices: embed, 0 to 3"),
        (lambda m, t: label_direction(m, t, "a", layer=0, position=4), "text 1 has 3 tokens, so no position 4"),
        (lambda m, t: label_direction(m, t[[0, 0, 1]], "a", layer=0, labels="aab", position=9), "no position 9"),
        (lambda m, t: label_direction(m, list(t), "a", layer=0), "the texts have no labels"),
        (lambda m, t: head_direction(m, t, 1, 4), "no head in layer 1 4; there are 4"),
        (lambda m, t: head_direction(m, t, 1, 0, against="b"), "toward is not given"),
        (lambda m, t: token_direction(m, 99), "token is 99; it should be a token id from 0 to 98"),
        (lambda m, t: Direction("embed", torch.zeros(3)), "zero or not finite"),
        (lambda m, t: Direction("embed", torch.ones(3, 3)), r"one vector, d_model; this one has the shape \(3, 3\)"),
    ],
)
def test_what_gives_no_direction_is_refused(model: OlmoForCausalLM, texts: Texts, call, sentence: str) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        call(model, texts)
