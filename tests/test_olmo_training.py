"""Training: gradients equal transformers' own, with dropout and with gradient checkpointing."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from hooks import OlmoForCausalLM


def gradients(model: nn.Module, tokens: Tensor, **options) -> dict[str, Tensor]:
    """The gradient of the loss on `tokens` with respect to every parameter, with a fixed random state."""
    model.zero_grad()
    torch.manual_seed(0)
    model(tokens, labels=tokens, **options).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(
            ours[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_gradients_are_theirs(pair, tokens):
    theirs = gradients(pair.theirs, tokens)
    assert all(gradient.any() for gradient in theirs.values())
    assert_same(gradients(pair.ours, tokens), theirs)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_is_theirs(make_pair, family, tokens, attention):
    pair = make_pair(family, attention_dropout=0.5)
    theirs = (pair.eager if attention == "eager" else pair.theirs).train()
    ours = OlmoForCausalLM._from_config(deepcopy(pair.ours.config), attn_implementation=attention).train()
    ours.load_state_dict(pair.ours.state_dict())
    still = gradients(ours.eval(), tokens)
    dropped = gradients(ours.train(), tokens)
    assert not torch.allclose(still["lm_head.weight"], dropped["lm_head.weight"])
    assert_same(dropped, gradients(theirs, tokens))


def kept_bytes(model: nn.Module, tokens: Tensor) -> int:
    """The bytes that one forward pass keeps for the backward pass."""
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
        model(tokens, labels=tokens, use_cache=False)
    return sum(sizes)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_.*able` is deprecated:FutureWarning")
@pytest.mark.parametrize("spelling", ["activation_checkpointing", "gradient_checkpointing"])
def test_gradient_checkpointing(make_model, family, tokens, spelling):
    model = make_model(family).train()
    plain, kept = gradients(model, tokens, use_cache=False), kept_bytes(model, tokens)
    getattr(model, f"{spelling}_enable")()
    assert model.is_activation_checkpointing
    assert kept_bytes(model, tokens) < 0.5 * kept
    assert_same(gradients(model, tokens, use_cache=False), plain)
    getattr(model, f"{spelling}_disable")()
    assert kept_bytes(model, tokens) == kept


def test_checkpointing_and_gradients_through_taps(make_model, family, tokens):
    model = make_model(family).train()
    plain = model.run(tokens, capture="blocks.1.resid_post", grad=True)
    slope = torch.autograd.grad(plain.logits.square().mean(), plain["blocks.1.resid_post"])[0]
    model.activation_checkpointing_enable()
    saved = model.run(tokens, capture="blocks.1.resid_post", grad=True)
    torch.testing.assert_close(
        torch.autograd.grad(saved.logits.square().mean(), saved["blocks.1.resid_post"])[0], slope
    )


def test_a_few_steps_lower_the_loss(make_model, family, tokens):
    model = make_model(family).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
