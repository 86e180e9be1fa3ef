"""Random transcoders of the MLPs of a tiny model, with gates of three kinds."""

from typing import Any

import torch

from hooks import OlmoForCausalLM
from workbench.features import CrossLayerTranscoder, Dictionary, Gate

FEATURES = 40
GATES = (Gate("topk", 5), Gate("relu"), Gate("jumprelu", threshold=torch.full((FEATURES,), 0.5)))


def transcoder(
    model: OlmoForCausalLM,
    layer: int,
    *,
    writes: str = "mlp_out",
    reads: str = "mlp_in",
    skip: bool = False,
    **options: Any,
) -> Dictionary:
    """A random transcoder of one MLP."""
    generator, width = torch.Generator().manual_seed(100 * layer), model.config.hidden_size

    def noise(*shape: int, spread: float = 0.3) -> torch.Tensor:
        return spread * torch.randn(*shape, generator=generator)

    parts = noise(width, FEATURES), noise(FEATURES), noise(FEATURES, width), noise(width)
    at = f"blocks.{layer}."
    options |= {"skip": noise(width, width, spread=0.1)} if skip else {}
    return Dictionary(*parts, GATES[layer % len(GATES)], at + reads, at + writes, **options)


def transcoders(model: OlmoForCausalLM, layers: Any = None, **options: Any) -> dict[str, Dictionary]:
    """A random transcoder of each of these layers, or of all."""
    layers = range(model.config.num_hidden_layers) if layers is None else layers
    return {f"t{layer}": transcoder(model, layer, **options) for layer in layers}


def cross_layer(model: OlmoForCausalLM, **options: Any) -> CrossLayerTranscoder:
    """A random cross-layer transcoder."""
    count, width = model.config.num_hidden_layers, model.config.hidden_size
    generator = torch.Generator().manual_seed(7)
    later = [0.2 * torch.randn(FEATURES, count - 1 - layer, width, generator=generator) for layer in range(count)]
    return CrossLayerTranscoder(tuple(transcoders(model, **options).values()), tuple(later))
