"""The hidden states of one layer, seen along the directions in which they differ most."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.common import as_batch, chosen
from workbench.errors import WorkbenchError
from workbench.progress import Progress
from workbench.results import Points
from workbench.text import Tokenizer, token_labels


def hidden_state_pca(
    model: OlmoForCausalLM,
    tokens: Tensor,
    layer: int,
    *,
    components: int = 2,
    skip: int = 0,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Points:
    """Principal components of the residual stream after a layer, a point a token, coloured by position.

    `components` is 2 or 3; each axis names the share of the variance along it. `skip` leaves out the first tokens of
    each text: the very first often carries an activation so massive that the first component shows nothing else.
    Signs are fixed so that the entry of a component that is largest in size is positive.
    """
    if components not in (2, 3):
        raise WorkbenchError(f"components is {components}; a picture has 2 or 3")
    batch = as_batch(tokens)
    (layer,) = chosen([layer], model.config.num_hidden_layers, "layer")
    kept = batch[:, skip:]
    if kept.numel() <= components:
        raise WorkbenchError(
            f"{kept.numel()} tokens are left after skipping {skip} of {batch.shape[1]}, for {components} components"
        )
    if progress is not None:
        progress(0.0, "hidden states")
    site = f"blocks.{layer}.resid_post"
    states = model.run(batch, capture=site, captures_only=True)[site][:, skip:].flatten(0, 1)  # sample d_model
    points, shares = principal_components(states, components)
    if progress is not None:
        progress(1.0, "hidden states")
    return Points(
        points,
        [name for text in kept for name in token_labels(text, tokenizer)],
        [f"PC{n} ({share:.1%})" for n, share in enumerate(shares.tolist(), 1)],
        colour=torch.arange(skip, batch.shape[1]).repeat(len(batch)),
        title=f"Hidden states after layer {layer}",
        value_name="projection",
        signed=True,
    )


def principal_components(states: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Coordinates, [sample component], along the directions of most variance, and each one's share of it."""
    centred = states.double() - states.double().mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    largest = v.gather(1, v.abs().argmax(1, keepdim=True))[:, 0]
    points = u * s * largest.sign()
    return points[:, :components], (s.square() / s.square().sum())[:components]
