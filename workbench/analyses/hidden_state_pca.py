"""The hidden states of one layer, projected on their principal components."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import chosen, texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
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
    """Principal components of the residual stream after one layer: one point for each token, coloured by position.

    `components` is 2 or 3. Each axis label gives the share of the variance along the axis. `skip` leaves out the first
    tokens of each text: the first token often has an activation so large that the first component shows nothing else.
    The sign of a component is chosen so that its largest entry in absolute value is positive.

    There are no standard errors: each point is one token's state, not a mean over texts.
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
    points, shares = principal_components(torch.cat(states), components)
    return Points(
        points,
        [name for text in texts for name in token_labels(text[skip:], tokenizer)],
        [f"PC{n} ({share:.1%})" for n, share in enumerate(shares.tolist(), 1)],
        colour=torch.cat([torch.arange(skip, skip + count) for count in kept]),
        title=f"Hidden states after layer {layer}",
        value_name="projection",
        signed=True,
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
    centred = states.double() - states.double().mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    largest = v.gather(1, v.abs().argmax(1, keepdim=True))[:, 0]
    points = u * s * largest.sign()
    return points[:, :components], (s.square() / s.square().sum())[:components]
