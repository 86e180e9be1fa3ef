"""Passes of a model stop between blocks when the check of `stoppable` raises; else nothing changes."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM, edits, stoppable
from hooks.stopping import check_stop
from workbench.analyses.logit_lens import logit_lens
from workbench.analyses.support.edge_slopes import slopes
from workbench.analyses.token_saliency import token_saliency
from workbench.progress import report


class Stopped(Exception):
    pass


def stopping(calls: int) -> Callable[[], None]:
    """A check that raises at this call (the first is 1)."""
    left = iter(range(calls - 1))

    def check() -> None:
        if next(left, None) is None:
            raise Stopped

    return check


def test_the_check_is_called_before_each_block(model: OlmoForCausalLM, tokens: Tensor) -> None:
    entered: list[int] = []
    seen = [edits.apply(f"blocks.{n}.resid_pre", lambda x, n=n: (entered.append(n), x)[1]) for n in range(4)]
    with pytest.raises(Stopped), stoppable(stopping(3)):
        model.run(tokens, edits=seen)
    assert entered == [0, 1]


def test_a_backward_pass_stops_between_blocks_and_leaves_nothing(model: OlmoForCausalLM, tokens: Tensor) -> None:
    leaf = model.get_input_embeddings()(tokens).detach().requires_grad_()
    with stoppable(stopping(6)):  # 4 calls in the forward pass
        run = model.run(resid=leaf, grad=True)
    with pytest.raises(Stopped):
        torch.autograd.grad(run.logits.sum(), leaf)
    again = model.run(resid=leaf, grad=True)
    torch.autograd.grad(again.logits.sum(), leaf)


def test_gradients_of_edges_stop_between_layers(model: OlmoForCausalLM, tokens: Tensor) -> None:
    called: list[int] = []
    with stoppable(lambda: called.append(1)):
        found = slopes(model, model.get_input_embeddings()(tokens).detach(), lambda logits: logits[:, 5])
        next(found)
        after_passes = len(called)
        list(found)
    assert len(called) - after_passes == model.config.num_hidden_layers - 1


def test_no_number_changes(model: OlmoForCausalLM, tokens: Tensor) -> None:
    def numbers() -> list[Tensor]:
        plain = model.run(tokens, capture="blocks.*.attn.pattern", logits_to_keep=1)
        leaf = model.get_input_embeddings()(tokens).detach().requires_grad_()
        slope = torch.autograd.grad(model.run(resid=leaf, grad=True).logits.sum(), leaf)[0]
        return [plain.logits, plain.stack("attn.pattern"), slope, model(tokens).logits]

    before = numbers()
    with stoppable(lambda: None):
        assert all(torch.equal(one, other) for one, other in zip(before, numbers(), strict=True))


@pytest.mark.parametrize("at", [1, 4, 5, 9])
def test_analyses_stop_within_a_pass(model: OlmoForCausalLM, tokens: Tensor, at: int) -> None:
    before = [weight.grad for weight in model.parameters()]
    with pytest.raises(Stopped), stoppable(stopping(at)):
        logit_lens(model, tokens[0])
    with pytest.raises(Stopped), stoppable(stopping(at)):
        token_saliency(model, tokens[0], 5, points=8)
    assert all(weight.grad is old for weight, old in zip(model.parameters(), before, strict=True))


def test_a_check_holds_for_its_block_and_its_thread() -> None:
    told: list[str] = []
    with stoppable(lambda: told.append("outer")):
        with stoppable(lambda: told.append("inner")):
            check_stop()
        report(None, 0.5, "a report checks, too")
        other = threading.Thread(target=check_stop)
        other.start()
        other.join()
    check_stop()
    assert told == ["inner", "outer"]
