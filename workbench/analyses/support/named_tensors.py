"""Parameters by name, from the files of a checkpoint or from a model in memory, read a few rows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedConfig

from hooks import OlmoForCausalLM
from workbench.checkpoints import CheckpointLike, locate, open_weights
from workbench.errors import WorkbenchError


class NamedTensors(Protocol):
    """Tensors with the names of transformers, read by rows: `checkpoints.Weights` or `ModelTensors`."""

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        ...

    def __iter__(self) -> Iterator[str]:
        """The names of the tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor."""
        ...

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start:stop` of one tensor."""
        ...


WeightsLike = CheckpointLike | OlmoForCausalLM | NamedTensors
"""Weights to compare: a checkpoint, opened weights, or a model in memory."""


@dataclass(frozen=True)
class ModelTensors:
    """The parameters of a model in memory, with the interface of opened files."""

    model: OlmoForCausalLM

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.model.named_parameters())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.model.get_parameter(name).shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return self.model.get_parameter(name).detach()[start:stop].to("cpu", copy=True)


def weights_of(source: WeightsLike) -> NamedTensors:
    """The weights of a checkpoint or a model, opened for reading by name.

    Errors: WorkbenchError for a quantised model, and those of `checkpoints.locate` and `open_weights`.
    """
    if isinstance(source, CheckpointLike):
        return open_weights(locate(source))
    if not isinstance(source, OlmoForCausalLM):
        return source
    if not all(parameter.is_floating_point() for parameter in source.parameters()):
        raise WorkbenchError(
            "the weights of a quantised model cannot be compared; compare its files, or load it without quantize"
        )
    return ModelTensors(source)
