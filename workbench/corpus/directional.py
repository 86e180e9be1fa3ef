"""The dot products of the gradients of many rows with one direction, without the gradients themselves.

The dot product of a row's gradient with a direction is the derivative of the row's loss along the direction. One pass
in forward mode computes it for all rows of a batch: each activation comes with its derivative (its tangent).

A linear layer y = W x has the tangent W ẋ + Ẇ x. Ẇ is the direction's matrix, and where the direction is the gradient
of a short text, it is a sum of as many outer products as the text has tokens: two thin matrices in its place save a
third of the work.
"""

import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from hooks import OlmoForCausalLM
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import CHUNK_BYTES
from workbench.corpus.gradients import Gradient
from workbench.progress import Progress, steps
from workbench.texts import Texts

TOKENS = 2048
"""The most tokens at a time: more take longer on a CPU, where their logits do not stay in the cache."""

EXACT = 2e-6
"""The largest error of two thin matrices, as a share of the norm of the matrix for which they stand."""

Factors = tuple[Tensor, ...]


def directional_derivatives(
    model: OlmoForCausalLM, direction: Gradient, rows: Texts, progress: Progress | None = None
) -> np.ndarray:
    """The dot product of each row's gradient with a direction: row, float64.

    Computed as the derivative of the row's loss along the direction, in forward mode.
    """
    found = np.zeros(len(rows))
    size = tokens_at_a_time(
        model, "influence", 3 * run_bytes(model, logits=4), rows.longest, fixed=CHUNK_BYTES, at_most=TOKENS
    )
    linear = _linear_directions(model, direction)
    for numbers, ids in steps(rows.padded_batches(size), progress, "influence"):
        mask = rows.mask[numbers, 1 : ids.shape[1]].to(ids.device)
        with torch.no_grad(), forward_ad.dual_level():
            derivatives = _loss_derivatives(_logits(model, direction, linear, ids), ids)
        found[numbers] = ((derivatives * mask).sum(1) / mask.sum(1)).double().cpu().numpy()
    return found


def factors(matrix: Tensor) -> Factors:
    """Matrices whose product is the transpose of a matrix (out in): two thin ones if its rank is low, else one.

    The thin ones come from the range of the matrix on random vectors (Halko et al. 2011), twice as many until the
    error is at most `EXACT`.
    """
    generator, rank = torch.Generator().manual_seed(0), 16
    while rank <= min(matrix.shape) // 3 and matrix.dtype in (torch.float32, torch.float64):
        vectors = torch.randn(matrix.shape[1], rank, generator=generator).to(matrix)
        basis = torch.linalg.qr(matrix @ vectors).Q  # out rank
        inner = basis.T @ matrix  # rank in
        if (matrix - basis @ inner).norm() <= EXACT * matrix.norm():
            return inner.T.contiguous(), basis.T.contiguous()
        rank *= 2
    return (matrix.T,)


class _LinearTangents(TorchFunctionMode):
    """Computes linear layers of known weights, and the tangents of their outputs, from the factors of a direction."""

    def __init__(self, directions: dict[int, Factors]) -> None:
        super().__init__()
        self.directions = directions
        self.met: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Tensor], types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Tensor:
        if func is not F.linear or id(args[1]) not in self.directions:
            return func(*args, **(kwargs or {}))
        self.met.add(id(args[1]))
        weight, bias = args[1], args[2] if len(args) > 2 else None
        value, tangent = forward_ad.unpack_dual(args[0])
        change = reduce(torch.matmul, self.directions[id(weight)], value)
        if tangent is not None:
            change.flatten(0, -2).addmm_(tangent.flatten(0, -2), weight.T)
        out = forward_ad.make_dual(F.linear(value, weight), change)
        return out if bias is None else out + bias


def _linear_directions(model: OlmoForCausalLM, direction: Gradient) -> dict[int, Factors]:
    """The factors of a direction by the id of the weight of each linear layer."""
    own = {id(value): direction[name] for name, value in model.named_parameters()}  # tied ones under their first name
    weights = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear)}
    return {weight: factors(own[weight]) for weight in weights}


def _logits(model: OlmoForCausalLM, direction: Gradient, linear: dict[int, Factors], ids: Tensor) -> Tensor:
    """Logits with their derivatives along a direction.

    The explicit form of attention is used, because the fused kernels have no derivative in forward mode.
    """
    embeddings = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    with warnings.catch_warnings():  # the first use imports a module of torch that torch itself deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        others = {
            name: forward_ad.make_dual(value, direction[name])
            for name, value in model.named_parameters()
            if id(value) not in linear or id(value) in embeddings
        }
    explicit = sdpa_kernel(SDPBackend.MATH) if ids.device.type in ("cpu", "cuda") else nullcontext()
    with explicit, _LinearTangents(linear) as mode:
        given = {"input_ids": ids, "use_cache": False}
        found: Tensor = functional_call(model, others, kwargs=given, tie_weights=False).logits
    assert mode.met == set(linear), "a linear layer was not computed by `F.linear`; its derivative would be missing"
    return found


def _loss_derivatives(logits: Tensor, ids: Tensor) -> Tensor:
    """The derivative of −log p of each token but the first, from logits and their derivatives: batch pos-1."""
    value, change = forward_ad.unpack_dual(logits)
    probabilities = value.float().softmax(-1)
    expected = torch.einsum("btv,btv->bt", probabilities, change.float())[:, :-1]
    return expected - change[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].float()
