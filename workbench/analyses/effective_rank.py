"""The effective number of directions in the hidden states of each layer."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, tokens_at_a_time
from workbench.analyses.support.residual_stream import residual_names, residuals, residuals_bytes
from workbench.progress import Progress, part, steps
from workbench.results import Curves
from workbench.texts import TextsLike

AT_MOST = 1024  # tokens at a time, because their states are held in float64


def effective_rank(model: OlmoForCausalLM, tokens: TextsLike, *, progress: Progress | None = None) -> Curves:
    """RankMe of the residual stream at `embed` and after each layer, over all tokens of all texts.

    Returns Curves over layers, in directions; see `rankme` for the formula. Values lie between 1 and min(number of
    tokens, d_model), so compare only runs with the same number of tokens. Where the number itself matters, use several
    times d_model tokens.

    There is no standard error over texts: the value is no mean over them, and a bootstrap is biased, because a text
    that is drawn twice adds tokens but no directions. For the spread, measure disjoint parts of the set with the same
    number of tokens.

    Memory: one matrix of d_model × min(number of tokens, d_model) for each layer.
    """
    texts = texts_for(model, tokens)
    names, width = residual_names(model), model.config.hidden_size
    few, smaller = texts.tokens <= width, min(texts.tokens, width)
    per_token, matrices = _bytes(model, texts.tokens)
    size = tokens_at_a_time(model, "effective rank", per_token, texts.longest, fixed=matrices, at_most=AT_MOST)
    # Of few tokens the states are kept, sample d_model; of many, their Gram matrix Zᵀ Z, which has the same rank.
    held, done = torch.zeros(len(names), smaller, width, dtype=torch.float64, device=model.device), 0
    for _, ids in steps(texts.batches(size), part(progress, 0.0, 0.5), "hidden states"):
        for total, states in zip(held, residuals(model, ids).flatten(1, 2), strict=True):
            z = states.to(total)  # sample d_model
            if few:
                total[done : done + len(z)] = z
            else:
                total.addmm_(z.T, z)
        done += ids.numel()
    grams = (each @ each.T if few else each for each in held)
    told = steps(range(len(held)), part(progress, 0.5, 1.0), "effective rank")
    ranks = torch.stack([rankme(gram, texts.tokens) for _, gram in zip(told, grams, strict=True)])
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


@work_of(effective_rank)
def _work(model: OlmoForCausalLM, tokens: TextsLike, **_: object) -> Work:
    texts, width = texts_for(model.config, tokens), model.config.hidden_size
    per_token, matrices = _bytes(model, texts.tokens)
    peak = peak_bytes(model, "effective rank", per_token, texts.longest, texts.tokens, fixed=matrices, at_most=AT_MOST)
    layers, smaller = model.config.num_hidden_layers + 1, min(texts.tokens, width)
    of_matrices = layers * (2 * texts.tokens * smaller * width + 4 * smaller**3)  # Gram matrices and eigenvalues
    return Work(pass_flops(model, texts.tokens) + of_matrices, nbytes=peak)


def _bytes(model: OlmoForCausalLM, tokens: int) -> tuple[float, float]:
    """Returns two numbers of bytes: for each token of a batch, and of the matrices of all layers in float64."""
    layers, width = model.config.num_hidden_layers + 1, model.config.hidden_size
    smaller = min(tokens, width)
    return residuals_bytes(model) + 2 * 8 * width, 8 * (layers * smaller * width + 4 * smaller**2)


def rankme(gram: Tensor, samples: int) -> Tensor:
    """RankMe of a matrix Z, [sample d_model], from its Gram matrix Zᵀ Z or Z Zᵀ: exp(−Σ p log p), with p = σ / Σσ and σ
    the singular values of Z.

    Z is not centred. Singular values below 1e-7 of the largest are rounding errors and count as zero. Source: Garrido
    et al. 2023, "RankMe: assessing the downstream performance of pretrained self-supervised representations by their
    rank".
    """
    squares = torch.linalg.eigvalsh(gram).flip(0)[:samples]
    singular = squares.where(squares > 1e-14 * squares[0], 0).sqrt()
    return torch.special.entr(singular / singular.sum()).sum().exp()
