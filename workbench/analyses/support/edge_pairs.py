"""Pairs of prompts with the outputs of all nodes, and the outputs that replace them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.products import fast_products
from workbench.analyses.support.cost import pass_flops
from workbench.analyses.support.edge_graph import (
    DIVISORS,
    Graph,
    outputs,
    results_flops,
    with_divisors_of,
    written_sites,
)
from workbench.analyses.support.edge_runs import run_edges, unembedded
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.prompt_pairs import (
    Contrast,
    Ends,
    Pairs,
    ends_of,
    last_logits_bytes,
    log_probabilities,
    measured,
)
from workbench.errors import WorkbenchError

REPLACEMENTS = ("counterfactual", "mean", "zero")


@dataclass(frozen=True, eq=False)
class Sides:
    """A batch of pairs with the outputs of all nodes.

    Attributes:
        graph: the nodes and edges.
        pairs: the token ids.
        outs: outputs of the sources in the clean runs, float32: source text pos d_model.
        replaced: the outputs that replace them, in the same shape.
        held: the same with the divisors of the clean runs in the norms after attention and MLPs (OLMo 2 and 3); None
            where no norm follows, or where the replacements come from no run.
        log_clean: log-probabilities after the clean prompts, text vocab.
        ends: the measures with all edges kept and with all edges replaced.
    """

    graph: Graph
    pairs: Pairs
    outs: Tensor
    replaced: Tensor
    held: Tensor | None
    log_clean: Tensor
    ends: Ends


SidesOf = Callable[[Pairs], Sides]


@dataclass(frozen=True, eq=False)
class Study:
    """What edges are measured on.

    Attributes:
        model: the model.
        pair: the pairs of prompts.
        measure: the name of the measure.
        sides: the function that returns the `Sides` of a batch.
        batches: the pairs in batches.
        tokens: the most tokens of circuits to run at a time.
    """

    model: OlmoForCausalLM
    pair: Contrast
    measure: str
    sides: SidesOf
    batches: Sequence[Pairs]
    tokens: int

    def __len__(self) -> int:
        return len(self.pair.clean)


def sides_of(model: OlmoForCausalLM, pair: Contrast, replacement: str, graph: Graph | None = None) -> SidesOf:
    """A function that returns the `Sides` of a batch of pairs. `graph` is that of the model without neurons if None.

    With `replacement="mean"`, the means over all tokens of the clean prompts are computed now.

    Errors: WorkbenchError for an unknown replacement, and for a model with edits (`tapped`).
    """
    if replacement not in REPLACEMENTS:
        raise WorkbenchError(f"replacement={replacement!r}; choices: {', '.join(REPLACEMENTS)}")
    if model.tapped_edits:
        raise WorkbenchError("a circuit cannot be computed for a model with edits; remove the edits (`tapped`) first")
    graph, norm_first = graph or Graph.of(model), model.model.blocks[0].norm_first
    means = _mean_outputs(model, graph, pair) if replacement == "mean" else None
    held_too = replacement == "counterfactual" and not norm_first
    capture = list(dict.fromkeys([*written_sites(graph), *(DIVISORS if held_too else [])]))

    @fast_products()
    def sides(pairs: Pairs) -> Sides:
        run, held = model.run(pairs.clean, capture=capture, logits_to_keep=1), None
        outs = outputs(model, graph, run)
        if replacement == "counterfactual":
            other = model.run(pairs.corrupted, capture=capture, captures_only=True)
            replaced = outputs(model, graph, other)
            held = with_divisors_of(graph, replaced, other, run) if held_too else None
        else:
            replaced = torch.zeros_like(outs) if means is None else means.expand_as(outs)
        without = unembedded(model, replaced[:, :, -1:].sum(0))
        ends = ends_of(pair, pairs, run.logits, without)
        return Sides(graph, pairs, outs, replaced, held, log_probabilities(run.logits), ends)

    return sides


@fast_products()
def _mean_outputs(model: OlmoForCausalLM, graph: Graph, pair: Contrast) -> Tensor:
    """The mean output of each source over all tokens of the clean prompts, float32: source 1 1 d_model."""
    size = tokens_at_a_time(model, "means of nodes", sides_bytes(model, pair, graph), pair.clean.longest)
    sites = written_sites(graph)
    runs = (model.run(pairs.clean, capture=sites, captures_only=True) for pairs in pair.batches(size))
    sums = [outputs(model, graph, run).sum((1, 2), keepdim=True, dtype=torch.float64) for run in runs]
    return (torch.stack(sums).sum(0) / pair.clean.tokens).float()


def sides_bytes(model: OlmoForCausalLM, pair: Contrast, graph: Graph) -> float:
    """Bytes for each token of a batch that is made into `Sides`: two runs, and four copies of the outputs."""
    outs = 4 * model.config.hidden_size * graph.before_heads(graph.layers)
    lasts = last_logits_bytes(model) / min(pair.clean.lengths)
    return run_bytes(model, capture=2 * [*written_sites(graph), *DIVISORS]) + 5 * outs + 2 * lasts


def sides_flops(model: OlmoForCausalLM, pair: Contrast, replacement: str) -> float:
    """Operations of the `Sides` of all pairs, once."""
    tokens, texts, runs = pair.clean.tokens, len(pair.clean), 1 + (replacement != "zero")
    return pass_flops(model, runs * tokens, logits=2 * texts) + runs * tokens * results_flops(model)


def measure_of(pair: Contrast, wanted: str | None) -> str:
    """The name of a measure: the one asked for, or the first. Errors: WorkbenchError for an unknown one."""
    if wanted is not None and wanted not in pair.measures:
        raise WorkbenchError(f"measure={wanted!r}; choices: {', '.join(pair.measures)}")
    return wanted or pair.measures[-1 if pair.metric else 0]


def measured_cells(study: Study, sides: Sides, kept: Iterable[Tensor]) -> Iterator[Tensor]:
    """The measure of circuits, in groups of at most `study.tokens` tokens: cell text.

    Args:
        kept: for each circuit whether it has each edge, boolean: edge.
    """
    mask, cells = sides.graph.mask(), iter(kept)
    while some := list(islice(cells, max(1, study.tokens // sides.pairs.clean.numel()))):
        masks = torch.zeros(len(some), *mask.shape, dtype=torch.bool)
        masks[:, mask] = torch.stack(some)
        logits = run_edges(study.model, masks, sides.outs[0], sides.replaced, sides.graph)
        yield measured(study.pair, sides.pairs, sides.log_clean, logits)[study.measure].cpu()
