"""The similarity of the representations of texts in different layers, of one model or of two."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.jackknife import GROUPS, jackknife_errors, text_groups
from workbench.analyses.support.memory import Reader, budget, peak_bytes, run_bytes, tokens_at_a_time
from workbench.analyses.support.residual_stream import residuals
from workbench.analyses.support.two_models import ModelOrName, config_of, loaded_model, pair_name, paired_pieces, reader
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Grid
from workbench.texts import Batch, TextsLike

MINIBATCH = 1024  # tokens compared with each other at a time
HELD = 2**31  # most bytes of hidden states in memory, of both models together; fewer if the budget is small


def representation_similarity(
    model: ModelOrName,
    tokens: TextsLike,
    other: ModelOrName | None = None,
    *,
    skip: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Grid:
    """Debiased linear CKA between the residual streams of every two layers.

    Returns a Grid of layers of `model` × layers of `other` (default: `model` itself), each `embed` and every layer.

    CKA = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)), where K and L are the Gram matrices of the hidden states of all tokens.
    It is 1 for states that are equal up to rotation and scale, and about 0 for unrelated states (slightly below is
    possible). HSIC is the unbiased estimate of Song et al. 2012 (Kornblith et al. 2019, "Similarity of neural network
    representations revisited").

    CKA is exact for up to `MINIBATCH` tokens. More tokens are shuffled and compared in minibatches, the same for both
    models, and each HSIC is the mean over minibatches (Nguyen et al. 2021, "Do wide and deep networks learn the same
    things?"). Each minibatch is a random sample of the tokens of all texts, so the expectation of that mean is the HSIC
    of all tokens. The remaining error of CKA comes from the random draw: about 0.001, at most 0.005, on 2,000 to 8,000
    tokens of the embedded series. If the hidden states of all tokens take more than `HELD` bytes, or more than half of
    the memory budget, a random sample of the tokens is used. `seed` decides every random choice.

    The standard errors are over texts, from the CKA without each of at most `GROUPS` groups of texts
    (`jackknife_errors`), all from the same minibatches; None for a single text. A bootstrap would contain copies of the
    same token, which the unbiased HSIC would count as different samples.

    `skip` leaves out the first tokens of each text, whose very large norms would dominate the result. The two models
    must share a tokenizer but may differ in width. They may be models, entries of a series or ids. Checkpoints that are
    not in memory are loaded one after the other. The value is undefined (NaN) for a layer with the same state at every
    token.

    Errors: WorkbenchError if fewer than 4 tokens are left to compare, or the vocabularies differ in size.
    """
    texts = texts_for(config_of(model), tokens)
    counted = texts.mask.cpu() & (torch.arange(texts.longest) >= skip)  # batch pos
    if not counted.any():
        raise WorkbenchError(
            f"after skipping {skip} tokens, texts of {texts.longest} tokens have none left; give longer texts"
        )
    subjects = [model] if other is None else [model, other]
    generator = torch.Generator().manual_seed(seed)
    drawn = _drawn(counted, subjects, generator)
    minibatches = _minibatches(int(drawn.sum()), generator)
    batches = texts.batches(_tokens(subjects, texts.longest, int(drawn.sum())))
    held = _hidden_states(model, other, batches, drawn, part(progress, 0.0, 0.8))
    of_texts = text_groups(len(texts), GROUPS)
    of_tokens, count = _groups_of_tokens(batches, drawn, of_texts), int(of_texts.max()) + 1
    both, first, second = torch.zeros(()), torch.zeros(()), torch.zeros(())  # 1+group layer layer, 1+group layer each
    for samples in steps(minibatches, part(progress, 0.8, 1.0), "similarity of representations"):
        grams = [_gram(each[:, samples]) for each in held]
        x, y = grams[0], grams[-1]
        found = [hsic_and_without(*two, of_tokens[samples], count) for two in ((x, y), (x, x), (y, y))]
        both, first, second = both + found[0], first + _own(found[1]), second + _own(found[2])
    similarity = (both / (first.sqrt()[:, :, None] * second.sqrt()[:, None])).cpu()
    return Grid(
        similarity[0],
        *(["embed", *range(size - 1)] for size in similarity.shape[1:]),
        row_name="layer" if other is None else "layer of A",
        column_name="layer" if other is None else "layer of B",
        title="Similarity of representations" + ("" if other is None else pair_name(model, other)),
        value_name="debiased linear CKA",
        value_when_equal=1.0,
        errors=jackknife_errors(similarity[0], similarity[1:], of_texts) if count > 1 else None,
        texts=len(texts),
    )


def hsic(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased HSIC of every Gram matrix of `x` with every Gram matrix of `y`: layer layer.

    `x` and `y` are layer sample sample, with a zero diagonal. For Gram matrices K and L of n samples, (tr KL + 1ᵀK1
    1ᵀL1 / ((n−1)(n−2)) − 2 · 1ᵀKL1 / (n−2)) / (n (n−3)); Song et al. 2012, "Feature selection via dependence
    maximization", equation 5.
    """
    return _unbiased(_trace(x, y), x.sum(-1), y.sum(-1))


def _unbiased(trace: Tensor, x_rows: Tensor, y_rows: Tensor) -> Tensor:
    """HSIC from tr KL, layer layer, and the sums of the rows of K and L, layer sample; NaN for fewer than 4 samples."""
    n = x_rows.shape[-1]
    if n < 4:
        return torch.full_like(trace, torch.nan)
    product = x_rows.sum(-1)[:, None] * y_rows.sum(-1) / ((n - 1) * (n - 2))
    return (trace + product - 2 * (x_rows @ y_rows.T) / (n - 2)) / (n * (n - 3))


def hsic_and_without(x: Tensor, y: Tensor, groups: Tensor, count: int) -> Tensor:
    """The `hsic` of all samples, then that without the samples of each group: 1+group layer layer.

    `x` and `y` are those of `hsic`; `groups` are the groups of the samples, numbers below `count`. With one group, the
    result is 1 layer layer. NaN where fewer than 4 samples are left. The sums over pairs of samples are computed once.
    The sum without a group is the sum of all pairs, minus twice the pairs of a sample of the group with any sample,
    plus the pairs within the group, which would otherwise be subtracted twice.
    """
    members = [groups == group for group in range(count)]
    traces = torch.stack([_trace(x[:, inside], y[:, inside]) for inside in members])
    x_rows, y_rows = x.sum(-1), y.sum(-1)  # layer sample
    found = [_unbiased(traces.sum(0), x_rows, y_rows)]
    for inside, trace in zip(members, traces, strict=True) if count > 1 else ():
        within = _trace(x[:, inside][:, :, inside], y[:, inside][:, :, inside])
        rows = (sums - each[:, :, inside].sum(-1) for each, sums in ((x, x_rows), (y, y_rows)))
        found.append(_unbiased(traces.sum(0) - 2 * trace + within, *(sums[:, ~inside] for sums in rows)))
    return torch.stack(found)


def _trace(x: Tensor, y: Tensor) -> Tensor:
    """The sum of the products of the entries of every matrix of `x` with those of every matrix of `y`: layer layer."""
    return x.flatten(1) @ y.flatten(1).T


def _own(values: Tensor) -> Tensor:
    """The HSIC of each layer with itself: 1+group layer."""
    return values.diagonal(dim1=1, dim2=2)


def _groups_of_tokens(batches: Sequence[Batch], drawn: Tensor, of_texts: Tensor) -> Tensor:
    """The group of the text of each drawn token, in the order of the hidden states: token."""
    places = (drawn[batch.rows, : batch.ids.shape[1]].nonzero()[:, 0] for batch in batches)
    return torch.cat([of_texts[batch.rows][rows] for batch, rows in zip(batches, places, strict=True)])


def _drawn(counted: Tensor, subjects: Sequence[ModelOrName], generator: torch.Generator) -> Tensor:
    """Mask of the tokens to compare, batch pos: all tokens that count, or a random sample that fits into `HELD` bytes
    of hidden states.
    """
    places = counted.flatten().nonzero()[:, 0]
    chosen = places[torch.randperm(len(places), generator=generator)[: _most_drawn(subjects)]]
    return torch.zeros(counted.numel(), dtype=torch.bool).index_fill(0, chosen, True).view_as(counted)


def _most_drawn(subjects: Sequence[ModelOrName]) -> int:
    """The most tokens whose hidden states are stored."""
    configs = [config_of(subject) for subject in subjects]
    size = sum(4 * config.hidden_size * (config.num_hidden_layers + 1) for config in configs)
    model = next((one for one in subjects if isinstance(one, OlmoForCausalLM)), configs[0])
    return max(MINIBATCH, min(HELD, budget(model) // 2) // size)


def _minibatches(tokens: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """The indices of all tokens, shuffled, in minibatches of about equal size and of at most `MINIBATCH` tokens."""
    if tokens < 4:
        raise WorkbenchError(f"{tokens} tokens are too few to compare; give at least 4")
    return torch.randperm(tokens, generator=generator).tensor_split(-(-tokens // MINIBATCH))


def _tokens(subjects: Sequence[ModelOrName], length: int, drawn: int) -> int:
    """The number of tokens to run at a time, given the memory for the stored hidden states and for one comparison."""
    return min(
        tokens_at_a_time(model, "similarity", per_token, length, fixed=fixed, at_most=MINIBATCH)
        for model, per_token, fixed in _bytes(subjects, drawn)
    )


def _bytes(subjects: Sequence[ModelOrName], drawn: int) -> list[tuple[Reader, float, float]]:
    """Each model, its bytes for each token of a batch, and the bytes of the stored hidden states and one comparison."""
    configs = [config_of(subject) for subject in subjects]
    streams = sum(4 * config.hidden_size * (config.num_hidden_layers + 1) for config in configs)
    layers, most = configs[0].num_hidden_layers + 1, min(drawn, MINIBATCH)
    compared = 8 * most * (2 * streams // 4 + 2 * len(configs) * layers * most)  # in float64
    fixed = drawn * streams + compared
    return [
        (reader(subject), run_bytes(reader(subject)) + 16 * config.hidden_size * (config.num_hidden_layers + 1), fixed)
        for subject, config in zip(subjects, configs, strict=True)
    ]


@work_of(representation_similarity)
def _work(model: ModelOrName, tokens: TextsLike, other: ModelOrName | None = None, **_: object) -> Work:
    texts, subjects = texts_for(config_of(model), tokens), [model] if other is None else [model, other]
    peaks = [
        peak_bytes(one, "similarity", per_token, texts.longest, texts.tokens, fixed=fixed, at_most=MINIBATCH)
        for one, per_token, fixed in _bytes(subjects, min(texts.tokens, _most_drawn(subjects)))
    ]
    return Work(sum(pass_flops(reader(one), texts.tokens) for one in subjects), nbytes=max(peaks))


def _hidden_states(
    model: ModelOrName, other: ModelOrName | None, batches: Sequence[Batch], drawn: Tensor, progress: Progress | None
) -> tuple[Tensor, ...]:
    """The residual streams of each model at the drawn tokens, in the order of the texts: layer token d_model."""
    tokens = int(drawn.sum())
    some = [drawn[batch.rows, : batch.ids.shape[1]] for batch in batches]

    def states(model: OlmoForCausalLM) -> Iterator[Tensor]:
        return (
            residuals(model, batch.ids.to(model.device))[:, where.to(model.device)]
            for batch, where in zip(batches, some, strict=True)
        )

    if other is not None:
        return _joined(paired_pieces(model, other, states, len(batches), progress), tokens)
    alone = loaded_model(model, part(progress, 0.0, 0.5))
    told = steps(batches, part(progress, 0.0 if alone is model else 0.5, 1.0), "running the texts")
    return _joined(((piece,) for _, piece in zip(told, states(alone), strict=True)), tokens)


def _joined(pieces: Iterable[tuple[Tensor, ...]], tokens: int) -> tuple[Tensor, ...]:
    """The pieces of each model joined into one tensor, layer token d_model, without a second copy of it in memory."""
    joined: tuple[Tensor, ...] = ()
    start = 0
    for each in pieces:
        joined = joined or tuple(piece.new_empty(len(piece), tokens, piece.shape[-1]) for piece in each)
        for whole, piece in zip(joined, each, strict=True):
            whole[:, start : start + piece.shape[1]] = piece
        start += each[0].shape[1]
    return joined


def _gram(states: Tensor) -> Tensor:
    """Dot products of every two samples' hidden states, with a zero diagonal: layer sample d_model -> layer sample
    sample.

    The states are centred first. HSIC does not depend on the origin, and centring reduces cancellation in its sums.
    """
    centred = states.double()
    centred = centred - centred.mean(dim=1, keepdim=True)
    gram = centred @ centred.mT
    gram.diagonal(dim1=1, dim2=2).zero_()
    return gram
