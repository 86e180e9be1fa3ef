"""The dot products of the gradients of many rows with one direction, without the gradients themselves.

The dot product of a row's gradient with a direction V is the derivative of the row's loss with respect to a number s,
at s = 0, if each weight W is replaced by W + s V. Each row of a batch has its own s, so one backward pass gives the
numbers of all rows: a linear layer adds the sum over tokens of δᵀ V x, where x is its input and δ the gradient with
respect to its output. No gradient with respect to a weight is computed.

If the direction is the gradient of a short text, V is a sum of one outer product for each token. It is then replaced by
two thin matrices, so that products with it are cheap.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hooks import OlmoForCausalLM
from hooks.compat import times
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import CHUNK, CHUNK_BYTES
from workbench.corpus.gradients import Gradient
from workbench.progress import Progress, steps
from workbench.texts import Texts

TOKENS = 2048
"""Largest number of tokens at a time. More are slower on a CPU."""

CPU_LOGITS = 2**20
"""Largest number of logits at a time on a CPU, so that they stay in its cache."""

EXACT = 2e-6
"""Largest error of two thin matrices, as a share of the norm of the matrix that they replace."""

Context: TypeAlias = Any
"""What an autograd function keeps from its forward to its backward pass."""

Factors: TypeAlias = tuple[Tensor | None, Tensor]
"""Two matrices (rank in, rank out) whose product, the second transposed times the first, is a matrix (out in).
None in place of the first stands for the identity."""


def directional_derivatives(
    model: OlmoForCausalLM, direction: Gradient, rows: Texts, progress: Progress | None = None
) -> np.ndarray:
    """The dot product of each row's gradient with a direction: row, float64.

    Computed as the derivative of the row's loss along the direction, by one forward and one backward pass.
    """
    found = np.zeros(len(rows))
    size = tokens_at_a_time(
        model, "influence", 2 * run_bytes(model, grad=True), rows.longest, fixed=CHUNK_BYTES, at_most=TOKENS
    )
    along = _Direction(model, direction)
    for numbers, ids in steps(rows.padded_batches(size), progress, "influence"):
        mask = rows.mask[numbers, 1 : ids.shape[1]].to(ids.device)
        found[numbers] = along.derivatives(ids, mask).double().cpu().numpy()
    return found


def factors(matrix: Tensor) -> Factors:
    """The factors of a matrix (out in): two thin ones if its rank is low, else the identity and itself.

    The thin ones span the image of random vectors under the matrix (Halko et al. 2011). The number of vectors is
    doubled until the error is at most `EXACT`; directions that this error does not need are then left out.
    """
    generator, rank = torch.Generator().manual_seed(0), 16
    while rank <= min(matrix.shape) // 3 and matrix.dtype in (torch.float32, torch.float64):
        vectors = torch.randn(matrix.shape[1], rank, generator=generator).to(matrix)
        basis = torch.linalg.qr(matrix @ vectors).Q  # out rank
        inner = basis.T @ matrix  # rank in
        allowed = (EXACT * matrix.norm()) ** 2 - (matrix - basis @ inner).square().sum()
        if allowed >= 0:
            turned, sizes, rows = torch.linalg.svd(inner, full_matrices=False)
            tails = sizes.square().flip(0).cumsum(0).flip(0)  # the squared error of leaving out this one and the next
            kept = max(1, int((tails > allowed).sum()))
            return sizes[:kept, None] * rows[:kept], (basis @ turned[:, :kept]).T.contiguous()
        rank *= 2
    return None, matrix.T.contiguous()


class _Direction:
    """A model with a direction in the space of its parameters."""

    def __init__(self, model: OlmoForCausalLM, direction: Gradient) -> None:
        self.model = model
        own = {id(value): direction[name] for name, value in model.named_parameters()}  # tied ones: first name
        modules = list(model.modules())
        self.linear = {id(m.weight): _Linear(m.weight, own[id(m.weight)]) for m in modules if isinstance(m, nn.Linear)}
        # The weights of norms are converted to float32 by the model; of copies that are float32 the norm gets the same.
        self.norms = {
            name: value.detach().float()
            for name, value in model.model.named_parameters()
            if value.dim() == 1 and not name.endswith("bias")
        }
        copied = {f"model.{name}" for name in self.norms}
        self.parameters = {id(copy) for copy in self.norms.values()} | {
            id(value) for name, value in model.named_parameters() if name not in copied and name != "lm_head.weight"
        }
        self.others = own | {id(copy): direction[f"model.{name}"].float() for name, copy in self.norms.items()}

    def derivatives(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The derivative of the loss of each row, the mean over its tokens but the first: batch.

        ids: batch pos; mask: batch pos-1, whether a token but the first belongs to its row.
        """
        amount = torch.zeros(len(ids), dtype=self.model.dtype, device=ids.device, requires_grad=True)
        with torch.enable_grad(), _Tracked(self, amount) as mode:
            given = {"input_ids": ids, "use_cache": False}
            hidden = functional_call(self.model.model, self.norms, kwargs=given).last_hidden_state  # batch pos d_model
        assert mode.met == self.parameters, "a parameter was read in an unknown way; its derivative would be missing"
        with torch.no_grad():
            slopes, of_unembedding = self._loss_slopes(hidden, ids, mask)
        (of_others,) = torch.autograd.grad(hidden, amount, slopes)
        return of_others + of_unembedding

    def _loss_slopes(self, hidden: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the losses with respect to the final hidden states (batch pos d_model), and the derivatives
        of the losses along the direction of the unembedding (batch). Logits are computed in chunks and not kept.
        """
        layer = self.linear[id(self.model.lm_head.weight)]
        slopes, derivatives = torch.zeros_like(hidden), hidden.new_zeros(len(hidden))
        row, pos = mask.nonzero(as_tuple=True)
        share = 1 / mask.sum(1)[row]  # of each token in the loss of its row
        logits = CPU_LOGITS if hidden.device.type == "cpu" else CHUNK
        for some in torch.arange(len(row), device=row.device).split(max(1, logits // len(layer.weight))):
            at = row[some], pos[some]
            x = hidden[at]
            by_logit = torch.softmax(layer(x), -1, dtype=torch.promote_types(x.dtype, torch.float32))  # token vocab
            by_logit[torch.arange(len(x)), ids[:, 1:][at]] -= 1
            by_logit = by_logit.mul_(share[some, None]).to(x.dtype)
            slopes[at] = layer.back(by_logit)
            derivatives.index_add_(0, at[0], layer.along(layer.read(x), by_logit))
        return slopes, derivatives


class _Linear:
    """A linear layer without its bias, and a direction V of its weight."""

    def __init__(self, weight: Tensor, direction: Tensor) -> None:
        self.weight = weight.detach()
        self.transposed = self.weight.T.contiguous()
        self.inner, self.outer = factors(direction)

    def __call__(self, x: Tensor) -> Tensor:
        """The output: … in -> … out."""
        return times(x, self.weight)

    def back(self, slope: Tensor) -> Tensor:
        """The gradient with respect to the input, from that with respect to the output: … out -> … in."""
        return times(slope, self.transposed)

    def read(self, x: Tensor) -> Tensor:
        """What `along` needs of the input: … in -> … rank."""
        return x if self.inner is None else times(x, self.inner)

    def along(self, read: Tensor, slope: Tensor) -> Tensor:
        """δᵀ V x of each token, from `read(x)` (… rank) and the gradient with respect to its output (… out)."""
        return (times(slope, self.outer) * read).sum(-1)


class _LinearStep(torch.autograd.Function):
    """The output of a linear layer (batch pos out), with its derivative with respect to the amount of the direction
    (batch)."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, amount: Tensor, layer: _Linear) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(layer.read(x))
        return layer(x)

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        return ctx.layer.back(slope), ctx.layer.along(*ctx.saved_tensors, slope).sum(1), None


class _Step(torch.autograd.Function):
    """A value (batch pos out), unchanged, with its `change` (the same shape) for each unit of the amount (batch)."""

    @staticmethod
    def forward(ctx: Context, value: Tensor, amount: Tensor, change: Tensor) -> Tensor:
        ctx.save_for_backward(change)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        (change,) = ctx.saved_tensors
        return slope, (slope * change).sum((1, 2)), None


class _Tracked(TorchFunctionMode):
    """Replaces functions that read a parameter by ones that also compute the derivative along the direction."""

    def __init__(self, direction: _Direction, amount: Tensor) -> None:
        super().__init__()
        self.linear, self.others, self.amount = direction.linear, direction.others, amount
        self.met: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Tensor], types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Tensor:
        own: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
            F.linear: self._linear,
            F.embedding: self._embedding,
            F.rms_norm: self._rms_norm,
        }
        return own.get(func, func)(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = _LinearStep.apply(x, self.amount, self.linear[id(weight)])
        self.met.add(id(weight))
        if bias is None:
            return out
        return self._step(out + bias.detach(), bias, self.others[id(bias)].expand_as(out))

    def _embedding(self, ids: Tensor, weight: Tensor, padding_idx: int | None = None, **_: object) -> Tensor:
        """As in torch, the embedding of the padding token has no gradient."""
        change = F.embedding(ids, self.others[id(weight)])
        if padding_idx is not None:
            change = change * (ids != padding_idx)[..., None]
        return self._step(F.embedding(ids, weight.detach()), weight, change)

    def _rms_norm(self, x: Tensor, shape: tuple[int, ...], weight: Tensor, eps: float) -> Tensor:
        change = F.rms_norm(x.detach(), shape, self.others[id(weight)], eps)
        return self._step(F.rms_norm(x, shape, weight, eps), weight, change)

    def _step(self, value: Tensor, parameter: Tensor, change: Tensor) -> Tensor:
        self.met.add(id(parameter))
        found: Tensor = _Step.apply(value, self.amount, change)
        return found
