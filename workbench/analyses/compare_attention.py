"""Where two checkpoints' heads look differently, and which head of one is most like which of the other."""

from collections.abc import Iterator

import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.common import as_batch
from workbench.analyses.pairs import Subject, pair_name, shared_layers, side_by_side
from workbench.progress import Progress
from workbench.results import Grid, Measures


def compare_attention(a: Subject, b: Subject, tokens: Tensor, *, progress: Progress | None = None) -> Measures:
    """How differently each head of A and the same head of B look over a text. Grids layer × head, means over queries:

    `js`, the Jensen–Shannon divergence of the two rows of weights (nats, at most log 2; Lin 1991); `moved`, the share
    of the weight that lies elsewhere (total variation, ½ Σ |a − b|, 0 to 1). A text's first query, which can only
    look at itself, is left out. One layer's patterns are in memory at a time, of both; A and B may be models, entries
    of a series or ids, and those that are not models are loaded one after the other.
    Errors: WorkbenchError if the two differ in their number of layers or heads.
    """
    batch = as_batch(tokens, at_least=2)
    js, moved = [], []
    for one, other in _layers(a, b, batch, progress):  # batch head query key
        mean = (one + other) / 2
        entropy = torch.special.entr
        js.append((entropy(mean) - (entropy(one) + entropy(other)) / 2).sum(-1).clamp_min(0).mean((0, 2)))
        moved.append((one - other).abs().sum(-1).mean((0, 2)) / 2)
    of = pair_name(a, b)
    return Measures(
        js=_grid(js, f"Divergence of attention{of}", "JS(A, B)", "nats"),
        moved=_grid(moved, f"Attention that lies elsewhere{of}", "share of weight", ""),
    )


def match_heads(a: Subject, b: Subject, tokens: Tensor, *, progress: Progress | None = None) -> pd.DataFrame:
    """For each layer, the pairing of A's heads with B's that makes their patterns most alike.

    Alike is the mean over queries of Σ √(a b), the Bhattacharyya coefficient: 1 for equal rows, 0 for rows that share
    no key; the pairing is the assignment of greatest sum (Kuhn 1955). A row a head of A: `layer`, `head_a`, `head_b`,
    `similarity`, and `same_index`, the similarity to the head of B with the same number.
    Errors: as `compare_attention`.
    """
    batch = as_batch(tokens, at_least=2)
    rows = []
    for layer, (one, other) in enumerate(_layers(a, b, batch, progress)):
        texts, _, queries, _ = one.shape
        one, other = (x.sqrt().transpose(0, 1).flatten(1) for x in (one, other))  # head (batch query key)
        alike = one @ other.T / (texts * queries)  # head head
        for head_a, head_b in zip(*linear_sum_assignment(alike, maximize=True), strict=True):
            similarity, same = alike[head_a, head_b].item(), alike[head_a, head_a].item()
            rows.append((layer, int(head_a), int(head_b), similarity, same))
    return pd.DataFrame(rows, columns=["layer", "head_a", "head_b", "similarity", "same_index"])


def _layers(a: Subject, b: Subject, batch: Tensor, progress: Progress | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Both patterns of each layer but for the first query: batch head query key."""
    layers = range(shared_layers(a, b))

    def patterns(model: OlmoForCausalLM) -> Iterator[Tensor]:
        resid = None
        for layer in layers:
            run = model.run(
                batch.to(model.device) if resid is None else None,
                start_at_layer=layer,
                resid=resid,
                stop_at_layer=layer + 1,
                capture=f"blocks.{layer}.attn.pattern",
                logits_to_keep=1,
            )
            resid = run.resid
            yield run[f"blocks.{layer}.attn.pattern"][:, :, 1:]

    return side_by_side(a, b, patterns, len(layers), progress)


def _grid(layers: list[Tensor], title: str, value_name: str, unit: str) -> Grid:
    values = torch.stack(layers)  # layer head
    return Grid(
        values,
        range(values.shape[0]),
        range(values.shape[1]),
        column_name="head",
        title=title,
        value_name=value_name,
        unit=unit,
    )
