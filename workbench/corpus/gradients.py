"""Gradients of losses with respect to the model's parameters: of a prediction, and of rows one at a time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import one_text
from workbench.errors import WorkbenchError
from workbench.texts import Texts, TextsLike

Gradient = dict[str, Tensor]
"""A gradient, or a direction in the space of the parameters: one tensor for each parameter by name."""


def gradient_of(model: OlmoForCausalLM, prediction: TextsLike, predicted: int | None = 1) -> Gradient:
    """The gradient of the mean −log p, in nats, of the last `predicted` tokens of one text.

    With `predicted=None`, of all its tokens except the first, which has no prediction.

    Errors: WorkbenchError for several texts, or if `predicted` is not between 1 and the number of tokens less one.
    """
    ids = one_text(prediction, model, at_least=2)
    length = ids.shape[-1]
    last = length - 1 if predicted is None else predicted
    if not 1 <= last < length:
        raise WorkbenchError(f"predicted={last}; a text of {length} tokens has 1 to {length - 1} predicted ones")
    return _gradient(model, _leaf_parameters(model), ids.reshape(1, -1), last)


def row_gradients(model: OlmoForCausalLM, rows: Texts, visit: Callable[[int, Gradient], None]) -> None:
    """Call `visit(number, gradient)` with the gradient of each row's loss, one row in memory at a time."""
    parameters = _leaf_parameters(model)
    for number in range(len(rows)):
        ids = rows[number].reshape(1, -1).to(model.device)
        visit(number, _gradient(model, parameters, ids, ids.shape[1] - 1))


def dot(one: Gradient, other: Gradient) -> float:
    """The dot product of two gradients, summed in float64."""
    return float(sum((one[name].double() * other[name].double()).sum() for name in one))


def zeros_like(model: OlmoForCausalLM) -> Gradient:
    """The gradient that is zero everywhere."""
    return {name: torch.zeros_like(value) for name, value in model.named_parameters()}


def _leaf_parameters(model: OlmoForCausalLM) -> Gradient:
    """Leaf copies of the parameters by name; tied ones once. The model's own tensors get no gradient."""
    return {name: value.detach().requires_grad_() for name, value in model.named_parameters()}


def _gradient(model: OlmoForCausalLM, parameters: Gradient, ids: Tensor, last: int) -> Gradient:
    """The gradient of the loss of one text, batch pos, averaged over its last tokens."""
    logits = functional_call(model, parameters, kwargs={"input_ids": ids, "use_cache": False}).logits
    loss = F.cross_entropy(logits[0, :-1][-last:], ids[0, 1:][-last:])
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
