"""The influence of each node of an attribution graph on its logits, and pruning by influence.

The formulas are those of Ameisen et al. 2025, "Circuit Tracing", appendices on pruning and on graph scores. A matrix
`edges` has a row for each target and a column for each source; `weights` has a number for each node, the probability of
a logit and 0 for every other node.
"""

from dataclasses import dataclass

import numpy as np


def normalized(edges: np.ndarray) -> np.ndarray:
    """Absolute edges, divided by their sum over the sources of each target: target source. Empty rows stay 0."""
    sizes = np.abs(edges)
    sums = sizes.sum(1, keepdims=True)
    return np.divide(sizes, sums, out=np.zeros_like(sizes), where=sums > 0)


def along_paths(edges: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum over all paths from each node to the weighted ones of the products of edges: node.

    weights ((I − edges)⁻¹ − I). The graph has no cycles, so the series weights (edges + edges² + …) ends.
    """
    total, step = np.zeros(len(edges)), weights
    for _ in range(len(edges)):
        step = step @ edges
        if not step.any():
            break
        total += step
    return total


def influences(edges: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The influence of each node on the logits: `along_paths` of the normalised edges, without those of the logits."""
    return along_paths(normalized(edges), weights)


def scores(edges: np.ndarray, weights: np.ndarray, errors: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """(replacement score, completeness score), each from 0 to 1.

    Replacement: of the influence of tokens and errors, the share of tokens. Completeness: of what enters all nodes,
    weighted by their influence, the share that does not come from errors.

    Args:
        errors, tokens: which nodes are errors and tokens, boolean.
    """
    shares = normalized(edges)
    influence = along_paths(shares, weights)
    ends = influence[tokens].sum() + influence[errors].sum()
    reached = influence + weights
    complete = ((1 - shares[:, errors].sum(1)) * reached).sum() / reached.sum()
    return float(influence[tokens].sum() / ends) if ends > 0 else float("nan"), float(complete)


def on_paths(sizes: np.ndarray, order: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """For each edge, the largest x such that it lies on a whole path of edges of at least this size: target source.

    A whole path goes from a node that nothing enters to one of the `ends`. So the edges of at least any size x by this
    measure are whole paths, while those with `sizes` of at least x may lead nowhere.

    Args:
        sizes: of the edges, not negative: target source. Edges of size 0 are no edges.
        order: the numbers of all nodes, each after those that it reads.
        ends: which nodes are the ends, boolean.
    """
    entered, left = sizes.max(1), np.ascontiguousarray(sizes.T)
    above, below = np.where(ends, np.inf, 0.0), np.where(entered > 0, 0.0, np.inf)
    for node in order:
        if entered[node] > 0:
            below[node] = np.minimum(sizes[node], below).max()
    for node in order[::-1]:
        if not ends[node]:
            above[node] = np.minimum(left[node], above).max()
    return np.minimum(sizes, np.minimum(above[:, None], below))


@dataclass(frozen=True, eq=False)
class Kept:
    """The nodes and edges that pruning keeps.

    Attributes:
        nodes: node, boolean.
        edges: target source, boolean.
    """

    nodes: np.ndarray
    edges: np.ndarray


def prune(edges: np.ndarray, weights: np.ndarray, always: np.ndarray, targets: np.ndarray, shares: tuple) -> Kept:
    """The nodes of the largest influence, then the edges of the largest influence between them.

    Nodes are kept in descending order of influence until they have the share `shares[0]` of its sum; edges likewise by
    the normalised edge times the influence of its target, with `shares[1]`. Then nodes without an edge to a later node,
    and targets without an edge from an earlier one, are removed until none is left.

    Args:
        always: nodes that are kept whatever their influence (tokens and logits), boolean.
        targets: nodes that earlier nodes have edges to, and that are not always kept (features), boolean.
    """
    nodes = _largest(influences(edges, weights), shares[0]) | always
    between = edges * nodes[:, None] * nodes
    influence = influences(between, weights) + weights
    kept = _largest(normalized(between) * influence[:, None], shares[1]) & (between != 0)
    while True:
        kept &= nodes[:, None] & nodes
        alive = nodes & (kept.any(0) | always) & (kept.any(1) | ~targets)
        if (alive == nodes).all():
            return Kept(nodes, kept)
        nodes = alive


def cumulative(influence: np.ndarray) -> np.ndarray:
    """For each node, the share of all influence that nodes of at least its influence have: node, in 0 … 1."""
    order, total = np.argsort(-influence, kind="stable"), influence.sum()
    found = np.ones(len(influence))
    if total > 0:
        found[order] = np.minimum(1.0, np.cumsum(influence[order]) / total)
    return found


def _largest(values: np.ndarray, share: float) -> np.ndarray:
    """Whether each value is among the fewest largest ones whose sum is at least `share` of the whole sum, boolean."""
    flat = values.ravel()
    order = np.argsort(-flat, kind="stable")
    sums = np.cumsum(flat[order])
    count = int(np.searchsorted(sums, share * sums[-1] * (1 - 1e-12))) + 1
    found = np.zeros(flat.shape, dtype=bool)
    found[order[:count]] = True
    return found.reshape(values.shape)
