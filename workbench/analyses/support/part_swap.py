"""A model in which one part (a head, an MLP, a layer) has the weights of another model."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hooks import OlmoForCausalLM
from workbench.analyses.support.named_tensors import NamedTensors
from workbench.errors import WorkbenchError

KINDS = ("head", "attention", "mlp", "layer", "residual")
Tensors = dict[str, Tensor]
"""Whole parameters by name."""


@dataclass(frozen=True)
class Part:
    """A part of a model: `Part("head", 2, heads=(5,))`, `Part("mlp", 2)`, `Part("attention", 2)`, `Part("layer", 2)`,
    or `Part("residual", 2)`.

    `residual` is the residual stream after the layer. It has activations but no weights.
    """

    kind: str
    layer: int
    heads: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise WorkbenchError(f"no part {self.kind!r}; parts: {', '.join(KINDS)}")
        if bool(self.heads) != (self.kind == "head"):
            raise WorkbenchError(
                f"a part {self.kind!r} with heads {self.heads}: 'head' needs at least one head, other parts take none"
            )

    @classmethod
    def named(cls, name: str) -> "Part":
        """The part with a name as `str` writes it: `L2H1`, `L2H1H3`, `L2 mlp`, `L2 attention`.

        Errors: WorkbenchError for a name that is not the name of a part.
        """
        found = re.fullmatch(r"L(\d+)(?:((?:H\d+)+)| ?([a-z]+))", name, re.IGNORECASE)
        if found is None:
            raise WorkbenchError(
                f"{name!r} is not the name of a part; write L2H1 for a head, or L2 and one of {', '.join(KINDS[1:])}"
            )
        layer, heads, kind = found.groups()
        if heads:
            return cls("head", int(layer), tuple(map(int, heads.upper().split("H")[1:])))
        return cls(kind.lower(), int(layer))

    def __str__(self) -> str:
        name = "".join(f"H{head}" for head in self.heads) or f" {self.kind}"
        return f"L{self.layer}{name}"


def part_tensors(source: NamedTensors, part: Part) -> Tensors:
    """The parameters that contain the weights of a part, whole, by name. Errors: WorkbenchError for `residual`."""
    if part.kind == "residual":
        raise WorkbenchError("the residual stream has no weights; give using='activations'")
    block = f"model.layers.{part.layer}."
    inside = {
        "head": ("self_attn.",),
        "attention": ("self_attn.", "post_attention_layernorm."),
        "mlp": ("mlp.", "post_feedforward_layernorm."),
        "layer": ("",),
    }[part.kind]
    names = [name for name in source if name.startswith(tuple(block + start for start in inside))]
    return {name: source.rows(name, 0, source.shape(name)[0]) for name in names}


def grafted(model: OlmoForCausalLM, tensors: Tensors, part: Part) -> OlmoForCausalLM:
    """A copy of `model` in which one part has its parameters from `tensors`. It shares all other parameters with
    `model`.

    The parameters of a head are its rows of q, its columns of o and its part of the q norm. Keys and values are
    exchanged too if all query heads that share them are exchanged. `model` itself is unchanged.

    Errors: WorkbenchError if shapes differ, or the parameters are quantised.
    """
    shared = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    for name, new in tensors.items():
        old = model.get_parameter(name)
        if not old.is_floating_point():
            raise WorkbenchError("weights of a quantised model cannot be exchanged; load it without quantize")
        if old.shape != new.shape:
            raise WorkbenchError(f"{name} is {tuple(new.shape)} in A and {tuple(old.shape)} in B")
        value = new.to(old.device, old.dtype)
        if part.kind == "head":
            value = _exchanged(model, name, old.detach(), value, part.heads)
        path, _, kind = name.rpartition(".")
        setattr(twin.get_submodule(path), kind, nn.Parameter(value, requires_grad=False))
    return twin


def _exchanged(model: OlmoForCausalLM, name: str, old: Tensor, new: Tensor, heads: Sequence[int]) -> Tensor:
    """`old` with the entries of some heads replaced by those of `new`."""
    config = model.config
    matrix, kind = name.split(".")[-2:]
    if matrix == "o_proj" and kind == "bias":
        return old
    axis = 1 if matrix == "o_proj" else 0
    group = config.num_attention_heads // config.num_key_value_heads
    if matrix[0] in "kv":
        mine = [
            kv for kv in range(config.num_key_value_heads) if set(range(kv * group, (kv + 1) * group)) <= set(heads)
        ]
        count = config.num_key_value_heads
    else:
        mine, count = list(heads), config.num_attention_heads
    value = old.clone()
    for index in mine:
        of_head = [slice(None)] * axis + [
            slice(index * old.shape[axis] // count, (index + 1) * old.shape[axis] // count)
        ]
        value[tuple(of_head)] = new[tuple(of_head)]
    return value
