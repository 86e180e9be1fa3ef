"""Linear layers by the faster library give the same numbers, and keep gradients where they are asked."""

import torch

from workbench.analyses.support.products import FastProducts


def test_fast_products_differ_by_rounding_only_and_keep_gradients(model, tokens):
    with FastProducts():
        fast, graded = model.run(tokens).logits, model(input_ids=tokens).logits
    expected = model.run(tokens).logits
    assert torch.allclose(fast, expected, rtol=0, atol=1e-5) and not fast.requires_grad
    assert torch.equal(graded.detach(), model(input_ids=tokens).logits.detach()) and graded.requires_grad


def test_fast_products_add_the_bias():
    layer, x = torch.nn.Linear(24, 16), torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), FastProducts():
        fast = layer(x)
    assert torch.allclose(fast, layer(x), rtol=0, atol=1e-5)
