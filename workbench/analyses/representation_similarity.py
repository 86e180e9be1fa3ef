"""Which layers, of one model or of two, represent texts alike."""

from collections.abc import Iterator

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.common import residuals, texts_for
from workbench.analyses.pairs import Subject, config_of, opened, pair_name, side_by_side
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Grid
from workbench.texts import TextsLike

SAMPLES = 1024  # tokens compared with each other at a time


def representation_similarity(
    model: Subject,
    tokens: TextsLike,
    other: Subject | None = None,
    *,
    skip: int = 0,
    progress: Progress | None = None,
) -> Grid:
    """Debiased linear CKA between every two layers' residual streams: rows of `model`, columns of `other` or itself.

    CKA = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)), K and L the Gram matrices of the two sets of hidden states: 1 for the
    same states up to rotation and scale, about 0 for unrelated ones (slightly below is possible). HSIC is the unbiased
    estimate of Song et al. 2012, averaged over minibatches (Nguyen et al. 2021, "Do wide and deep networks learn the
    same things?"; Kornblith et al. 2019), so memory does not grow with the number of texts. `skip` leaves out the
    first tokens of each text, whose massive norms would drown the others. The two models must share their tokenizer,
    not their width. They may be models, entries of a series or ids; those that are not models are loaded one after the
    other.
    """
    batch = texts_for(config_of(model), tokens).ids
    if batch.shape[1] <= skip:
        raise WorkbenchError(f"texts of {batch.shape[1]} tokens leave none after skipping {skip}; use longer ones")
    groups = _groups(batch, batch.shape[1] - skip)

    def states(model: OlmoForCausalLM) -> Iterator[Tensor]:
        return (residuals(model, texts.to(model.device))[:, :, skip:] for texts in groups)  # layer batch pos d_model

    pairs: Iterator[tuple[Tensor, Tensor]]
    if other is None:
        alone = opened(model, part(progress, 0.0, 0.5))
        told = steps(groups, part(progress, 0.0 if alone is model else 0.5, 1.0), "similarity of representations")
        pairs = ((x, x) for _, x in zip(told, states(alone), strict=True))
    else:
        pairs = side_by_side(model, other, states, len(groups), progress)
    both, first, second = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for one, another in pairs:
        x = _gram(one)
        y = x if another is one else _gram(another)
        both, first, second = both + hsic(x, y), first + hsic(x, x).diagonal(), second + hsic(y, y).diagonal()
    similarity = both / (first[:, None] * second).sqrt()
    return Grid(
        similarity,
        *(["embed", *range(count - 1)] for count in similarity.shape),
        row_name="layer" if other is None else "layer of A",
        column_name="layer" if other is None else "layer of B",
        title="Similarity of representations" + ("" if other is None else pair_name(model, other)),
        value_name="debiased linear CKA",
    )


def hsic(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased HSIC of every Gram matrix of `x` with every one of `y`, each layer sample sample with a zero diagonal.

    Returns layer layer: (tr KL + 1ᵀK1 1ᵀL1 / ((n−1)(n−2)) − 2 · 1ᵀKL1 / (n−2)) / (n (n−3)); Song et al. 2012,
    "Feature selection via dependence maximization", equation 5.
    """
    n = x.shape[-1]
    x_rows, y_rows = x.sum(-1), y.sum(-1)  # layer sample
    trace = x.flatten(1) @ y.flatten(1).T
    product = x_rows.sum(-1)[:, None] * y_rows.sum(-1) / ((n - 1) * (n - 2))
    return (trace + product - 2 * (x_rows @ y_rows.T) / (n - 2)) / (n * (n - 3))


def _groups(batch: Tensor, kept: int) -> list[Tensor]:
    """Texts in minibatches of about equally many, at most `SAMPLES` tokens (or one text) each."""
    if batch.shape[0] * kept < 4:
        raise WorkbenchError(f"{batch.shape[0] * kept} tokens are too few to compare; give at least 4")
    minibatches = -(-batch.shape[0] // max(1, SAMPLES // kept))
    groups = list(batch.tensor_split(minibatches))
    if len(groups[-1]) * kept < 4:
        raise WorkbenchError(f"texts of {kept} tokens are too short to compare; give at least 4")
    return groups


def _gram(states: Tensor) -> Tensor:
    """Products of every two tokens' hidden states, diagonal zero: layer batch pos d_model -> layer sample sample."""
    flat = states.double().flatten(1, 2)
    flat = flat / flat.square().mean(dim=(1, 2), keepdim=True).sqrt()  # scale does not matter; this keeps it in range
    gram = flat @ flat.mT
    gram.diagonal(dim1=1, dim2=2).zero_()
    return gram
