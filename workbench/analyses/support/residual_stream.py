"""The residual stream at the embedding and after each block, and the names of its rows."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.sites import layer_of
from workbench.analyses.support.memory import run_bytes


def block_of(site: str) -> int:
    """The number of the block that contains a site."""
    layer, _ = layer_of(site)
    assert layer is not None, f"{site} lies in no block"
    return layer


def residuals(model: OlmoForCausalLM, batch: Tensor) -> Tensor:
    """The residual stream at the embedding and after each block: layer+1 batch pos d_model."""
    run = model.run(batch, capture=["embed", "blocks.*.resid_post"], captures_only=True)
    return torch.cat([run["embed"][None], run.stack("resid_post")])


def residuals_bytes(model: OlmoForCausalLM) -> float:
    """Bytes that `residuals` takes for each token of a batch."""
    stream = model.config.hidden_size * model.dtype.itemsize
    return (
        run_bytes(model, capture=["embed", "blocks.*.resid_post"]) + 2 * (model.config.num_hidden_layers + 1) * stream
    )


def residual_names(model: OlmoForCausalLM) -> list[str]:
    """The names of the rows of `residuals`: `embed`, then the number of each block."""
    return ["embed", *(str(layer) for layer in range(model.config.num_hidden_layers))]
