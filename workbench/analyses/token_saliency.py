"""Which tokens of the prompt a prediction rests on."""

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.cells import TOKENS
from workbench.analyses.common import chosen, one_text
from workbench.analyses.direct_logit_attribution import target_ids
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Measures, Scores
from workbench.text import Tokenizer, token_id, token_labels, vocabulary_labels


def token_saliency(
    model: OlmoForCausalLM,
    tokens: Tensor,
    token: int | str,
    against: int | str | None = None,
    *,
    position: int = -1,
    baseline: int | str | None = None,
    points: int = 128,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """How much each token of one text adds to the logit of `token` at `position`, or to its difference from `against`.

    Scores, a number for each token up to `position`, for f the logit and x the token embeddings:

    - `gradient_x_input`: Σ x ∂f/∂x over a token's embedding, to first order what is lost with it;
    - `integrated_gradients`: Σ (x − x′) ∫₀¹ ∂f/∂x(x′ + α (x − x′)) dα (Sundararajan et al. 2017, arXiv 1703.01365), by
      Gauss–Legendre quadrature on that many `points`. The baseline x′ is the embedding of the token `baseline` in every
      place, or the mean of all embeddings. (Not zeros: norms undo a text's shrinking until just before zero, where no
      quadrature follows.)

    Each `total` is what the scores are to explain, f(x) − f(baseline), zeros being the first one's baseline. Exact
    integrated gradients add up to it; gradient × input need not. How far the scores miss it is their completeness gap,
    in the title and the provenance (`completeness_gap`): read it before the scores.

    Errors: WorkbenchError for targets that are not one token, positions that are not there, and fewer than one point.
    """
    batch = one_text(tokens).to(model.device)
    (position,) = chosen([position], batch.shape[1], "position")
    target = target_ids(model, token, against, tokenizer)
    if points < 1:
        raise WorkbenchError(f"points is {points}; the quadrature needs at least 1, and many to be exact")
    ids, embeddings = batch[:, : position + 1], model.get_input_embeddings().weight.detach()
    x = embeddings[ids]  # 1 pos d_model
    origin = embeddings.mean(0).expand_as(x)
    if baseline is not None:
        origin = embeddings[token_id(baseline, tokenizer, len(embeddings))].expand_as(x)
    logits, slopes = _slopes(model, torch.cat([x, origin, torch.zeros_like(x)]), target)
    mean_slope = _mean_slope(model, origin, x, target, points, progress)
    values = {
        "gradient_x_input": (x[0] * slopes[0], logits[0] - logits[2]),
        "integrated_gradients": ((x - origin)[0] * mean_slope, logits[0] - logits[1]),
    }
    labels, name = token_labels(ids[0], tokenizer), " over ".join(vocabulary_labels(target, tokenizer))
    return Measures(
        **{key: _scores(key, value.sum(-1), float(total), labels, name) for key, (value, total) in values.items()}
    )


def _mean_slope(
    model: OlmoForCausalLM, origin: Tensor, x: Tensor, target: list[int], points: int, progress: Progress | None
) -> Tensor:
    """The mean of the gradient on the straight line from origin to x: pos d_model."""
    nodes, weights = (torch.tensor(part) for part in np.polynomial.legendre.leggauss(points))
    alphas, weights = (nodes + 1) / 2, weights / 2  # from −1…1 to 0…1
    total, size = 0.0, max(1, TOKENS // x.shape[1])
    for some, weight in steps(list(zip(alphas.split(size), weights.split(size), strict=True)), progress, "gradients"):
        between = origin + some[:, None, None].to(x) * (x - origin)  # alpha pos d_model
        _, slopes = _slopes(model, between, target)
        total = total + einsum(weight.to(slopes), slopes, "alpha, alpha pos d_model -> pos d_model")
    return total


def _slopes(model: OlmoForCausalLM, embeddings: Tensor, target: list[int]) -> tuple[Tensor, Tensor]:
    """The target's logit after each of some texts and its gradient, float64: batch; batch pos d_model."""
    leaf = embeddings.detach().requires_grad_()
    logits = model.run(resid=leaf, grad=True, logits_to_keep=1).logits[:, -1, target].double()
    with torch.enable_grad():
        logit = logits[:, 0] - logits[:, 1] if len(target) == 2 else logits[:, 0]
        (slope,) = torch.autograd.grad(logit.sum(), leaf)
    return logit.detach(), slope.double()


def _scores(key: str, values: Tensor, total: float, labels: tuple[str, ...], target: str) -> Scores:
    method = key.replace("_x_", " × ").replace("_", " ")
    gap = float(values.sum()) - total
    return Scores(
        values,
        labels,
        total=total,
        title=f"What tokens add to {target}: {method} (completeness gap {gap:.2g} of {total:.3g})",
        value_name="logit" if " over " not in target else "logit difference",
        signed=True,
        provenance={"completeness_gap": gap},
    )
