"""A first-order estimate of activation patching, for all cells at once."""

import numpy as np
import torch
from einops import reduce
from torch import Tensor

from hooks import OlmoForCausalLM, edits
from workbench.analyses.activation_patching import column_names, site_and_axis
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, run_bytes, site_bytes, tokens_at_a_time
from workbench.analyses.support.prompt_pairs import (
    Contrast,
    Ends,
    MeasureValues,
    NormalisedMeans,
    Pairs,
    TokenLike,
    contrast,
    ends_of,
    grids,
    last_logits_bytes,
    log_probabilities,
    measured,
    outlined,
    scale_between,
)
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Measures, Scores
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer


def attribution_patching(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    token: TokenLike,
    against: TokenLike | None = None,
    *,
    site: str = "resid_pre",
    by: str = "position",
    position: int = -1,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """The grids of `activation_patching`, estimated from two forward passes and one backward pass for each measure.

    The estimate assumes that a measure is linear in the patched activation x: the change of the measure by patching a
    cell is Σ (clean − corrupted) · ∂measure/∂x. The gradient is that of the corrupted run, and the sum runs over all
    entries of the cell (Nanda 2023, "Attribution patching"; Syed et al. 2023, arXiv 2310.10348). Arguments, measures
    and normalisation are those of `activation_patching`, without `metric`. `agreement` compares an estimate with the
    exact grids. The estimate is worst for residual streams, because patching changes them most.

    Errors: WorkbenchError as in `activation_patching`.
    """
    pair = contrast(model, clean, corrupted, token, against, position, tokenizer)
    site, axis = site_and_axis(model, site, by)
    columns = column_names(model, pair, axis, tokenizer)
    size = tokens_at_a_time(model, f"gradients at {site}", _bytes(model, pair, site), pair.clean.longest)
    batches, ends, means = pair.batches(size), [], NormalisedMeans(pair.measures, one="clean")
    for number, pairs in enumerate(batches):
        stage = part(progress, number / len(batches), (number + 1) / len(batches))
        end, changes = _estimates(model, pair, pairs, site, axis, stage)
        ends.append(end)
        means.add_changes(changes, end)
    scale = scale_between(pair, ends, one="clean", dtype=model.dtype)
    title = f"Patching {site} from the clean prompt, to first order"
    return grids(scale, means, range(model.config.num_hidden_layers), columns, by, title)


def _estimates(
    model: OlmoForCausalLM, pair: Contrast, pairs: Pairs, site: str, axis: str, progress: Progress | None
) -> tuple[Ends, MeasureValues]:
    """The measures after the clean and the corrupted prompts, and the estimated change of each measure by patching each
    cell: layer column text each.
    """
    wanted = f"blocks.*.{site}"
    clean_run = model.run(pairs.clean, capture=wanted, logits_to_keep=1)
    # The graph starts at the residual stream, so gradients also exist for a model without trainable weights.
    leaf = edits.apply("blocks.0.resid_pre", lambda x: x.detach().requires_grad_())
    base = model.run(pairs.corrupted, capture=wanted, edits=leaf, grad=True, logits_to_keep=1)
    names = [f"blocks.{layer}.{site}" for layer in range(model.config.num_hidden_layers)]
    with torch.enable_grad():
        measures = measured(pair, pairs, log_probabilities(clean_run.logits), base.logits[None, :, -1])
    found = {}
    for measure in steps(pair.measures, progress, f"gradients at {site}"):
        slopes = torch.autograd.grad(measures[measure].sum(), [base[name] for name in names], retain_graph=True)
        changes = [
            _product(clean_run[name] - base[name].detach(), slope, model.sites[name], axis)
            for name, slope in zip(names, slopes, strict=True)
        ]
        found[measure] = torch.stack([change.cpu() for change in changes])
    return ends_of(pair, pairs, clean_run.logits, base.logits.detach()), found


def _bytes(model: OlmoForCausalLM, pair: Contrast, site: str) -> float:
    """Bytes for each token of a pair: both runs, one of them with its graph; the gradients; float64 products."""
    length = pair.clean.longest
    run = run_bytes(model, capture=4 * [f"blocks.*.{site}"], grad=True, length=length)
    products = 4 * 8 / model.dtype.itemsize * site_bytes(model, f"blocks.0.{site}", length)
    return run + products + 3 * last_logits_bytes(model) / min(pair.clean.lengths)


@work_of(attribution_patching)
def _work(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    *_: object,
    site: str = "resid_pre",
    by: str = "position",
    position: int = -1,
    **__: object,
) -> Work:
    pair, (site, _axis) = outlined(model, clean, corrupted, position), site_and_axis(model, site, by)
    per_token, tokens = _bytes(model, pair, site), pair.clean.tokens
    peak = peak_bytes(model, f"gradients at {site}", per_token, pair.clean.longest, tokens)
    passes = 2 + 3  # forward, and backward for each measure
    return Work(pass_flops(model, passes * tokens, logits=passes * len(pair.clean)), nbytes=peak)


def _product(change: Tensor, slope: Tensor, shape: str, axis: str) -> Tensor:
    """Σ change · slope over all axes except `axis` and the texts: axis text. Masked scores are not finite and count as
    unchanged.
    """
    change = change.double().where(change.isfinite(), 0.0)
    return reduce(change * slope.double(), f"{shape} -> {axis} batch", "sum")


def agreement(exact: Measures, estimate: Measures) -> Scores:
    """The correlation between `activation_patching` and its estimate, as Scores: Pearson's coefficient over all cells,
    for each measure.

    −1 to 1; 1 means that the estimate is a linear function of the exact values, with a positive slope.

    Errors: WorkbenchError if the two results differ in their measures or in the shape of their grids.
    """
    names = list(exact)
    if list(estimate) != names or estimate[names[0]].values.shape != exact[names[0]].values.shape:
        raise WorkbenchError(f"{exact!r} and {estimate!r} do not have the same cells and measures")
    return Scores(
        [np.corrcoef(exact[name].values.ravel(), estimate[name].values.ravel())[0, 1] for name in names],
        [name.replace("_", " ").replace("kl", "KL") for name in names],
        title="Agreement of attribution patching with activation patching",
        value_name="correlation",
        signed=True,
    )
