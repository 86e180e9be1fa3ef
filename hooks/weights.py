"""The weight matrices of a model by layer and head, and products of them.

A matrix multiplies a row vector from the right, as in TransformerLens: q = x @ W_Q. Names are TransformerLens's.

    model.W_Q[5]            # head d_model d_head, a view of the parameter
    model.W_Q[5, 2]         # of head 2: d_model d_head
    model.W_OV[5, 2]        # Factored: W_V of the head's values, then its W_O; rank at most d_head
    model.W_in[5]           # d_model d_mlp
    model.W_Q.stack()       # layer head d_model d_head, a copy
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .errors import OutOfRange, WrongType


def matrix_of(layer: nn.Module) -> Tensor | None:
    """The weight matrix of a plain `nn.Linear`; None for quantised, adapted and offloaded layers."""
    if type(layer) is not nn.Linear:
        return None
    weight = layer.weight.to_local() if hasattr(layer.weight, "to_local") else layer.weight
    return weight if type(weight) in (nn.Parameter, Tensor) and weight.device.type != "meta" else None


@torch.no_grad()
def dense(layer: nn.Module) -> Tensor:
    """The weight matrix of a linear layer, without gradients: out in.

    A view of the parameter of a plain layer. For quantised, adapted and offloaded layers, a new matrix: what the layer
    does to each unit vector, less its bias.
    """
    weight = matrix_of(layer)
    if weight is not None:
        return weight.detach()
    wide = int(layer.in_features)  # type: ignore[arg-type]  # torch says Tensor or Module of any attribute
    units = torch.eye(wide, dtype=_input_dtype(layer), device=_device_of_layer(layer))
    out = layer(units)
    return (out if layer.bias is None else out - layer.bias).T


def _input_dtype(layer: nn.Module) -> torch.dtype:
    floating = [parameter.dtype for parameter in layer.parameters() if parameter.is_floating_point()]
    return floating[0] if floating else torch.get_default_dtype()


def _device_of_layer(layer: nn.Module) -> torch.device:
    devices = [parameter.device for parameter in layer.parameters() if parameter.device.type != "meta"]
    return devices[0] if devices else torch.device("cpu")  # an offloaded layer moves its input by itself


@dataclass(frozen=True)
class Factored:
    """A product of two matrices of small rank, `left @ right`, which is not computed.

    Attributes:
        left: … n rank.
        right: … rank m.
    """

    left: Tensor
    right: Tensor

    def product(self) -> Tensor:
        """The whole matrix: … n m."""
        return self.left @ self.right

    @property
    def T(self) -> "Factored":
        """The transpose."""
        return Factored(self.right.mT, self.left.mT)

    @property
    def shape(self) -> torch.Size:
        """The shape of the product."""
        return torch.Size((*self.left.shape[:-1], self.right.shape[-1]))

    def __matmul__(self, other: Tensor) -> "Factored":
        """This product times a matrix (… m k), which stays factored."""
        return Factored(self.left, self.right @ other)

    def __rmatmul__(self, other: Tensor) -> Tensor:
        """A row vector (n), or a matrix of them (… k n), times this product: … m, or … k m."""
        rows = other[None] if other.ndim == 1 else other
        found = (rows @ self.left) @ self.right
        return found[..., 0, :] if other.ndim == 1 else found

    def norm(self) -> Tensor:
        """The Frobenius norm, from matrices of size rank × rank: shape …"""
        left, right = self.left.mT @ self.left, self.right @ self.right.mT
        return (left * right).sum((-2, -1)).clamp_min(0).sqrt()  # both are symmetric

    def eigenvalues(self) -> Tensor:
        """The first `rank` eigenvalues of a square product, complex: … rank. All its other eigenvalues are 0."""
        return torch.linalg.eigvals(self.right @ self.left)

    def singular_values(self) -> Tensor:
        """The `rank` largest singular values, in descending order: … rank. All others are 0."""
        left, right = torch.linalg.qr(self.left).R, torch.linalg.qr(self.right.mT).R
        return torch.linalg.svdvals(left @ right.mT)


Matrix = TypeVar("Matrix", Tensor, Factored)


@dataclass(frozen=True)
class ByLayer(Generic[Matrix]):
    """One kind of matrix for each layer, or for each layer and head, made when it is asked for.

    Attributes:
        name: its name, for messages.
        layers: the number of layers.
        heads: the number of heads (key and value heads for `W_K` and `W_V`); 0 for matrices of the whole layer.
        of_layer: makes the matrices of one layer, head first.
    """

    name: str
    layers: int
    heads: int
    of_layer: Callable[[int], Matrix]

    def __len__(self) -> int:
        return self.layers

    def __iter__(self) -> Iterator[Matrix]:
        return (self[layer] for layer in range(self.layers))

    def __getitem__(self, place: int | tuple[int, int]) -> Matrix:
        """The matrices of a layer, or of one head: `[layer]`, `[layer, head]`; negative numbers count from the end.

        Errors: OutOfRange for a layer or head that does not exist; WrongType for anything but whole numbers.
        """
        layer, *head = place if isinstance(place, tuple) else (place,)
        if len(head) > 1 or not all(isinstance(index, int) for index in (layer, *head)):
            raise WrongType(f"{self.name}[{place!r}]: give a layer, or a layer and a head, as whole numbers")
        if head and not self.heads:
            raise OutOfRange(f"{self.name}[{place!r}]: {self.name} has one matrix for each layer, none for a head")
        found = self.of_layer(_known(layer, self.layers, "layer"))
        if not head:
            return found
        index = _known(head[0], self.heads, "head")
        return Factored(found.left[index], found.right[index]) if isinstance(found, Factored) else found[index]

    def stack(self) -> Matrix:
        """The matrices of all layers in one tensor, a copy: layer head …, or layer …"""
        found = list(self)
        if isinstance(found[0], Factored):  # then all of them are
            lefts, rights = ([getattr(one, side) for one in found] for side in ("left", "right"))
            return Factored(torch.stack(lefts), torch.stack(rights))
        return torch.stack(found)


def _known(index: int, there: int, what: str) -> int:
    if not -there <= index < there:
        raise OutOfRange(f"no {what} {index}; there are {there}, numbered {-there} … {there - 1}")
    return index % there


class _Model(Protocol):
    """The parts of a model that `WithWeights` reads."""

    config: Any
    model: Any
    lm_head: nn.Module


class WithWeights:
    """The matrices of an OLMo model as attributes. Norms are not folded in: see `workbench.head_composition`."""

    @property
    def W_E(self: _Model) -> Tensor:
        """The embedding: vocab d_model, a view."""
        return self.model.embed_tokens.weight.detach()

    @property
    def W_U(self: _Model) -> Tensor:
        """The unembedding: d_model vocab; logits = ln_final.normalized @ W_U."""
        return dense(self.lm_head).T

    @property
    def W_Q(self: _Model) -> ByLayer[Tensor]:
        """The projection to queries, before any q norm: head d_model d_head for each layer."""
        return _inputs(self, "W_Q", "q_proj", self.config.num_attention_heads)

    @property
    def W_K(self: _Model) -> ByLayer[Tensor]:
        """The projection to keys, before any k norm: kv_head d_model d_head for each layer."""
        return _inputs(self, "W_K", "k_proj", self.config.num_key_value_heads)

    @property
    def W_V(self: _Model) -> ByLayer[Tensor]:
        """The projection to values: kv_head d_model d_head for each layer."""
        return _inputs(self, "W_V", "v_proj", self.config.num_key_value_heads)

    @property
    def W_O(self: _Model) -> ByLayer[Tensor]:
        """The projection from z to a head's output, before any norm of it: head d_head d_model for each layer."""
        heads = self.config.num_attention_heads
        return ByLayer(
            "W_O",
            self.config.num_hidden_layers,
            heads,
            lambda layer: dense(_attention_module(self, layer).o_proj).unflatten(1, (heads, -1)).permute(1, 2, 0),
        )

    @property
    def W_QK(self: "WithWeights") -> ByLayer[Factored]:
        """W_Q W_Kᵀ of each head.

        Attention scores are x_query @ W_QK @ x_keyᵀ, but for RoPE, the q and k norms, and the factor 1/√d_head.
        """
        queries, keys = self.W_Q, self.W_K  # type: ignore[misc]  # the models that mix this class in are a `_Model`
        shared = queries.heads // keys.heads
        return ByLayer(
            "W_QK",
            queries.layers,
            queries.heads,
            lambda layer: Factored(queries[layer], keys[layer].repeat_interleave(shared, 0).mT),
        )

    @property
    def W_OV(self: "WithWeights") -> ByLayer[Factored]:
        """W_V W_O of each head: what a token that is attended to adds to the residual stream, before any norm of it."""
        values, outputs = self.W_V, self.W_O  # type: ignore[misc]  # as in `W_QK`
        shared = outputs.heads // values.heads
        return ByLayer(
            "W_OV",
            outputs.layers,
            outputs.heads,
            lambda layer: Factored(values[layer].repeat_interleave(shared, 0), outputs[layer]),
        )

    @property
    def W_gate(self: _Model) -> ByLayer[Tensor]:
        """The projection to `mlp.pre`, to which the activation function is applied: d_model d_mlp for each layer."""
        return _of_mlp(self, "W_gate", "gate_proj")

    @property
    def W_in(self: _Model) -> ByLayer[Tensor]:
        """The projection to `mlp.pre_linear`: d_model d_mlp for each layer."""
        return _of_mlp(self, "W_in", "up_proj")

    @property
    def W_out(self: _Model) -> ByLayer[Tensor]:
        """The projection from neurons to the output, before any norm after the MLP: d_mlp d_model for each layer."""
        return _of_mlp(self, "W_out", "down_proj")


def _attention_module(model: _Model, layer: int) -> Any:  # noqa: ANN401 - `OlmoAttention`, which stands above this module
    return model.model.layers[layer].self_attn


def _inputs(model: _Model, name: str, projection: str, heads: int) -> ByLayer[Tensor]:
    """The matrices of a projection from d_model to heads."""
    return ByLayer(
        name,
        model.config.num_hidden_layers,
        heads,
        lambda layer: dense(getattr(_attention_module(model, layer), projection)).unflatten(0, (heads, -1)).mT,
    )


def _of_mlp(model: _Model, name: str, projection: str) -> ByLayer[Tensor]:
    layers = model.config.num_hidden_layers
    return ByLayer(name, layers, 0, lambda layer: dense(getattr(model.model.layers[layer].mlp, projection)).T)
