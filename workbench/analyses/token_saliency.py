"""The tokens of a prompt that a prediction depends on."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.direct_logit_attribution import target_ids
from workbench.analyses.support.arguments import chosen, one_text
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, report, steps
from workbench.results import Measures, Scores
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_id, token_labels, vocabulary_labels

DOUBLED = (32, 64, 128, 256, 512, 1024, 2048)
"""Numbers of points on which an integral is computed, tried in this order."""


def token_saliency(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    token: int | str,
    against: int | str | None = None,
    *,
    position: int = -1,
    baseline: int | str | None = None,
    points: int = 1024,
    tolerance: float = 1e-3,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """How much each token of one text adds to the logit of `token`, or to the logit difference of `token` and
    `against`.

    Returns Scores with one number for each token up to `position`. With f the logit at `position` and x the token
    embeddings:

    - `gradient_x_input`: Σ x ∂f/∂x over the embedding of the token. To first order, this is how much the logit falls if
      the token's embedding becomes zero.
    - `integrated_gradients`: Σ (x − x′) ∫₀¹ ∂f/∂x(x′ + α (x − x′)) dα (Sundararajan et al. 2017, arXiv 1703.01365).

    The baseline x′ has the same vector at every position: the embedding of the token `baseline`, or if it is None the
    mean of all embeddings. A baseline of zeros is not offered: because of the norms, f changes only very close to zero,
    where no quadrature is accurate.

    `total` is the value that the scores should add up to: f(x) − f(x′) for integrated gradients, f(x) − f(0) for
    gradient × input. Exact integrated gradients add up to it; gradient × input need not. The sum of the scores minus
    `total` is the completeness gap. It is in the title and in the provenance (`completeness_gap`): read it before the
    scores.

    The integral is a Gauss–Legendre quadrature on 32, 64, 128, … points. The number of points grows until the gap is at
    most `tolerance` times the sum of the absolute scores, or until it reaches `points`. The tolerance is never below
    the precision of the dtype (0.8 % in bfloat16). Where f is smooth, the gap falls exponentially with the number of
    points. Where `clip_qkv` clips, the gradient is discontinuous and the gap falls only in proportion to 1 / points.

    Errors: WorkbenchError for a target that is not one token, a position outside the text, or `points` below 1.
    """
    batch = one_text(tokens, model)
    (position,) = chosen([position], batch.shape[1], "position")
    target = target_ids(model, token, against, tokenizer)
    if points < 1:
        raise WorkbenchError(f"points is {points}; the quadrature needs at least 1, and is more exact with more")
    ids, embeddings = batch[:, : position + 1], model.get_input_embeddings().weight.detach()
    per_token, sums = _bytes(model, ids.shape[1])
    first = 3 * ids.shape[1]  # the first gradient call has three texts
    size = tokens_at_a_time(model, "integrated gradients", per_token, first, fixed=sums)
    x = model.run(ids, capture="blocks.0.resid_pre", captures_only=True)["blocks.0.resid_pre"]  # 1 pos d_model
    origin = embeddings.mean(0).expand_as(x)
    if baseline is not None:
        origin = embeddings[token_id(baseline, tokenizer, len(embeddings))].expand_as(x)
    logits, slopes = _slopes(model, torch.cat([x, origin, torch.zeros_like(x)]), target)
    to_zeros, to_origin = float(logits[0] - logits[2]), float(logits[0] - logits[1])
    tolerance = max(tolerance, torch.finfo(x.dtype).eps)
    integrated, used = _integrated(Line(model, origin, x, target, size), to_origin, points, tolerance, progress)
    labels, name = token_labels(ids[0], tokenizer), " over ".join(vocabulary_labels(target, tokenizer))
    by_slope = _as_scores("gradient × input", (x[0] * slopes[0]).sum(-1), to_zeros, labels, name)
    by_integral = _as_scores(f"integrated gradients on {used} points", integrated, to_origin, labels, name)
    return Measures(gradient_x_input=by_slope, integrated_gradients=by_integral)


@work_of(token_saliency)
def _work(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    *_: object,
    position: int = -1,
    points: int = 1024,
    **__: object,
) -> Work:
    length = one_text(tokens).shape[1]
    read = 1 + chosen([position], length, "position")[0]
    per_token, sums = _bytes(model, read)
    counts = _numbers_of_points(points)
    peak = peak_bytes(model, "integrated gradients", per_token, 3 * read, counts[-1] * read, fixed=sums)
    least, most = (2 * pass_flops(model, (3 + total) * read, logits=3 + total) for total in (counts[0], sum(counts)))
    return Work(least, at_most=most, nbytes=peak)


def _bytes(model: OlmoForCausalLM, length: int) -> tuple[float, float]:
    """Returns two numbers of bytes: for each token of the points that are run at a time, with their gradients, also in
    float64; and of the sums over a text of this length.
    """
    d_model = model.config.hidden_size
    return run_bytes(model, grad=True) + 40 * d_model, 40 * d_model * length


def _numbers_of_points(most: int) -> list[int]:
    """The numbers of points to try, up to `most`."""
    return [*(count for count in DOUBLED if count < most), most]


@dataclass(frozen=True, eq=False)
class Line:
    """The straight line in embedding space between two texts, each 1 pos d_model, and the integral along it."""

    model: OlmoForCausalLM
    start: Tensor
    end: Tensor
    target: list[int]
    tokens: int  # number of tokens to run at a time

    def integral(self, points: int, progress: Progress | None) -> Tensor:
        """The integral of the gradient along the line, for each token, by Gauss–Legendre quadrature on `points` points:
        pos, float64.
        """
        way = self.end - self.start
        nodes, weights = (torch.tensor(part) for part in np.polynomial.legendre.leggauss(points))
        alphas, weights = (nodes + 1) / 2, weights / 2  # from −1…1 to 0…1
        total, size = torch.zeros_like(way[0], dtype=torch.float64), max(1, self.tokens // way.shape[1])
        chunks = list(zip(alphas.split(size), weights.split(size), strict=True))
        for some, weight in steps(chunks, progress, f"integrated gradients on {points} points"):
            _, slopes = _slopes(self.model, self.start + some[:, None, None].to(way) * way, self.target)
            total = total + einsum(weight.to(slopes), slopes, "alpha, alpha pos d_model -> pos d_model")
        return (way[0] * total).sum(-1)


def _integrated(line: Line, total: float, most: int, tolerance: float, progress: Progress | None) -> tuple[Tensor, int]:
    """The integral on the smallest tried number of points for which its sum is close enough to `total`, and that
    number; on `most` points if none is enough.
    """
    counts = _numbers_of_points(most)
    for done, count in enumerate(counts):
        ends = (sum(counts[:n]) / sum(counts) for n in (done, done + 1))
        found = line.integral(count, part(progress, *ends))
        if abs(float(found.sum()) - total) <= tolerance * float(found.abs().sum()):
            break
    report(progress, 1.0, "integrated gradients")
    return found, count


def _slopes(model: OlmoForCausalLM, embeddings: Tensor, target: list[int]) -> tuple[Tensor, Tensor]:
    """The target's logit after each text, and its gradient, both float64: batch; batch pos d_model."""
    leaf = embeddings.detach().requires_grad_()
    logits = model.run(resid=leaf, grad=True, logits_to_keep=1).logits[:, -1, target].double()
    with torch.enable_grad():
        logit = logits[:, 0] - logits[:, 1] if len(target) == 2 else logits[:, 0]
        (slope,) = torch.autograd.grad(logit.sum(), leaf)
    return logit.detach(), slope.double()


def _as_scores(method: str, values: Tensor, total: float, labels: tuple[str, ...], target: str) -> Scores:
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
