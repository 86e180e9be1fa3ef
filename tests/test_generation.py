"""Streamed generation equals the model's `generate`, step by step."""

import math

import pytest
import torch

from hooks import edits
from workbench.errors import WorkbenchError
from workbench.generation import draw, stream


def ids_of(model, prompt, **settings):
    return [step.id for step in stream(model, prompt, **settings)]


@pytest.fixture
def prompt():
    return torch.tensor([[5, 17, 3, 42, 8]])


def test_greedy_is_transformers_greedy(model, prompt):
    ours = ids_of(model, prompt, max_new_tokens=12, temperature=0)
    theirs = model.generate(prompt, max_new_tokens=12, do_sample=False)
    assert ours == theirs[0, prompt.shape[1] :].tolist()


def test_steps_carry_the_models_own_distribution(model, prompt):
    steps = list(stream(model, prompt, max_new_tokens=6, temperature=1.7, top_k=5, seed=3))
    whole = torch.cat([prompt, torch.tensor([[step.id for step in steps]])], dim=1)
    expected = model.run(whole).logits[0, prompt.shape[1] - 1 : -1].float().log_softmax(-1)  # step vocab
    for step, log_p in zip(steps, expected, strict=True):
        assert step.log_probability == pytest.approx(log_p[step.id].item(), abs=1e-4)
        assert [i for i, _ in step.alternatives] == log_p.topk(10).indices.tolist()
        assert [p for _, p in step.alternatives] == pytest.approx(log_p.topk(10).values.exp().tolist(), abs=1e-5)


def test_a_seed_is_a_text(model, prompt):
    first, again, other = (ids_of(model, prompt, max_new_tokens=20, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_edits_hold_at_every_token(model, prompt):
    zeroed = [edits.zero("blocks.*.mlp_out")]
    ours = ids_of(model, prompt, max_new_tokens=8, temperature=0, edits=zeroed)
    theirs = model.generate(prompt, max_new_tokens=8, do_sample=False, edits=zeroed)
    assert ours == theirs[0, prompt.shape[1] :].tolist() != ids_of(model, prompt, max_new_tokens=8, temperature=0)


def test_it_stops_at_a_token_and_yields_it(model, prompt):
    free = ids_of(model, prompt, max_new_tokens=10, temperature=0)
    stopped = ids_of(model, prompt, max_new_tokens=10, temperature=0, stop_at=[free[3]])
    assert stopped == free[: free.index(free[3]) + 1]


def test_closing_it_ends_the_work(model, prompt):
    steps = stream(model, prompt, max_new_tokens=50)
    next(steps)
    steps.close()
    assert list(steps) == []


def test_draws_stay_inside_top_k_and_top_p():
    log_p = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    chance = torch.Generator().manual_seed(0)
    assert {draw(log_p, 1.0, 1.0, 2, chance) for _ in range(200)} == {0, 1}
    assert {draw(log_p, 1.0, 0.79, 0, chance) for _ in range(200)} == {0, 1}
    assert {draw(log_p, 1.0, 0.81, 0, chance) for _ in range(200)} == {0, 1, 2}
    assert {draw(log_p, 1.0, 1.0, 0, chance) for _ in range(500)} == {0, 1, 2, 3}


def test_draws_follow_the_probabilities():
    log_p = torch.tensor([0.7, 0.2, 0.1]).log()
    chance = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw(log_p, 1.0, 1.0, 0, chance) for _ in range(4000)])
    assert (torch.bincount(drawn) / 4000).tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperature", math.nan),
        ("temperature", -1),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("top_k", 2.5),
        ("max_new_tokens", 0),
        ("max_new_tokens", math.inf),
        ("max_new_tokens", 10**6),
        ("seed", -1),
    ],
)
def test_senseless_settings_are_named(model, prompt, setting, value):
    with pytest.raises(WorkbenchError, match=f"{setting}|do not fit"):
        stream(model, prompt, **{setting: value})


def test_an_empty_text_is_refused(model):
    with pytest.raises(WorkbenchError, match="not empty"):
        stream(model, torch.zeros(1, 0, dtype=torch.long))
