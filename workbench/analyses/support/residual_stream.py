"""The residual stream at the embedding and after each block, and the names of its rows."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.products import fast_products
from hooks.sites import layer_of
from workbench.analyses.support.memory import run_bytes
from workbench.errors import WorkbenchError

EMBED = "embed"


def block_of(site: str) -> int:
    """The number of the block that contains a site."""
    layer, _ = layer_of(site)
    assert layer is not None, f"{site} lies in no block"
    return layer


@fast_products()
def residuals(model: OlmoForCausalLM, batch: Tensor) -> Tensor:
    """The residual stream at the embedding and after each block: layer+1 batch pos d_model.

    Errors: WorkbenchError for a stream that is NaN or infinite, with the first such row.
    """
    run = model.run(batch, capture=["embed", "blocks.*.resid_post"], captures_only=True)
    found = torch.cat([run["embed"][None], run.stack("resid_post")])
    if found.device.type != "meta":
        _refuse_overflow(model, found)
    return found


def _refuse_overflow(model: OlmoForCausalLM, found: Tensor) -> None:
    """Raise WorkbenchError for a stream that is NaN or infinite. found: layer+1 batch pos d_model."""
    finite = found.isfinite().flatten(1).all(-1).tolist()
    if not all(finite):
        row = residual_names(model)[finite.index(False)]
        where = "of the embedding" if row == EMBED else f"after layer {row}"
        kind = str(model.dtype).removeprefix("torch.")
        raise WorkbenchError(
            f"the residual stream {where} is NaN or infinite on this text: the forward pass overflows in {kind}, or "
            "the weights are damaged"
        )


def residuals_bytes(model: OlmoForCausalLM) -> float:
    """Bytes that `residuals` takes for each token of a batch."""
    stream = model.config.hidden_size * model.dtype.itemsize
    return (
        run_bytes(model, capture=["embed", "blocks.*.resid_post"]) + 2 * (model.config.num_hidden_layers + 1) * stream
    )


def residual_names(model: OlmoForCausalLM) -> list[str]:
    """The names of the rows of `residuals`: `embed`, then the number of each block."""
    return [EMBED, *(str(layer) for layer in range(model.config.num_hidden_layers))]


def residual_sites(model: OlmoForCausalLM) -> list[str]:
    """The sites of the rows of `residuals`: `embed`, then the output of each block."""
    return [EMBED, *(f"blocks.{layer}.resid_post" for layer in range(model.config.num_hidden_layers))]


def residual_site(model: OlmoForCausalLM, layer: int | str) -> str:
    """The site after a layer: the output of a block (negative numbers count from the last), or "embed".

    Errors: WorkbenchError for a layer that the model does not have.
    """
    layers = model.config.num_hidden_layers
    if layer == EMBED:
        return EMBED
    if not isinstance(layer, int) or not -layers <= layer < layers:
        raise WorkbenchError(
            f"no layer {layer!r}; choices: {EMBED}, 0 to {layers - 1}, or -{layers} to -1 from the end"
        )
    return f"blocks.{layer % layers}.resid_post"
