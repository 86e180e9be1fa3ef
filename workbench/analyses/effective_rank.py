"""How many directions the hidden states of each layer really use."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.common import as_batch, residual_names, residuals
from workbench.progress import Progress, steps
from workbench.results import Curves

TEXTS = 8  # run at a time


def effective_rank(model: OlmoForCausalLM, tokens: Tensor, *, progress: Progress | None = None) -> Curves:
    """RankMe of the residual stream at `embed` and after each layer, over all positions of all texts.

    Between 1 and min(number of tokens, d_model), so compare only runs over equally many tokens, and use several times
    d_model of them where the number itself matters. Memory: one d_model × d_model matrix a layer, however many texts.
    """
    batch = as_batch(tokens)
    names = residual_names(model)
    width = model.config.hidden_size
    gram = torch.zeros(len(names), width, width, dtype=torch.float64, device=batch.device)
    for texts in steps(batch.split(TEXTS), progress, "effective rank"):
        states = residuals(model, texts).double().flatten(1, 2)  # layer sample d_model
        gram += (states.mT @ states).to(gram.device)
    ranks = torch.stack([rankme(matrix, batch.numel()) for matrix in gram])
    return Curves(
        ranks[None],
        ["RankMe"],
        range(len(names)),
        x_name="layer",
        x_labels=names,
        title=f"Effective rank over {batch.numel()} tokens",
        value_name="effective rank",
        unit="directions",
    )


def rankme(gram: Tensor, samples: int) -> Tensor:
    """exp(−Σ p log p) with p = σ / Σσ, σ the singular values of a matrix Z, [sample d_model]; from Zᵀ Z.

    Garrido et al. 2023, "RankMe: assessing the downstream performance of pretrained self-supervised representations
    by their rank", without centring. Rounding below 1e-7 of the largest singular value counts as zero.
    """
    squares = torch.linalg.eigvalsh(gram).flip(0)[:samples]
    singular = squares.where(squares > 1e-14 * squares[0], 0).sqrt()
    return torch.special.entr(singular / singular.sum()).sum().exp()
