"""Attention statistics of every head of a model."""

import torch
from torch import Tensor

from hooks import Capture, OlmoForCausalLM
from hooks.attention import ROWS_AT_A_TIME, HeadStatistics
from hooks.products import fast_products
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.means import MeansOverTexts
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.analyses.support.undefined import refuse_undefined
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Grid, Measures
from workbench.texts import Texts, TextsLike

SPAN = 16  # length of the repeated span, in tokens
GAPS = (0, 16)  # fewest and most random tokens before the first copy, and between the two copies
UNITS = {"entropy": "nats", "distance": "tokens"}
VALUES = {
    "entropy": "entropy",
    "distance": "distance",
    "induction": "induction score",
    "induction_error": "standard error",
}
"""The value name of each measure. Measures that are not listed are attention weights."""

TITLES = {
    "entropy": "Entropy of attention",
    "previous": "Attention to the previous token",
    "first": "Attention to the first token",
    "self": "Attention to the token itself",
    "distance": "Mean distance looked back",
    "duplicate": "Attention to earlier copies of the token",
    "induction": "Attention to what followed the token's first copy",
    "induction_error": "Standard error of the induction score",
}


def head_atlas(
    model: OlmoForCausalLM, tokens: TextsLike, *, samples: int = 64, seed: int = 0, progress: Progress | None = None
) -> Measures:
    """What each head attends to in the given texts, and its induction score on random tokens: Grids of layer × head.

    Measures on `tokens`, means over all queries except the first of each text, with standard errors over texts. p is
    the attention weight of a query on a key; all weights are between 0 and 1:

    - `entropy`: −Σ p log p, in nats: 0 if all the weight is on one key, log(number of keys) if it is evenly spread.
    - `previous`, `first`, `self`: the weight on the previous token, on the first token of the text, on the token
      itself.
    - `distance`: Σ p (query − key), in tokens.
    - `duplicate`: the weight on earlier copies of the query's token, mean over the queries that have an earlier copy;
      undefined (NaN) if none has.

    Measures on `samples` rows of random tokens. In each row a span of 16 tokens occurs twice, and the gaps before and
    between the two copies are random, so a head cannot find the first copy by its position:

    - `induction`: the weight of the second copy of a token on the token after its first copy, mean over the rows, with
      the standard error over rows (Olsson et al. 2022, "In-context learning and induction heads").
    - `induction_error`: this standard error.

    `samples=0` leaves out the induction measures. `atlas.rank("induction")` lists the heads in the order of any
    measure. Memory: no head × query × key tensor is built.

    Errors: WorkbenchError for a text of one token, `samples` of 1 or less than 0, or a vocabulary of fewer than 48
    tokens.
    """
    texts = texts_for(model, tokens, at_least=2)
    measures = _text_statistics(model, texts, part(progress, 0.0, 0.5 if samples else 1.0))
    if samples:
        scores = induction_scores(model, samples, seed, part(progress, 0.5, 1.0))  # layer sample head
        error = scores.std(1) / samples**0.5
        measures |= {"induction": (scores.mean(1), error), "induction_error": (error, None)}
    layers, heads = measures["entropy"][0].shape
    return Measures(
        **{
            name: Grid(
                values,
                range(layers),
                range(heads),
                column_name="head",
                title=TITLES[name],
                value_name=VALUES.get(name, "attention"),
                unit=UNITS.get(name, ""),
                errors=errors,
                texts=None if name.startswith("induction") else len(texts),
            )
            for name, (values, errors) in measures.items()
        }
    )


def _text_statistics(
    model: OlmoForCausalLM, texts: Texts, progress: Progress | None
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """The mean of each statistic over the queries where it is defined, and its standard error: layer head each."""
    means = MeansOverTexts()
    for rows, ids in steps(texts.padded_batches(_tokens(model, texts.longest)), progress, "attention on the text"):
        statistics = HeadStatistics(tokens=ids)
        found = _head_statistics(model, ids, statistics)[..., 1:].double()  # layer stat batch head query
        entropy = found[:, statistics.names.index("entropy")].movedim(1, 0)  # batch layer head query
        there = texts.mask[rows, None, None, 1 : ids.shape[1]].to(found.device)
        refuse_undefined(entropy.where(there, 0), "attention", texts, rows)
        is_padding = ~texts.mask[rows, None, 1 : ids.shape[1]].to(found.device)  # batch 1 query
        found = found.masked_fill(is_padding, float("nan"))
        sums, counts = found.nansum(-1), found.isfinite().sum(-1)  # layer stat batch head
        means.add(sums.movedim(2, 0), counts.movedim(2, 0))
    values, errors = means.values, means.errors  # layer stat head
    return {name: (values[:, n], None if errors is None else errors[:, n]) for n, name in enumerate(statistics.names)}


def induction_scores(model: OlmoForCausalLM, samples: int, seed: int, progress: Progress | None = None) -> Tensor:
    """Each head's induction score on each of `samples` random rows: layer sample head."""
    if samples < 2:
        raise WorkbenchError(f"samples is {samples}; a standard error needs at least 2")
    rows, targets = repeated_spans(model.config.vocab_size, samples, seed)
    size = max(1, _tokens(model, rows.shape[1]) // rows.shape[1])
    scores = []
    for some, target in steps(list(zip(rows.split(size), targets.split(size), strict=True)), progress, "induction"):
        statistics = HeadStatistics(targets={"induction": target})
        found = _head_statistics(model, some.to(model.device), statistics)
        refuse_undefined(found[:, statistics.names.index("entropy")].movedim(1, 0), "attention", kind="random row")
        scores.append(found[:, statistics.names.index("induction")].nanmean(-1))  # layer batch head
    return torch.cat(scores, dim=1)


def repeated_spans(vocab_size: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of random tokens that contain a span of 16 tokens twice, and the induction target of each position.

    Returns rows and targets, both sample pos. A row holds 0 to 16 tokens, the span, 0 to 16 tokens, the span again, and
    further tokens up to a fixed length. Apart from the repeated span, all tokens of a row are different. The
    target is the position after the first copy of the query's token. It is −1 for tokens outside the second copy, and
    for the last token of the second copy.
    """
    shortest, longest = GAPS
    distinct = SPAN + 2 * longest
    if vocab_size < distinct:
        raise WorkbenchError(f"a vocabulary of {vocab_size} is too small to draw {distinct} different tokens")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(vocab_size, generator=generator)[:distinct] for _ in range(samples)])
    gaps = torch.randint(shortest, longest + 1, (samples, 2), generator=generator)
    targets = torch.full((samples, distinct + SPAN), -1)
    rows = torch.cat([rows, torch.empty(samples, SPAN, dtype=torch.long)], dim=1)
    for row, target, (before, between) in zip(rows, targets, gaps.tolist(), strict=True):
        first, second = before, before + SPAN + between
        rest = row[second:distinct].clone()
        row[second : second + SPAN] = row[first : first + SPAN]
        row[second + SPAN :] = rest
        target[second : second + SPAN - 1] = torch.arange(first + 1, first + SPAN)
    return rows, targets


def _tokens(model: OlmoForCausalLM, length: int) -> int:
    """The number of tokens to run at a time for texts of this length."""
    return tokens_at_a_time(model, "statistics of heads", _bytes(model, length), length)


def _bytes(model: OlmoForCausalLM, length: int) -> float:
    """Bytes for each token: a pass, the attention weights of one chunk of queries, and the statistics."""
    heads, statistics = model.config.num_attention_heads, 8
    chunk = 6 * heads * min(length, ROWS_AT_A_TIME) * 4  # weights of a chunk of query rows, for each key of each text
    kept = 3 * model.config.num_hidden_layers * heads * statistics * 8
    return run_bytes(model) + chunk + kept


@work_of(head_atlas)
def _work(model: OlmoForCausalLM, tokens: TextsLike, *, samples: int = 64, **_: object) -> Work:
    texts, row = texts_for(model.config, tokens, at_least=2), 2 * SPAN + 2 * GAPS[1]
    work = Work(0)
    for length, total in ((texts.longest, texts.tokens), *([(row, samples * row)] if samples else [])):
        peak = peak_bytes(model, "statistics of heads", _bytes(model, length), length, total)
        work += Work(pass_flops(model, total), nbytes=peak)
    return work


def _head_statistics(model: OlmoForCausalLM, batch: Tensor, statistics: HeadStatistics) -> Tensor:
    """All statistics of all layers, computed without storing the patterns: layer stat batch head query."""
    capture = Capture("blocks.*.attn.pattern", reduce=statistics)
    with fast_products():
        return model.run(batch, capture=capture, captures_only=True).stack("attn.pattern")
