"""The effective number of directions in the hidden states of each layer."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.jackknife import GROUPS, jackknife_errors, text_groups
from workbench.analyses.support.memory import budget, peak_bytes, tokens_at_a_time
from workbench.analyses.support.residual_stream import residual_names, residuals, residuals_bytes
from workbench.progress import Progress, part, steps
from workbench.results import Curves
from workbench.texts import Texts, TextsLike

AT_MOST = 1024  # tokens at a time, because their states are held in float64


def effective_rank(
    model: OlmoForCausalLM, tokens: TextsLike, *, groups: int = GROUPS, progress: Progress | None = None
) -> Curves:
    """RankMe of the residual stream at `embed` and after each layer, over all tokens of all texts.

    Returns Curves over layers, in directions; see `rankme` for the formula. Values lie between 1 and min(number of
    tokens, d_model), so compare only runs with the same number of tokens. Where the number itself matters, use several
    times d_model tokens.

    The standard errors are over texts, from the rank without each of `groups` groups of texts (`jackknife_errors`); the
    texts run once. A bootstrap would be biased, because a text that is drawn twice adds tokens but no directions. There
    are no errors for a single text, for `groups` below 2, or if the groups' matrices take more than half of the memory
    budget. The errors need the eigenvalues of `groups` more matrices, which takes most of the time if d_model is large.

    Memory: one matrix of d_model × min(number of tokens, d_model) for each layer; with more tokens than d_model, one
    for each layer and group.
    """
    texts = texts_for(model, tokens)
    of_texts = text_groups(len(texts), _number_of_groups(model, texts, groups))
    count = int(of_texts.max()) + 1
    names, width = residual_names(model), model.config.hidden_size
    few, smaller = texts.tokens <= width, min(texts.tokens, width)
    per_token, matrices = _bytes(model, texts.tokens, count)
    size = tokens_at_a_time(model, "effective rank", per_token, texts.longest, fixed=matrices, at_most=AT_MOST)
    # Of few tokens the states are kept, sample d_model; of many, the Gram matrix Zᵀ Z of each group of texts.
    shape = (smaller, width) if few else (count, width, width)
    held, done = torch.zeros(len(names), *shape, dtype=torch.float64, device=model.device), 0
    of_tokens = torch.empty(texts.tokens, dtype=torch.long, device=model.device)
    for rows, ids in steps(texts.batches(size), part(progress, 0.0, 0.5), "hidden states"):
        of_rows = of_texts[rows].to(ids.device).repeat_interleave(ids.shape[1])  # sample
        of_tokens[done : done + ids.numel()] = of_rows
        for total, states in zip(held, residuals(model, ids).flatten(1, 2), strict=True):
            z = states.to(total)  # sample d_model
            if few:
                total[done : done + len(z)] = z
                continue
            for group in of_rows.unique().tolist():
                some = z[of_rows == group]
                total[group].addmm_(some.T, some)
        done += ids.numel()
    told = steps(range(len(held)), part(progress, 0.5, 1.0), "effective rank")
    ranks = torch.stack([_ranks(held[layer], of_tokens, count, few) for layer in told], dim=1)  # 1+group layer
    errors = jackknife_errors(ranks[0], ranks[1:], of_texts)[None] if count > 1 else None
    return Curves(
        ranks[:1],
        ["RankMe"],
        range(len(names)),
        x_name="layer",
        x_labels=names,
        title=f"Effective rank over {texts.tokens} tokens",
        value_name="effective rank",
        unit="directions",
        errors=errors,
        texts=len(texts),
    )


def _ranks(held: Tensor, of_tokens: Tensor, groups: int, few: bool) -> Tensor:
    """RankMe of one layer, of all tokens, then without each group of texts: 1+group, or 1 for one group.

    held: the states of few tokens, sample d_model; or of many, the Gram matrix of each group, group d_model d_model.
    of_tokens: the group of each token.
    """
    gram = held @ held.T if few else held.sum(0)
    found = [rankme(gram, len(of_tokens))]
    for group in range(groups if groups > 1 else 0):
        kept = of_tokens != group
        rest = gram[kept][:, kept] if few else gram - held[group]
        found.append(rankme(rest, int(kept.sum())))
    return torch.stack(found)


def _number_of_groups(model: OlmoForCausalLM, texts: Texts, groups: int) -> int:
    """The number of groups of texts, 1 where their matrices would take more than half of the memory budget."""
    groups = max(1, min(groups, len(texts)))
    return groups if _bytes(model, texts.tokens, groups)[1] <= budget(model) // 2 else 1


@work_of(effective_rank)
def _work(model: OlmoForCausalLM, tokens: TextsLike, *, groups: int = GROUPS, **_: object) -> Work:
    texts, width = texts_for(model.config, tokens), model.config.hidden_size
    groups = _number_of_groups(model, texts, groups)
    per_token, matrices = _bytes(model, texts.tokens, groups)
    peak = peak_bytes(model, "effective rank", per_token, texts.longest, texts.tokens, fixed=matrices, at_most=AT_MOST)
    layers, smaller = model.config.num_hidden_layers + 1, min(texts.tokens, width)
    ranks = 1 if groups == 1 else 1 + groups
    of_matrices = layers * (2 * texts.tokens * smaller * width + 4 * ranks * smaller**3)  # and eigenvalues
    return Work(pass_flops(model, texts.tokens) + of_matrices, nbytes=peak)


def _bytes(model: OlmoForCausalLM, tokens: int, groups: int) -> tuple[float, float]:
    """Returns two numbers of bytes: for each token of a batch, and of the matrices of all layers in float64."""
    layers, width = model.config.num_hidden_layers + 1, model.config.hidden_size
    smaller = min(tokens, width)
    held = layers * smaller * width * (1 if tokens <= width else groups)
    return residuals_bytes(model) + 2 * 8 * width, 8 * (held + 4 * smaller**2)


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
