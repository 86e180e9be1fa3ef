"""Linear layers by the faster library give the same numbers, and keep gradients and hooks where they are asked."""

import pytest
import torch

from hooks import compat
from hooks.products import fast_products, product


@pytest.fixture(autouse=True)
def small_products_by_one_dnn(monkeypatch):
    monkeypatch.setattr(compat, "ONE_DNN_FROM", 1)


def test_fast_products_differ_by_rounding_only_and_keep_gradients(model, tokens):
    with fast_products():
        fast, graded = model.run(tokens).logits, model(input_ids=tokens).logits
    expected = model.run(tokens).logits
    assert torch.allclose(fast, expected, rtol=0, atol=1e-5) and not fast.requires_grad
    assert torch.equal(graded.detach(), model(input_ids=tokens).logits.detach()) and graded.requires_grad


def test_fast_products_add_the_bias():
    layer, x = torch.nn.Linear(24, 16), torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), fast_products():
        fast = product(layer, x)
    assert torch.allclose(fast, layer(x), rtol=0, atol=1e-5)


def test_fast_products_leave_layers_that_compute_more_to_torch():
    layer, x = torch.nn.Linear(24, 16), torch.ones(3, 24)
    replaced, hooked = torch.nn.Linear(24, 16), torch.nn.Linear(24, 16)
    replaced.forward = lambda x: layer(x) + 1
    hooked.register_forward_hook(lambda hooked, args, out: layer(x) + 1)
    with torch.no_grad(), fast_products():
        for other in (replaced, hooked, torch.nn.Sequential(hooked)):
            assert torch.equal(product(other, x), layer(x) + 1)


def test_fast_products_end_with_the_outermost_block(model, tokens):
    expected = model.run(tokens).logits
    with fast_products():
        with fast_products():
            pass
        inside = model.run(tokens).logits
    with fast_products():
        assert torch.equal(model.run(tokens).logits, inside)
    assert torch.equal(model.run(tokens).logits, expected)
