"""Differences between the attention of two checkpoints, and the best matching of their heads."""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.means import MeansOverTexts, means_of
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.two_models import (
    ModelOrName,
    config_of,
    pair_name,
    paired_pieces,
    reader,
    shared_layers,
)
from workbench.analyses.support.undefined import refuse_undefined
from workbench.progress import Progress
from workbench.results import Grid, Measures
from workbench.texts import Texts, TextsLike


def compare_attention(
    a: ModelOrName, b: ModelOrName, tokens: TextsLike, *, progress: Progress | None = None
) -> Measures:
    """How different the attention of each head of A is from that of the same head of B.

    Returns Grids of layer × head, means over all queries of all texts, with standard errors over texts:

    - `js`: the Jensen–Shannon divergence of the two rows of attention weights (nats, 0 to log 2; Lin 1991).
    - `moved`: the share of the weight that lies on different keys (total variation, ½ Σ |a − b|, 0 to 1).

    The first query of each text is left out, because it can attend only to itself. A and B may be models, entries of a
    series or ids; checkpoints that are not in memory are loaded one after the other. Memory: the patterns of one layer
    of both models.

    Errors: WorkbenchError if the two differ in their number of layers or heads.
    """
    texts = texts_for(config_of(a), tokens, at_least=2)
    layers = shared_layers(a, b)
    means = {name: [MeansOverTexts() for _ in range(layers)] for name in ("js", "moved")}  # head each
    for rows, layer, one, other in _layers(a, b, texts, progress):  # batch head query key
        mean = (one + other) / 2
        entropy = torch.special.entr
        js = (entropy(mean) - (entropy(one) + entropy(other)) / 2).sum(-1).clamp_min(0)  # batch head query
        moved = (one - other).abs().sum(-1) / 2
        for name, values in (("js", js), ("moved", moved)):
            means[name][layer].add(values.sum(-1), texts.mask[rows, 1:].sum(1)[:, None])
    of = pair_name(a, b)
    return Measures(
        js=_grid(means["js"], f"Divergence of attention{of}", "JS(A, B)", "nats"),
        moved=_grid(means["moved"], f"Attention that lies elsewhere{of}", "share of weight", ""),
    )


def match_heads(a: ModelOrName, b: ModelOrName, tokens: TextsLike, *, progress: Progress | None = None) -> pd.DataFrame:
    """A table of the matching head of B for each head of A, layer by layer, by the similarity of their patterns.

    The similarity of two heads is the mean over queries of Σ √(a b), the Bhattacharyya coefficient: 1 for equal rows of
    weights, 0 for rows without a common key. The matching pairs each head of A with one head of B of the same layer so
    that the total similarity is greatest (Kuhn 1955, "The Hungarian method for the assignment problem").

    The table has one row for each head of A: `layer`, `head_a`, `head_b`, `similarity`, and `same_index`, the
    similarity to the head of B with the same number.

    Errors: WorkbenchError as in `compare_attention`.
    """
    texts = texts_for(config_of(a), tokens, at_least=2)
    alike = [torch.zeros(())] * shared_layers(a, b)  # head head each
    for _, layer, one, other in _layers(a, b, texts, progress):
        roots = (x.sqrt().transpose(0, 1).flatten(1) for x in (one, other))  # head (batch query key)
        alike[layer] = alike[layer] + next(roots) @ next(roots).T
    rows = []
    for layer, total in enumerate(alike):
        mean = total / (texts.tokens - len(texts))
        for head_a, head_b in zip(*linear_sum_assignment(mean, maximize=True), strict=True):
            rows.append((layer, int(head_a), int(head_b), mean[head_a, head_b].item(), mean[head_a, head_a].item()))
    return pd.DataFrame(rows, columns=["layer", "head_a", "head_b", "similarity", "same_index"])


def _layers(
    a: ModelOrName, b: ModelOrName, texts: Texts, progress: Progress | None
) -> Iterator[tuple[list[int], int, Tensor, Tensor]]:
    """For each batch of texts and each layer: the texts of the batch, the layer's number and its patterns in A and in
    B, batch head query key, without the first query; 0 at queries of padding.
    """
    batches, layers = texts.padded_batches(_tokens(a, b, texts.longest)), range(shared_layers(a, b))

    def patterns(model: OlmoForCausalLM) -> Iterator[Tensor]:
        for rows, ids in batches:
            resid, there = None, texts.mask[rows, 1 : ids.shape[1]]  # batch query
            for layer in layers:
                run = model.run(
                    ids.to(model.device) if resid is None else None,
                    start_at_layer=layer,
                    resid=resid,
                    stop_at_layer=layer + 1,
                    capture=f"blocks.{layer}.attn.pattern",
                    logits_to_keep=1,
                )
                resid = run.resid
                pattern = run[f"blocks.{layer}.attn.pattern"][:, :, 1:]
                yield pattern if there.all() else pattern.where(there[:, None, :, None].to(pattern.device), 0)

    pieces = paired_pieces(a, b, patterns, len(batches) * len(layers), progress)
    places = ((batch.rows, layer) for batch in batches for layer in layers)
    for (rows, layer), pair in zip(places, pieces, strict=True):
        for patterns_of, name in zip(pair, "AB", strict=True):
            refuse_undefined(patterns_of.sum(-1), f"attention of layer {layer} in {name}", texts, rows)
        yield rows, layer, *pair


def _tokens(a: ModelOrName, b: ModelOrName, length: int) -> int:
    """The number of tokens to run at a time, given the memory for one layer's patterns in both models."""
    return min(tokens_at_a_time(reader(one), "patterns", _bytes(one, length), length) for one in (a, b))


def _bytes(one: ModelOrName, length: int) -> float:
    """Bytes for each token of a batch: a pass, and the patterns of one layer of both models with their measures."""
    return run_bytes(reader(one)) + 12 * 4 * config_of(one).num_attention_heads * length


@work_of(compare_attention)
@work_of(match_heads)
def _work(a: ModelOrName, b: ModelOrName, tokens: TextsLike, **_: object) -> Work:
    texts = texts_for(config_of(a), tokens, at_least=2)
    size = min(texts.tokens, _tokens(a, b, texts.longest))
    flops = sum(pass_flops(config_of(one), texts.tokens) for one in (a, b))
    return Work(flops, nbytes=max(_bytes(one, texts.longest) for one in (a, b)) * size)


def _grid(means: Sequence[MeansOverTexts], title: str, value_name: str, unit: str) -> Grid:
    values, errors = means_of(means)  # layer head
    return Grid(
        values,
        range(values.shape[0]),
        range(values.shape[1]),
        column_name="head",
        title=title,
        value_name=value_name,
        unit=unit,
        errors=errors,
        texts=means[0].texts,
    )
