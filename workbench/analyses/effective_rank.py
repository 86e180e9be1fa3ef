"""The effective number of directions in the hidden states of each layer."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.memory import tokens_at_a_time
from workbench.analyses.support.residual_stream import residual_names, residuals, residuals_bytes
from workbench.progress import Progress, steps
from workbench.results import Curves
from workbench.texts import TextsLike

AT_MOST = 1024  # tokens at a time, because their states are held in float64


def effective_rank(model: OlmoForCausalLM, tokens: TextsLike, *, progress: Progress | None = None) -> Curves:
    """RankMe of the residual stream at `embed` and after each layer, over all tokens of all texts.

    Returns Curves over layers, in directions; see `rankme` for the formula. Values lie between 1 and min(number of
    tokens, d_model), so compare only runs with the same number of tokens. Where the number itself matters, use several
    times d_model tokens. Memory: a few d_model × d_model matrices for each layer, however many texts there are.
    """
    texts = texts_for(model, tokens)
    names, width = residual_names(model), model.config.hidden_size
    matrices = 3 * len(names) * width * width * 8
    per_token = residuals_bytes(model) + len(names) * width * 8
    size = tokens_at_a_time(model, "effective rank", per_token, texts.longest, fixed=matrices, at_most=AT_MOST)
    gram = torch.zeros(len(names), width, width, dtype=torch.float64, device=model.device)
    for _, ids in steps(texts.batches(size), progress, "effective rank"):
        states = residuals(model, ids).double().flatten(1, 2)  # layer sample d_model
        gram += (states.mT @ states).to(gram.device)
    ranks = torch.stack([rankme(matrix, texts.tokens) for matrix in gram])
    return Curves(
        ranks[None],
        ["RankMe"],
        range(len(names)),
        x_name="layer",
        x_labels=names,
        title=f"Effective rank over {texts.tokens} tokens",
        value_name="effective rank",
        unit="directions",
    )


def rankme(gram: Tensor, samples: int) -> Tensor:
    """RankMe of a matrix Z, [sample d_model], from its Gram matrix Zᵀ Z: exp(−Σ p log p), with p = σ / Σσ and σ the
    singular values of Z.

    Z is not centred. Singular values below 1e-7 of the largest are rounding errors and count as zero. Source: Garrido
    et al. 2023, "RankMe: assessing the downstream performance of pretrained self-supervised representations by their
    rank".
    """
    squares = torch.linalg.eigvalsh(gram).flip(0)[:samples]
    singular = squares.where(squares > 1e-14 * squares[0], 0).sqrt()
    return torch.special.entr(singular / singular.sum()).sum().exp()
