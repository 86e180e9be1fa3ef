"""Every analysis states its work before it runs: about as many operations as it computes, and at least its memory."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import texts_of_analyses
import torch
from test_memory import peak_bytes
from texts_of_analyses import ONE_LENGTH, SETS, SINGLE, OfTexts
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench import checkpoints, generation, metrics
from workbench.analyses.circuit import edge_scores
from workbench.analyses.compare_weights import compare_weights
from workbench.analyses.faithfulness import circuit_effect
from workbench.analyses.noise_floor import noise_floor
from workbench.analyses.support import memory
from workbench.analyses.support.cost import ALONE, Work, is_planned, pass_flops, planned
from workbench.analyses.trajectory import Metric, trajectory
from workbench.errors import WorkbenchError
from workbench.texts import Texts

Models = dict[str, tuple[OlmoForCausalLM, OlmoForCausalLM]]
ALL: dict[str, OfTexts] = {
    **SETS,
    **SINGLE,
    **ONE_LENGTH,
    "path_patching to receivers": lambda a, b, texts, others: texts_of_analyses.path_patching(
        a, texts, others, 5, receivers=[(1, 2), (3, 0)]
    ),
    "attention_maps of a layer": lambda a, b, text, other: texts_of_analyses.attention_maps(a, text[:1], layers=[2]),
}
WIDE = {"hidden_size": 64, "intermediate_size": 128}
TWO = pytest.mark.parametrize("family", ["olmo", "olmo3"])
"""Norms before and after the sublayers; OLMo 2 multiplies the same matrices as OLMo 3."""


@pytest.fixture(scope="module")
def pairs(make_model: Callable[..., OlmoForCausalLM]) -> Models:
    """Two models of each family, wide enough that most operations are those of the matrices."""
    return {
        family: (make_model(family, **WIDE), make_model(family, 1, **WIDE)) for family in ("olmo", "olmo2", "olmo3")
    }


def texts_for(name: str) -> tuple[Tensor, Tensor]:
    """Texts of an analysis, and other texts that agree with them in the first tokens."""
    n_texts = 1 if name in SINGLE else 8 if name == "linear_probe" else 2
    texts, others = torch.randint(1, 99, (2, n_texts, 14), generator=torch.Generator().manual_seed(5))
    others[:, :3] = texts[:, :3]
    return texts, others


@pytest.fixture
def stated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Work]]:
    """A function that returns the stated work of one of `ALL`, instead of running it."""

    def work(name: str, *arguments: Any) -> Work:
        with monkeypatch.context() as patched:
            for word, function in list(vars(texts_of_analyses).items()):
                if is_planned(function):
                    stand_in = lambda *args, function=function, **options: planned(function, *args, **options)  # noqa: E731
                    patched.setattr(texts_of_analyses, word, stand_in)
            found = ALL[name](*arguments)
        assert isinstance(found, Work), f"{name} does not state its work"
        return found

    yield work


class Operations(TorchDispatchMode):
    """Counts floating-point operations, of backward passes too (`FlopCounterMode` does not take `autograd.grad`)."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found, formula = function(*args, **(kwargs or {})), flop_registry.get(function._overloadpacket)
        self.count += 0 if formula is None else formula(*args, **(kwargs or {}), out_val=found)
        if function._overloadpacket is torch.ops.mkldnn._linear_pointwise:  # of `hooks.compat.times`: no formula
            self.count += 2 * args[0].numel() * len(args[1])
        return found


def counted(call: Callable[[], object]) -> int:
    """The floating-point operations of a call."""
    with Operations() as operations:
        call()
    return operations.count


@TWO
@pytest.mark.parametrize("name", ALL)
def test_the_stated_operations_are_those_that_are_computed(
    pairs: Models, stated: Callable[..., Work], family: str, name: str
) -> None:
    models, texts = pairs[family], texts_for(name)
    work, flops = stated(name, *models, *texts), counted(lambda: ALL[name](*models, *texts))
    assert flops <= 1.1 * work.at_most
    assert work.flops <= 1.5 * flops


@pytest.fixture(scope="module")
def wide(make_model: Callable[..., OlmoForCausalLM]) -> tuple[OlmoForCausalLM, OlmoForCausalLM]:
    """Two models with wide layers and a large vocabulary."""
    sizes = {"hidden_size": 128, "intermediate_size": 384, "vocab_size": 2000, "num_hidden_layers": 2}
    return make_model("olmo2", seed=0, **sizes), make_model("olmo2", seed=1, **sizes)


@pytest.mark.parametrize("name", ALL)
def test_at_least_the_memory_that_is_taken_is_stated(
    wide: tuple[OlmoForCausalLM, OlmoForCausalLM], stated: Callable[..., Work], name: str
) -> None:
    models, texts = wide, texts_for(name)
    if "receivers" in name or "of a layer" in name:
        pytest.skip("names a layer that these models do not have")
    work = stated(name, *models, *texts)
    assert peak_bytes(lambda: ALL[name](*models, *texts)) <= 1.001 * work.nbytes


METRICS: dict[str, Callable[[Tensor], metrics.Metric]] = {
    "held_out_loss": metrics.held_out_loss,
    "head_scores": partial(metrics.head_scores, score="previous"),
    "head_scores of induction": partial(metrics.head_scores, score="induction", samples=4),
    "residual_norms": metrics.residual_norms,
    "effective_rank": metrics.effective_rank,
    "kl_to_last": metrics.kl_to_last,
    "probe_accuracy": lambda texts: metrics.probe_accuracy(texts.repeat(2, 1), [0, 0, 1, 1], folds=2),
    "steering_effect": lambda texts: metrics.steering_effect(
        Texts(texts, labels=("a", "b")), "a", "b", ([5], [6]), layer=1, controls=2
    ),
    "edge_scores": lambda texts: Metric("", edge_scores, {"clean": texts, "corrupted": texts.flip(1), "token": 5}),
    "circuit_effect": lambda texts: Metric(
        "", circuit_effect, {"kept": ["embed → logits"], "clean": texts, "corrupted": texts.flip(1), "token": 5}
    ),
    "head_needed": partial(metrics.head_needed, layer=1, head=2),
    "continuation_log_prob": lambda texts: metrics.continuation_log_prob(texts[:1], texts[1:]),
}


@TWO
@pytest.mark.parametrize("name", METRICS)
def test_metrics_state_their_work(pairs: Models, family: str, name: str) -> None:
    (a, b), metric = pairs[family], METRICS[name](texts_for(name)[0])
    given = {} if metric.reference is None else {"reference": metric.reference(b, **metric.arguments)}
    flops = counted(lambda: metric.function(a, **metric.arguments, **given))
    work = planned(metric.function, a, **metric.arguments)
    assert flops <= 1.1 * work.flops and work.flops <= 1.5 * flops


def test_a_plan_needs_no_weights(pairs: Models, stated: Callable[..., Work], tmp_path: Path) -> None:
    models = pairs["olmo3"]
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / f"step{number}")
    outlines = [checkpoints.outline(str(tmp_path / f"step{number}")) for number in range(2)]
    assert {weight.device.type for weight in outlines[0].parameters()} == {"meta"}
    for name in ALL:
        texts = texts_for(name)
        assert stated(name, *outlines, *texts) == stated(name, *models, *texts), name


def test_the_work_along_a_run_is_what_is_not_kept_yet(
    make_model: Callable[..., OlmoForCausalLM],
    tokenizer: PreTrainedTokenizerBase,
    pairs: Models,
    tmp_path: Path,
) -> None:
    for step, model in enumerate((*pairs["olmo"], make_model("olmo", 2, **WIDE))):
        model.save_pretrained(tmp_path / "run" / f"step{step}")
    tokenizer.save_pretrained(tmp_path / "run")
    run, texts = checkpoints.series(str(tmp_path / "run")), texts_for("")[0]
    metric, cache = metrics.held_out_loss(texts), tmp_path / "cache"
    one = planned(metric.function, pairs["olmo"][0], **metric.arguments)
    first = trajectory(run[:2], metric, cache=cache)
    assert first.values.shape == (1, 2)
    nbytes = checkpoints.open_weights(checkpoints.locate(run[0])).nbytes
    assert planned(trajectory, run, metric, cache=cache) == replace(one, read=nbytes)
    assert planned(trajectory, run, metric, cache=None) == replace(one.times(3), read=3 * nbytes)
    trajectory(run, metric, cache=cache)
    assert planned(trajectory, run, metric, cache=cache) == Work(0)


def test_a_noise_floor_is_every_pair(tmp_path: Path, pairs: Models) -> None:
    pairs["olmo"][0].save_pretrained(tmp_path / "step1")
    (final,) = checkpoints.series(str(tmp_path))
    one = planned(compare_weights, final, final)
    assert one.read == 2 * checkpoints.open_weights(tmp_path / "step1").nbytes
    assert planned(noise_floor, [final] * 3, compare_weights) == one.times(3)


def test_generated_tokens_are_passes_of_their_own(pairs: Models) -> None:
    model, ids = pairs["olmo"][0], texts_for("")[0][:1]
    work = planned(generation.generate, model, ids, max_new_tokens=9)
    assert work.flops == pass_flops(model, 14 + 8 * ALONE, logits=14 + 8 * ALONE)
    flops = counted(lambda: generation.generate(model, ids, max_new_tokens=9))
    assert flops == pass_flops(model, 14 + 8, logits=14 + 8)


def test_work_adds_up() -> None:
    one, other = Work(3, nbytes=5), Work(4, at_most=10, nbytes=2, read=7)
    assert one + other == Work(7, at_most=13, nbytes=5, read=7)
    assert other.times(3) == Work(12, at_most=30, nbytes=2, read=21)


def test_a_plan_refuses_what_does_not_fit(
    pairs: Models,
    stated: Callable[..., Work],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "budget", lambda model: 10_000)
    for name in ALL:
        with pytest.raises(WorkbenchError, match=r"needs .* for a text of \d+ tokens, but only 10 kB may be used"):
            stated(name, *pairs["olmo"], *texts_for(name))
