"""Steering does to answers what is computed by hand, and random directions of the same norm stand beside it."""

import numpy as np
import pytest
import torch

from hooks import OlmoForCausalLM, edits
from hooks.errors import HooksError
from workbench import metrics
from workbench.analyses.directions import label_direction, token_direction
from workbench.analyses.steering import LINES, steering, steering_effect
from workbench.analyses.support.answers import answer_log_probs
from workbench.analyses.support.cost import pass_flops, planned
from workbench.analyses.support.direction import Direction
from workbench.errors import WorkbenchError
from workbench.generation import steered_texts
from workbench.texts import Texts

STRENGTHS = (-1.0, 0.0, 2.0)


@pytest.fixture(params=["olmo", "olmo3"])
def family(request: pytest.FixtureRequest) -> str:
    """A family with a norm before each sublayer, and one with a norm after it."""
    return request.param


@pytest.fixture(scope="module")
def prompts() -> Texts:
    lengths = torch.tensor([5, 3, 7, 5])
    ids = torch.randint(1, 99, (4, 7), generator=torch.Generator().manual_seed(0))
    return Texts(ids, torch.arange(7) < lengths[:, None], ("a", "b", "a", "b"))


def direction_of(model: OlmoForCausalLM, site: str = "blocks.1.resid_post") -> Direction:
    generator = torch.Generator().manual_seed(5)
    return Direction(site, torch.randn(model.config.hidden_size, generator=generator), "planted")


def test_a_row_of_the_unembedding_raises_its_token_as_computed_by_hand(model: OlmoForCausalLM, prompts: Texts) -> None:
    direction = token_direction(model, 42)
    rows = model.get_output_embeddings().weight.detach().double()
    found = steering(model, prompts, direction, [42], [7, 8], strengths=STRENGTHS, controls=2)
    logits = torch.stack([model.run(ids[None]).logits[0, -1].double() for ids in prompts])  # text vocab
    for column, strength in enumerate(STRENGTHS):
        steered = logits + strength * (rows @ rows[42])
        odds = steered[:, 42] - steered[:, [7, 8]].logsumexp(-1)
        chances = steered.softmax(-1)
        assert found["log_odds"].values[0, column] == pytest.approx(odds.mean().item(), rel=1e-4)
        assert found["probability"].values[0, column] == pytest.approx(odds.sigmoid().mean().item(), rel=1e-4)
        both = chances[:, [42, 7, 8]].sum(-1).mean().item()
        assert found["answers"].values[0, column] == pytest.approx(both, rel=1e-4)
        error = odds.std().item() / len(prompts) ** 0.5
        assert found["log_odds"].errors[0, column] == pytest.approx(error, rel=1e-3, abs=1e-4)
    assert np.isnan(found["log_odds"].errors[2:]).all()  # the lowest and the highest are no means
    alone = steering(model, prompts[:1], direction, [42], [7, 8], strengths=(1.0,), controls=1)["log_odds"]
    assert np.isnan(alone.errors).all()
    effect = steering_effect(model, prompts, direction, [42], [7, 8], strength=0.5, controls=5)
    assert effect.values[0] > effect.values[1:].max() > 0 or effect.values[1:].max() <= 0 < effect.values[0]


def test_without_the_other_set_all_other_tokens_are_it(model: OlmoForCausalLM, prompts: Texts) -> None:
    direction = direction_of(model)
    open_end = steering(model, prompts, direction, [5, 9], strengths=STRENGTHS, controls=1)
    others = [token for token in range(99) if token not in (5, 9)]
    closed = steering(model, prompts, direction, [5, 9], others, strengths=STRENGTHS, controls=1)
    assert list(open_end) == ["log_odds", "probability"]
    for name in open_end:
        np.testing.assert_allclose(open_end[name].values, closed[name].values, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(closed["answers"].values, 1, atol=1e-5)


def test_at_strength_zero_nothing_changes_for_any_direction(model: OlmoForCausalLM, prompts: Texts) -> None:
    unrelated = prompts[[0, 2]]
    found = steering(model, prompts, direction_of(model), [5], [6], strengths=STRENGTHS, unrelated=unrelated)
    for curves in found.values():
        assert curves.lines == LINES and len(set(curves.values[:, 1].tolist())) == 1
        assert (curves.values[2] <= curves.values[1]).all() and (curves.values[1] <= curves.values[3]).all()
    assert found["loss"].values[0, 1] == pytest.approx(metrics.mean_loss(model, unrelated))
    with model.tapped(edits=direction_of(model).edit(2.0)):
        assert found["loss"].values[0, 2] == pytest.approx(metrics.mean_loss(model, unrelated))


def test_the_probability_of_an_answer_is_the_product_over_its_tokens(model: OlmoForCausalLM, prompts: Texts) -> None:
    answers = [(3,), (4, 5, 6), (4, 5, 7)]
    ids = prompts[0][None]
    found = answer_log_probs(model, ids, answers)[0]
    for number, answer in enumerate(answers):
        whole = torch.cat([ids, torch.tensor([answer])], 1)
        log_p = model.run(whole).logits.log_softmax(-1)[0, len(ids[0]) - 1 : -1]
        by_hand = log_p[range(len(answer)), list(answer)].sum()
        torch.testing.assert_close(found[number].float(), by_hand, rtol=1e-4, atol=1e-4)


def test_positions_are_those_of_the_prompt_whatever_the_answer(model: OlmoForCausalLM, prompts: Texts) -> None:
    """With a longer answer, the last position of the prompt is not the last of the text."""
    direction, answer = direction_of(model), torch.tensor([4, 5])
    found = steering(model, prompts[[0, 3]], direction, [answer], [3], strengths=[1.0], positions=-1, controls=1)
    ids = prompts[[0, 3]].ids[:, :5]
    edit = edits.add(direction.site, direction.vector, positions=[4])
    by_hand = answer_log_probs(model, ids, [(4, 5), (3,)], [edit])
    assert found["log_odds"].values[0, 0] == pytest.approx((by_hand[:, 0] - by_hand[:, 1]).mean().item(), rel=1e-4)
    everywhere = steering(model, prompts[[0, 3]], direction, [answer], [3], strengths=[1.0], controls=1)
    assert abs(everywhere["log_odds"].values[0, 0] - found["log_odds"].values[0, 0]) > 1e-3


def test_the_effect_is_half_the_change_between_the_two_strengths(model: OlmoForCausalLM, prompts: Texts) -> None:
    direction = direction_of(model)
    curves = steering(model, prompts, direction, [5], [6], strengths=(-2.0, 2.0), controls=3)["log_odds"]
    effect = steering_effect(model, prompts, direction, [5], [6], strength=2.0, controls=3)
    halves = (curves.values[:, 1] - curves.values[:, 0]) / 2
    assert effect.names == ("direction", "random 1", "random 2", "random 3")
    assert effect.values[0] == pytest.approx(halves[0], rel=1e-4)
    assert effect.values[1:].mean() == pytest.approx(halves[1], rel=1e-3, abs=1e-5)


def test_along_a_run_the_direction_is_made_anew(model: OlmoForCausalLM, prompts: Texts) -> None:
    metric = metrics.steering_effect(prompts, "a", "b", ([5], [6]), layer=1, controls=3)
    found = metric.function(model, **metric.arguments)
    effect = steering_effect(model, prompts, label_direction(model, prompts, "a", "b", layer=1), [5], [6], controls=3)
    assert found == pytest.approx(
        {
            "direction": effect.values[0],
            "random, lowest": effect.values[1:].min(),
            "random, highest": effect.values[1:].max(),
        }
    )


def test_steered_texts_stand_beside_the_unsteered_one(model: OlmoForCausalLM, prompts: Texts) -> None:
    """Steered strongly toward a token, the model writes it; at strength 0 it writes what it writes."""
    site = "ln_final.normalized"
    direction = token_direction(model, 42)
    assert direction.site == site
    grid = steered_texts(model, prompts[[0, 1]], direction, (0.0, 50.0), max_new_tokens=3)
    assert grid.columns == ("0", "50") and grid.rows[1] == " ".join(map(str, prompts[1].tolist()))
    plain = model.generate(prompts[[0, 0]].ids[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert grid.text[0, 0] == " ".join(map(str, plain[0, -3:].tolist()))
    assert list(grid.text[:, 1]) == ["42 42 42"] * 2
    assert (grid.values[:, 1] > grid.values[:, 0]).all()
    beside = steered_texts(model, prompts[[0, 1]], direction, (0.0, 50.0), max_new_tokens=3, controls=1, seed=4)
    assert beside.rows[1::2] == tuple(f"{prompt} (random 1)" for prompt in grid.rows)
    random = steered_texts(model, prompts[[0, 1]], direction.random(4), (0.0, 50.0), max_new_tokens=3)
    for rows, expected in ((slice(0, None, 2), grid), (slice(1, None, 2), random)):
        assert (beside.text[rows] == expected.text).all() and np.array_equal(beside.values[rows], expected.values)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"toward": [5, 5]}, r"the answer \[5\] is given twice; its probability would count twice"),
        ({"toward": [5], "against": [torch.tensor([5, 6])]}, r"the answer \[5\] begins another answer, \[5, 6\]"),
        ({"toward": [99]}, "toward has the token 99; token ids are 0 to 98"),
        ({"toward": [" are"]}, "toward: texts are given as strings; convert them with Texts.of"),
        ({"controls": 0}, "controls is 0"),
        ({"strengths": []}, r"strengths are \[\]"),
        ({"strengths": [float("nan")]}, "strengths are"),
        ({"positions": 3}, "no position in a prompt 3; there are 3"),
    ],
)
def test_what_cannot_be_steered_is_refused(
    model: OlmoForCausalLM, prompts: Texts, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        steering(model, prompts, direction_of(model), **({"toward": [5], "against": [6]} | options))


def test_a_direction_of_another_model_is_refused(model: OlmoForCausalLM, prompts: Texts) -> None:
    for direction in (Direction("blocks.9.resid_post", torch.ones(32)), Direction("embed", torch.ones(31))):
        with pytest.raises(HooksError):
            steering(model, prompts, direction, [5])
    with pytest.raises(WorkbenchError, match="strength is 0"):
        steering_effect(model, prompts, direction_of(model), [5], strength=0)
    with pytest.raises(WorkbenchError, match="NaN"):
        steering(model, prompts, direction_of(model).scaled(1e10), [5], strengths=[1e35])


def test_the_work_of_written_texts_is_stated(model: OlmoForCausalLM, prompts: Texts) -> None:
    direction, how = direction_of(model), {"max_new_tokens": 3}
    work = planned(steered_texts, model, prompts, direction, (0.0, 1.0), **how)
    once = planned(steered_texts, model, prompts, direction, (0.0,), **how)
    least = pass_flops(model, prompts.tokens + 2 * len(prompts))  # each text is read once, and two new tokens after it
    beside = planned(steered_texts, model, prompts, direction, (0.0,), controls=1, **how)
    assert work == beside == once.times(2) and once.flops > least and once.nbytes > 0
