"""Every analysis states its memory besides the model, uses no more than that, and stays within the budget."""

import logging
import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from texts_of_analyses import ONE_LENGTH, SETS, SINGLE
from torch.profiler import ProfilerActivity, profile

from hooks import OlmoForCausalLM
from tests.fixtures import Records
from workbench.analyses.support import memory
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.checkpoints.loading import readable
from workbench.errors import WorkbenchError

MB = 10**6
ALL = SETS | SINGLE | ONE_LENGTH
NOTHING = 1.0  # a budget within which no analysis fits, in bytes
UNITS = {"GB": 10**9, "MB": MB, "kB": 1000, "bytes": 1}


@pytest.fixture(scope="module")
def wide(make_model: Callable[..., OlmoForCausalLM]) -> tuple[OlmoForCausalLM, OlmoForCausalLM]:
    """Two models with wide layers and a large vocabulary."""
    sizes = {"hidden_size": 128, "intermediate_size": 384, "vocab_size": 2000, "num_hidden_layers": 2}
    return make_model("olmo2", seed=0, **sizes), make_model("olmo2", seed=1, **sizes)


def peak_bytes(call: Callable[[], object]) -> int:
    """Peak memory of PyTorch's allocator during a call, minus the memory before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    results = profiler.profiler
    assert results is not None and results.kineto_results is not None
    changes = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    held = torch.tensor([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())])
    return int(held.cumsum(0).max())


def stated_bytes(records: list[logging.LogRecord]) -> float:
    """The largest peak that was stated."""
    found = [re.search(r"at most ([\d.e+]+) (\w+) beside", record.getMessage()) for record in records]
    return max(float(match[1]) * UNITS[match[2]] for match in found if match)


@pytest.mark.parametrize("name", ALL)
def test_peaks_are_stated_and_kept_within_the_budget(
    wide: tuple[OlmoForCausalLM, OlmoForCausalLM],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    logged: Records,
) -> None:
    generator = torch.Generator().manual_seed(0)
    n_texts = 1 if name in SINGLE else 8 if name == "linear_probe" else 3  # a probe needs several texts of a label
    texts, others = torch.randint(1, 2000, (2, n_texts, 16), generator=generator)

    def peak_within(allowed: float) -> int:
        """The peak with this budget, or with the smallest budget that the analysis needs."""
        logged.records.clear()
        monkeypatch.setattr(memory, "budget", lambda model: int(allowed))
        call = partial(ALL[name], *wide, texts, others)
        try:
            return call() if allowed == NOTHING else peak_bytes(call)  # to begin to count takes longer than to refuse
        except WorkbenchError as error:
            needed = re.search(r"needs ([\d.e+]+) (\w+) of memory", str(error))
            assert needed is not None
            return peak_within(1.2 * float(needed[1]) * UNITS[needed[2]])

    peak, stated = peak_within(NOTHING), stated_bytes(logged.records)
    assert peak <= stated * 1.001, f"took {readable(peak)}, stated {readable(int(stated))}"
    assert stated <= memory.budget(wide[0]) * 1.001


@pytest.mark.parametrize("name", ALL)
def test_what_cannot_fit_is_refused_with_both_numbers(
    wide: tuple[OlmoForCausalLM, OlmoForCausalLM], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "budget", lambda model: 10_000)
    texts = torch.ones(1 if name in SINGLE else 8, 40, dtype=torch.long)
    with pytest.raises(WorkbenchError, match=r"needs .* for a text of \d+ tokens, but only 10 kB may be used"):
        ALL[name](*wide, texts, texts + 1)


def test_batches_grow_with_the_budget_up_to_a_bound(
    wide: tuple[OlmoForCausalLM, OlmoForCausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    for allowed, tokens in ((1000, 100), (5000, 500), (10**9, memory.TOKENS)):
        monkeypatch.setattr(memory, "budget", lambda model, allowed=allowed: allowed)
        assert tokens_at_a_time(wide[0], "test", 10, 50) == tokens
        assert tokens_at_a_time(wide[0], "test", 10, 50, fixed=500) == min(tokens, (allowed - 500) // 10, memory.TOKENS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grad", [False, True])
def test_a_pass_takes_no_more_than_is_said(
    make_model: Callable[..., OlmoForCausalLM], family: str, dtype: torch.dtype, grad: bool
) -> None:
    model = make_model(family, hidden_size=128, intermediate_size=384, num_attention_heads=4).to(dtype)
    ids = torch.randint(1, 99, (4, 64), generator=torch.Generator().manual_seed(0))

    def call() -> None:
        run = model.run(ids, grad=grad, logits_to_keep=1)
        if grad:
            with torch.enable_grad():
                run.logits.sum().backward(inputs=[model.model.embed_tokens.weight])
        model.zero_grad()

    assert peak_bytes(call) <= run_bytes(model, grad=grad) * ids.numel() + 3 * model.model.embed_tokens.weight.nbytes
