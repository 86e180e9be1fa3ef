"""Activation patching of every cell at once, to first order."""

import numpy as np
import torch
from einops import reduce
from torch import Tensor

from hooks import OlmoForCausalLM, edits
from workbench.analyses.activation_patching import column_names, site_and_axis
from workbench.analyses.contrast import Target, contrast, grids, scale_between
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Measures, Scores
from workbench.text import Tokenizer


def attribution_patching(
    model: OlmoForCausalLM,
    clean: Tensor,
    corrupted: Tensor,
    token: Target,
    against: Target | None = None,
    *,
    site: str = "resid_pre",
    by: str = "position",
    position: int = -1,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """The grids of `activation_patching`, estimated from two forward passes and one backward pass a measure.

    What patching a cell would change is taken to be linear in what is patched: Σ (clean − corrupted) · ∂measure/∂x, the
    gradient taken in the corrupted run and the sum over all that the cell holds (Nanda 2023, "Attribution patching";
    Syed et al. 2023, arXiv 2310.10348). Arguments, measures and normalisation are those of `activation_patching`; see
    `agreement` for how good the estimate is. Residual streams, which change much, suffer most from it.

    Errors: WorkbenchError as in `activation_patching`.
    """
    pair = contrast(model, clean, corrupted, token, against, position, tokenizer)
    site, axis = site_and_axis(model, site, by)
    wanted = f"blocks.*.{site}"
    clean_run = model.run(pair.clean, capture=wanted, logits_to_keep=1)
    # The graph starts at the residual stream, so that it is there for a model without trainable weights too.
    leaf = edits.apply("blocks.0.resid_pre", lambda x: x.detach().requires_grad_())
    base = model.run(pair.corrupted, capture=wanted, edits=leaf, grad=True, logits_to_keep=1)
    scale = scale_between(pair, clean_run.logits, base.logits.detach(), one="clean")
    layers = range(model.config.num_hidden_layers)
    names = [f"blocks.{layer}.{site}" for layer in layers]
    with torch.enable_grad():
        measures = scale.measured(base.logits[None, :, -1])
    values = {}
    for measure in steps(pair.measures, progress, f"gradients at {site}"):
        slopes = torch.autograd.grad(measures[measure].sum(), [base[name] for name in names], retain_graph=True)
        changes = [
            _product(clean_run[name] - base[name].detach(), slope, model.sites[name], axis)
            for name, slope in zip(names, slopes, strict=True)
        ]
        values[measure] = torch.stack(changes) / scale.span(measure)  # layer column
    title = f"Patching {site} from the clean prompt, to first order"
    return grids(scale, values, layers, column_names(model, pair, axis, tokenizer), by, title)


def _product(change: Tensor, slope: Tensor, shape: str, axis: str) -> Tensor:
    """Σ change · slope over all axes but one. Masked scores do not change."""
    change = change.double().where(change.isfinite(), 0.0)
    return reduce(change * slope.double(), f"{shape} -> {axis}", "sum")


def agreement(exact: Measures, estimate: Measures) -> Scores:
    """Pearson's correlation, over all cells, of each measure of `activation_patching` with its estimate: 1 is perfect.

    Raises WorkbenchError if the two were not asked for the same cells and measures.
    """
    names = list(exact)
    if list(estimate) != names or estimate[names[0]].values.shape != exact[names[0]].values.shape:
        raise WorkbenchError(f"{exact!r} and {estimate!r} are not about the same cells and measures")
    return Scores(
        [np.corrcoef(exact[name].values.ravel(), estimate[name].values.ravel())[0, 1] for name in names],
        [name.replace("_", " ").replace("kl", "KL") for name in names],
        title="Agreement of attribution patching with activation patching",
        value_name="correlation",
        signed=True,
    )
