"""Which edges a circuit of each size keeps: the best ones, by several scores, or random ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.edge_graph import LOGITS, Graph, node_and_input

Order = np.ndarray
"""The numbers of all edges, the first to keep first."""


def strongest(values: np.ndarray) -> np.ndarray:
    """The indices of numbers in descending order of their absolute values."""
    return np.argsort(-np.abs(values), kind="stable")


@dataclass(frozen=True, eq=False)
class EdgeChoice:
    """Which edges each line keeps.

    Attributes:
        best, magnitude: all edges, the first to keep first.
        random: the same for each draw.
        joins: for each edge the number of nodes, the best first, that must be kept for it to be kept.
    """

    best: Order
    magnitude: Order
    random: list[Order]
    joins: np.ndarray

    @classmethod
    def of(cls, graph: Graph, scores: np.ndarray, magnitude: Tensor, draws: int, seed: int) -> "EdgeChoice":
        """The choices for the scores of all edges of a graph.

        Args:
            graph: the graph.
            scores: of its edges, in the order of `Graph.edges`.
            magnitude: other scores: source target.
            draws: the number of random orders.
            seed: decides the draws.
        """
        generator = np.random.default_rng(seed)
        return cls(
            strongest(scores),
            strongest(magnitude.T[graph.mask()].numpy()),
            [generator.permutation(len(scores)) for _ in range(draws)],
            _joins(graph, scores),
        )

    def cells(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """Whether each circuit has each edge: for each number the best, the others, each draw, magnitude, nodes."""
        for n in numbers:
            best, *random, magnitude = (
                first_edges(order, n, len(self.best)) for order in (self.best, *self.random, self.magnitude)
            )
            yield from (best, ~best, *random, magnitude)
            yield torch.as_tensor(self.joins <= _nodes_within(self.joins, n))


def first_edges(order: Order, n: int, every: int) -> Tensor:
    """The first n edges of an order, of all edges: edge, boolean."""
    kept = torch.zeros(every, dtype=torch.bool)
    kept[torch.as_tensor(order[:n].copy())] = True
    return kept


def _joins(graph: Graph, values: np.ndarray) -> np.ndarray:
    """For each edge the rank, from 1, of the later of its two nodes in the order of the nodes' scores.

    The score of a node is the sum of its outgoing edges' scores. The logits always belong to the circuit.
    """
    (target, source), names = graph.mask().numpy().nonzero(), graph.sources
    scores = np.bincount(source, weights=values, minlength=len(names))
    ranked = np.argsort(-np.abs(scores), kind="stable").tolist()
    rank = {names[one]: place + 1 for place, one in enumerate(ranked)} | {LOGITS: 0}
    of_source = np.array([rank[name] for name in names])
    of_target = np.array([_rank_of_target(rank, name) for name in graph.targets])
    return np.maximum(of_source[source], of_target[target])


def _rank_of_target(rank: dict[str, int], target: str) -> int:
    """The rank of the node that an input belongs to; of heads that share keys and values, the first to be kept."""
    node, _ = node_and_input(target)
    layer, *heads = node.split("H")
    return min(rank[f"{layer}H{head}"] for head in heads) if heads else rank[node]


def _nodes_within(joins: np.ndarray, n: int) -> int:
    """The largest number of nodes with at most n edges among them."""
    counts = np.bincount(joins).cumsum()  # edges of the first 0, 1, 2, … nodes
    return int(np.flatnonzero(counts <= n)[-1])


def distinct_circuits(
    model: OlmoForCausalLM, graph: Graph, cells: Iterator[Tensor], replacement: str
) -> tuple[list[Tensor], list[int]]:
    """The connected edges of circuits without repetitions, and the place of each circuit among them.

    A node whose inputs are all replaced by those of the corrupted prompt has the output that replaces it.
    """
    joined = not model.model.blocks[0].norm_first
    found: dict[bytes, int] = {}
    distinct: list[Tensor] = []
    places: list[int] = []
    for cell in cells:
        connected = graph.connected(cell[None], joined=joined, from_embedding=replacement == "counterfactual")[0]
        place = found.setdefault(np.packbits(connected.numpy()).tobytes(), len(distinct))
        distinct += [connected] if place == len(distinct) else []
        places.append(place)
    return distinct, places


def reading_norms(model: OlmoForCausalLM, graph: Graph) -> Tensor:
    """The Frobenius norm of the weights that each target reads with: target."""
    found = []
    for layer, some in enumerate(graph.neurons):
        found += [weight[layer].float().norm(dim=(1, 2)).cpu() for weight in (model.W_Q, model.W_K, model.W_V)]
        gate, linear = (weight[layer][:, list(some)].float().norm(dim=0).cpu() for weight in (model.W_gate, model.W_in))
        found.append(torch.hypot(gate, linear))
        found.append(torch.hypot(model.W_gate[layer].float().norm(), model.W_in[layer].float().norm()).cpu()[None])
    return torch.cat([*found, model.W_U.float().norm().cpu()[None]])
