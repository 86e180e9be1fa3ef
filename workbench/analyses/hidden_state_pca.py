"""The hidden states of one layer, projected on their principal components."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import chosen, texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.jackknife import GROUPS, jackknife_errors, text_groups
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.analyses.support.undefined import refuse_undefined
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Points
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels


def hidden_state_pca(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    layer: int,
    *,
    components: int = 2,
    skip: int = 0,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Points:
    """The hidden state of each token after one layer, projected on the principal components of all of them.

    Returns Points, one for each token, coloured by position; coordinates are in the unit of the residual stream. The
    states are centred first. `components` is 2 or 3. Each axis label gives the share of the variance along the axis, 0
    to 1. `skip` leaves out the first tokens of each text: the first token often has an activation so large that the
    first component shows nothing else. The sign of a component is chosen so that its largest entry in absolute value is
    positive.

    The shares (`shares`) have standard errors over texts (`share_errors`, also on the axis labels), computed from the
    shares without each of at most `GROUPS` groups of texts (`jackknife_errors`). They are None for a single text. The
    points have no errors, because each point is the state of one token, not a mean over texts.

    Errors: WorkbenchError for other `components`, a layer that the model does not have, or too few tokens after `skip`.
    """
    if components not in (2, 3):
        raise WorkbenchError(f"components is {components}; it should be 2 or 3")
    texts = texts_for(model, tokens)
    (layer,) = chosen([layer], model.config.num_hidden_layers, "layer")
    kept = [max(0, length - skip) for length in texts.lengths]
    if sum(kept) <= components:
        raise WorkbenchError(
            f"{sum(kept)} tokens are left after skipping {skip} of each text, too few for {components} components"
        )
    site, held = f"blocks.{layer}.resid_post", _held(model, sum(kept))
    size = tokens_at_a_time(model, "principal components", run_bytes(model, capture=[site]), texts.longest, fixed=held)
    states: list[Tensor] = [torch.empty(0)] * len(texts)
    for rows, ids in steps(texts.batches(size), progress, "hidden states"):
        run = model.run(ids, capture=site, captures_only=True)
        for row, state in zip(rows, run[site], strict=True):
            states[row] = state[skip:].double()  # pos d_model
    refuse_undefined(torch.stack([state.sum() for state in states]), f"state after layer {layer}", texts)
    points, shares, errors = principal_components_of(states, components)
    said = [f"{share:.1%}" for share in shares.tolist()]
    if errors is not None:
        pairs = zip(said, errors.tolist(), strict=True)
        said = [f"{share} ± {error:.1%} over {len(texts)} texts" for share, error in pairs]
    return Points(
        points,
        [name for text in texts for name in token_labels(text[skip:], tokenizer)],
        [f"PC{n} ({share})" for n, share in enumerate(said, 1)],
        colour=torch.cat([torch.arange(skip, skip + count) for count in kept]),
        title=f"Hidden states after layer {layer}",
        value_name="projection",
        signed=True,
        shares=shares,
        share_errors=errors,
        texts=len(texts),
    )


@work_of(hidden_state_pca)
def _work(model: OlmoForCausalLM, tokens: TextsLike, layer: int, **_: object) -> Work:
    texts = texts_for(model.config, tokens)
    (layer,) = chosen([layer], model.config.num_hidden_layers, "layer")
    per_token, held = run_bytes(model, capture=[f"blocks.{layer}.resid_post"]), _held(model, texts.tokens)
    peak = peak_bytes(model, "principal components", per_token, texts.longest, texts.tokens, fixed=held)
    return Work(pass_flops(model, texts.tokens, layer + 1), nbytes=peak)


def _held(model: OlmoForCausalLM, tokens: int) -> int:
    """Bytes of the states in float64, and of their decomposition."""
    return 6 * 8 * tokens * model.config.hidden_size


def principal_components(states: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Coordinates, [sample component], along the directions of largest variance, and the share of the variance along
    each.
    """
    points, shares = _all_components(states)
    return points[:, :components], shares[:components]


def principal_components_of(states: Sequence[Tensor], components: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """The `principal_components` of the states of several texts, pos d_model each, and the standard errors of the
    shares over texts: component; None for a single text.
    """
    points, shares = _all_components(torch.cat(list(states)))
    groups = text_groups(len(states), GROUPS)
    count, without = int(groups.max()) + 1, []
    of_tokens = groups.repeat_interleave(torch.tensor([len(state) for state in states])).to(points.device)
    scatter = points.square().sum(0).diag()  # of all states about their mean, in coordinates along the components
    for group in range(count if count > 1 else 0):
        inside = points[of_tokens == group]
        moved, rest = inside.sum(0), len(points) - len(inside)
        variances = torch.linalg.eigvalsh(scatter - inside.T @ inside - torch.outer(moved, moved) / max(1, rest))
        without.append(variances.flip(0)[:components] / variances.sum())
    errors = jackknife_errors(shares[:components], torch.stack(without), groups) if without else None
    return points[:, :components], shares[:components], errors


def _all_components(states: Tensor) -> tuple[Tensor, Tensor]:
    """The `principal_components` along all directions."""
    centred = states.double() - states.double().mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    largest = v.gather(1, v.abs().argmax(1, keepdim=True))[:, 0]
    points = u * s * largest.sign()
    return points, s.square() / s.square().sum()
