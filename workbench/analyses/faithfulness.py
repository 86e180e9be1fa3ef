"""The test of a circuit: how much of an effect its edges keep alone, compared with random circuits of the same size."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.circuit import Circuit
from workbench.analyses.support.cost import Work, work_of
from workbench.analyses.support.edge_choices import EdgeChoice, distinct_circuits, first_edges, reading_norms
from workbench.analyses.support.edge_graph import Graph, neurons_in
from workbench.analyses.support.edge_pairs import (
    Sides,
    Study,
    measure_of,
    measured_cells,
    sides_bytes,
    sides_flops,
    sides_of,
)
from workbench.analyses.support.edge_runs import cell_bytes, cell_flops
from workbench.analyses.support.means import MeansOverTexts
from workbench.analyses.support.prompt_pairs import (
    Contrast,
    Ends,
    LogitsMetric,
    NormalisedMeans,
    TokenLike,
    batches_in_memory,
    contrast,
    last_logits_bytes,
    outlined,
    scale_between,
)
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, report
from workbench.results import Curves, Values, check_shape, frozen_array
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer

BEST, WITHOUT, RANDOM, MAGNITUDE, NODES = "best edges", "without them", "random edges", "magnitude", "nodes"
LINES = (BEST, WITHOUT, RANDOM, MAGNITUDE, NODES)
SIZES = 16  # how many numbers of edges there are by default
SOME = 0.5  # share of the circuits that are run; the others have the same connected edges as one of these


@dataclass(frozen=True, eq=False, repr=False)
class Faithfulness(Curves):
    """The share of the effect that circuits of each size keep, as `faithfulness` computes it.

    `values` has the lines "best edges", "without them" (all other edges), "random edges" (mean over draws), "magnitude"
    and "nodes"; x is the number of edges.

    Attributes:
        deviation: the standard deviation over the draws of random circuits, for each number of edges.
        connected: how many of the best edges lie on a path of best edges from the embedding to the logits (with "mean"
            and "zero" as replacement: on a path to the logits); the others change nothing. None in files of older
            versions.
    """

    deviation: Values = field(kw_only=True)  # x
    connected: Values | None = field(default=None, kw_only=True)  # x

    def __post_init__(self) -> None:
        super().__post_init__()
        deviation = frozen_array(self.deviation)
        check_shape(deviation, (len(self.x),), f"{len(self.x)} numbers of edges", what="deviations")
        self._keep(deviation=deviation)
        if self.connected is not None:
            self._keep(connected=frozen_array(self.connected))
            check_shape(self.connected, (len(self.x),), f"{len(self.x)} numbers of edges", what="connected edges")

    @property
    def areas(self) -> dict[str, float]:
        """The area under each line over the share of edges from 0 to 1, by the trapezoid rule.

        It is 1 for a line that is 1 from the first edge on. The area under "without them" is small for a complete
        circuit.
        """
        return {
            line: float(np.trapezoid(values, self.x / self.x[-1]))
            for line, values in zip(self.lines, self.values, strict=True)
        }

    def said(self, share: float = 0.9) -> str:
        """The smallest circuit of the best edges that keeps `share` of the effect, in one sentence.

        "0.92 of the effect with 31 of 2,106 edges; random circuits of this size 0.02 ± 0.04, …"
        """
        enough = np.flatnonzero(self.values[0] >= share)
        place = int(enough[0]) if len(enough) else len(self.x) - 1
        rounded = self.values[:, place].astype(float).round(2) + 0.0  # no −0.00
        values = dict(zip(self.lines, rounded.tolist(), strict=True))
        return (
            f"{values[BEST]:.2f} of the effect with {self.x[place]:,.0f} of {self.x[-1]:,.0f} edges, and "
            f"{values[WITHOUT]:.2f} without these; random circuits of this size {values[RANDOM]:.2f} ± "
            f"{self.deviation[place]:.2f}, edges by magnitude {values[MAGNITUDE]:.2f}, whole nodes {values[NODES]:.2f}"
        )


def faithfulness(
    model: OlmoForCausalLM,
    circuit: Circuit,
    clean: TextsLike,
    corrupted: TextsLike,
    token: TokenLike | None = None,
    against: TokenLike | None = None,
    *,
    metric: LogitsMetric | None = None,
    sizes: Sequence[int] | None = None,
    draws: int = 5,
    seed: int = 0,
    position: int = -1,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Faithfulness:
    """A curve that tests a circuit: the share of the effect that its best n edges keep when all others are replaced.

        faithfulness(n) = (measure with n edges − measure with none) / (measure with all − measure with none)

    1 with all edges and 0 with none. It is above 1 where the absent edges work against the answer, and below 0 where
    the kept edges do. An absent edge carries the replacement that `circuit` was computed with. Each run is exact: every
    node is computed from its kept and replaced inputs, norms included (see `run_edges`). Numbers are means over the
    pairs, with standard errors over pairs (Wang et al. 2022, arXiv 2211.00593; Hanna et al. 2024, arXiv 2403.17806).

    The curve of the best edges need not rise with n: each edge is ranked by its own score, but edges act together, so
    one more edge can lower the share that a set of edges keeps. In tiny-olmo, on repeat-pairs, 60 edges keep 0.97 of
    the effect, 100 keep 0.94 and 374 keep 0.90. Edges with negative scores are not the only reason: if the edges with
    positive scores are taken first, 95 keep 0.96 and 120 keep 0.94 (and on number-pairs 400 keep 1.19).

    The lines, for each number n of edges:

    - "best edges": the n edges with the largest absolute scores;
    - "without them": all edges except these n, which shows what the circuit leaves out;
    - "random edges": n random edges, mean over `draws` draws; `deviation` of the result is the standard deviation over
      draws;
    - "magnitude": the n edges with the largest ‖clean − replaced output of the source‖ · ‖weights of the target‖,
      a choice without gradients;
    - "nodes": all edges between the best nodes, with the largest number of nodes that have at most n edges among them.
      The score of a node is the sum of the scores of its outgoing edges, which is the attribution of its output.

    n counts all edges, whether or not they lie on a path of kept edges from the embedding to the logits. `connected` of
    the result counts only those that do. Circuits with the same connected edges are run once.

    Args:
        model: the model.
        circuit: the scores of all edges of this model.
        clean, corrupted, token, against, metric, position, tokenizer: as in `circuit`. Give other pairs than those of
            the circuit to test it on new prompts.
        sizes: numbers of edges; 0 and all edges are always added. By default 16 numbers, evenly spaced on a logarithmic
            scale.
        draws: the number of random circuits of each size, at least 2.
        seed: decides the random circuits.
        progress: called with the fraction that is done.

    Errors: WorkbenchError as in `circuit`, for a circuit without all edges of this model (a `top`), sizes that the
    model does not have, and fewer than two draws.
    """
    graph = _graph_of(model, circuit)
    pair = contrast(model, clean, corrupted, token, against, position, tokenizer, metric)
    measure, sides = measure_of(pair, circuit.measure), sides_of(model, pair, circuit.replacement, graph)
    numbers = _circuit_sizes(graph, sizes, draws)
    batches, size = batches_in_memory(model, pair, "circuits", *_bytes(model, pair, graph))
    study = Study(model, pair, measure, sides, batches, size)
    ends, changed = _ends(study, part(progress, 0.0, 0.1))
    scale_between(pair, ends, one="clean", dtype=model.dtype)
    choice = EdgeChoice.of(graph, circuit.values, changed[:, None] * reading_norms(model, graph)[None], draws, seed)
    cells, places = distinct_circuits(model, graph, choice.cells(numbers), circuit.replacement)
    means, deviation = _mean_lines(study, cells, np.reshape(places, (len(numbers), -1)), part(progress, 0.1, 1.0))
    return Faithfulness(
        means.values,
        LINES,
        numbers,
        errors=means.errors,
        texts=len(study),
        x_name="edges",
        deviation=deviation,
        connected=torch.stack([cells[place].sum() for place in places[:: len(LINES) - 1 + draws]]),
        title=f"How much of the effect on {pair.name} a circuit keeps",
        value_name="share of the effect",
        provenance={"measure": measure, "replacement": circuit.replacement, "draws": draws, "seed": seed},
    )


def _graph_of(model: OlmoForCausalLM, circuit: Circuit) -> Graph:
    """The graph of a circuit. Errors: WorkbenchError for a circuit without all edges of the model."""
    graph = Graph.of(model, neurons_in(circuit.names))
    if circuit.names != tuple(graph.edges()):
        raise WorkbenchError(
            f"the circuit has {len(circuit.names):,} edges and they are not the {len(graph.edges()):,} edges of this "
            "model; give a circuit as `circuit` returns it"
        )
    return graph


def _mean_lines(
    study: Study, cells: Sequence[Tensor], places: np.ndarray, progress: Progress | None
) -> tuple[MeansOverTexts, Tensor]:
    """(the lines, as means over the pairs; the deviation over the random circuits of each number of edges).

    Args:
        cells: the circuits to run.
        places: which of them belongs to each number of edges and line, where each draw is a line: number line.
    """
    draws, measure = places.shape[1] - len(LINES) + 1, study.measure
    means, *alone = (NormalisedMeans([measure], one="clean") for _ in range(1 + draws))
    for number, pairs in enumerate(study.batches):
        both, share = study.sides(pairs), 1 / len(study.batches)
        values = _values(study, both, cells, part(progress, number * share, (number + 1) * share))
        lines = values[torch.as_tensor(places.T)]  # line number text
        first, random, last = lines.split([2, draws, 2])
        means.add({measure: torch.cat([first, random.mean(0, keepdim=True), last])}, both.ends)
        for one, line in zip(alone, random, strict=True):
            one.add({measure: line}, both.ends)
    return means.means[measure], torch.stack([one.means[measure].values for one in alone]).std(0)


def _values(study: Study, both: Sides, cells: Sequence[Tensor], progress: Progress | None) -> Tensor:
    """The measure of each circuit on a batch of pairs: cell text."""
    found, done = [], 0
    for values in measured_cells(study, both, cells):
        found.append(values)
        done += len(values)
        report(progress, done / len(cells), "running circuits")
    return torch.cat(found)


def circuit_effect(
    model: OlmoForCausalLM,
    kept: Sequence[str],
    clean: TextsLike,
    corrupted: TextsLike,
    token: TokenLike,
    against: TokenLike | None = None,
    *,
    replacement: str = "counterfactual",
    draws: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """The effects of sets of edges on the logit (or logit difference): its value with these edges minus that with none.

    Returns the effects of all edges, of the `kept` edges, of all other edges, and of as many random edges (the mean
    over `draws` draws, and the highest), by name. Unlike the shares of `faithfulness`, they are also defined for a
    model whose answers to the two prompts are equal.

    Errors: WorkbenchError for an edge that the model does not have, and as in `faithfulness`.
    """
    pair, graph = contrast(model, clean, corrupted, token, against, -1, None), Graph.of(model, neurons_in(kept))
    if draws < 1:
        raise WorkbenchError(f"draws is {draws}; give 1 or more")
    every, generator = int(graph.mask().sum()), np.random.default_rng(seed)
    best = first_edges(np.array(graph.places(kept), dtype=int), len(kept), every)
    random = [first_edges(generator.permutation(every), len(kept), every) for _ in range(draws)]
    sides, measure = sides_of(model, pair, replacement, graph), measure_of(pair, None)
    study = Study(model, pair, measure, sides, *batches_in_memory(model, pair, "circuits", *_bytes(model, pair, graph)))
    total = torch.zeros(3 + draws, dtype=torch.float64)
    for pairs in study.batches:
        both = sides(pairs)
        values = torch.cat(list(measured_cells(study, both, [torch.ones_like(best), best, ~best, *random])))
        total += (values - both.ends.corrupted[measure].cpu()).sum(1)
    whole, own, others, *drawn = (total / len(study)).tolist()
    found = {"all edges": whole, "the circuit": own, "all other edges": others}
    return found | {"random edges": float(np.mean(drawn)), "highest of random edges": max(drawn)}


def _circuit_sizes(graph: Graph, sizes: Sequence[int] | None, draws: int) -> list[int]:
    """The numbers of edges, in ascending order, with 0 and all."""
    if draws < 2:
        raise WorkbenchError(f"draws is {draws}; the spread of random circuits needs at least 2")
    every = int(graph.mask().sum())
    found = np.geomspace(1, every, SIZES).round().astype(int).tolist() if sizes is None else [int(n) for n in sizes]
    outside = [n for n in found if not 0 <= n <= every]
    if outside:
        raise WorkbenchError(f"no circuits of {', '.join(map(str, outside[:5]))} edges; this model has 0 to {every:,}")
    return sorted({0, *found, every})


def _ends(study: Study, progress: Progress | None) -> tuple[list[Ends], Tensor]:
    """The ends of all batches, and the norm over all tokens of the change of each source: source."""
    ends, squares = [], torch.zeros(1)
    for number, pairs in enumerate(study.batches):
        report(progress, number / len(study.batches), "running circuits")
        both = study.sides(pairs)
        ends.append(both.ends)
        squares = squares + (both.outs - both.replaced).square().sum((1, 2, 3)).cpu()
    return ends, squares.sqrt()


def _bytes(model: OlmoForCausalLM, pair: Contrast, graph: Graph) -> tuple[float, float]:
    """Returns two numbers of bytes: for each token of a batch, and for each token of a cell."""
    lasts = last_logits_bytes(model) / min(pair.clean.lengths)
    return sides_bytes(model, pair, graph), cell_bytes(model, graph) + lasts


@work_of(faithfulness)
def _work(
    model: OlmoForCausalLM,
    circuit: Circuit,
    clean: TextsLike,
    corrupted: TextsLike,
    *_: object,
    sizes: Sequence[int] | None = None,
    draws: int = 5,
    position: int = -1,
    **__: object,
) -> Work:
    pair, cells = outlined(model, clean, corrupted, position), len(LINES) - 1 + draws
    graph = Graph.of(model, neurons_in(circuit.names))
    cells = 2 + cells * (len(_circuit_sizes(graph, sizes, draws)) - 2)  # none and all edges are run once
    again = Work(sides_flops(model, pair, circuit.replacement))
    whole = _work_of_cells(model, pair, circuit.replacement, cells, graph) + again
    return replace(whole, flops=SOME * whole.flops)


@work_of(circuit_effect)
def _work_of_effect(
    model: OlmoForCausalLM,
    kept: Sequence[str],
    clean: TextsLike,
    corrupted: TextsLike,
    *_: object,
    replacement: str = "counterfactual",
    draws: int = 5,
    **__: object,
) -> Work:
    graph = Graph.of(model, neurons_in(kept))
    return _work_of_cells(model, outlined(model, clean, corrupted, -1), replacement, 3 + draws, graph)


def _work_of_cells(model: OlmoForCausalLM, pair: Contrast, replacement: str, cells: int, graph: Graph) -> Work:
    """The work of the `Sides` of all pairs and of so many circuits."""
    kept, of_cell = _bytes(model, pair, graph)
    batches, size = batches_in_memory(model, pair, "circuits", kept, of_cell)
    batch = max(pairs.clean.numel() for pairs in batches)
    return Work(
        sides_flops(model, pair, replacement) + cells * cell_flops(model, graph, pair.clean.tokens, len(pair.clean)),
        nbytes=kept * batch + of_cell * min(size, cells * batch),
    )
