"""The edges of an attribution graph: the exact direct effect of each node on each later one, in a frozen run."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hooks import Run
from workbench.features.frozen_run import FrozenRun
from workbench.features.graph_nodes import LogitNodes
from workbench.features.replaced_mlps import ReplacedMLP, features_of
from workbench.features.replaced_run import LAST, ReplacedRun
from workbench.progress import Progress, steps

GRAPH_WHAT = "attribution graph"
ReadGroup = tuple[slice, str, Tensor, Tensor, Tensor]
"""Targets whose gradients are computed together: rows of the matrix, site, positions, slopes, biases."""
WrittenAt = tuple[Tensor, Tensor, Tensor]
"""One position of a writing site: columns of the matrix, what their nodes write, what no node writes."""


def direct_edges(run: ReplacedRun, target: LogitNodes, copies: int, progress: Progress | None) -> tuple[Tensor, Tensor]:
    """(edges: node node, in rows the targets; constants: node), float32 on the CPU.

    Args:
        run: the run, with the embedding and `constant_sites` captured too.
        target: its logit nodes.
        copies: the most targets whose gradients are computed at a time.
        progress: called before and after each group of targets.
    """
    mlps, n_features, length = run.mlps, features_of(run.mlps), run.ids.shape[1]
    first_logit = n_features + (len(mlps) + 1) * length
    count = first_logit + len(target.ids)
    edges, constants = torch.zeros(count, count), torch.zeros(count)
    frozen = FrozenRun(run, min(copies, max(len(target.ids), n_features)))
    groups = _groups(mlps, target, length, frozen.copies)
    written = _written_by_site(run.clean, mlps)
    for rows, reader, positions, slopes, biases in steps(groups, progress, GRAPH_WHAT):
        gradients = frozen.gradients(reader, positions, slopes)
        constants[rows] = (biases + frozen.constant_part(gradients)).cpu()
        for site, gradient in gradients.items():
            for position, (columns, vectors, constant) in enumerate(written.get(site, ())):
                of_place = gradient[:, position]  # target d_model
                edges[rows, columns] += (of_place @ vectors.T).cpu()
                constants[rows] += (of_place @ constant).cpu()
    return edges, constants


def _groups(mlps: Sequence[ReplacedMLP], target: LogitNodes, length: int, at_once: int) -> list[ReadGroup]:
    """The targets of one layer after the other, at most `at_once` in a group."""
    found: list[ReadGroup] = []
    first = 0
    for mlp in mlps:
        for start in range(0, len(mlp), at_once):
            some = slice(start, min(start + at_once, len(mlp)))
            assert mlp.transcoder is not None
            rows = slice(first + some.start, first + some.stop)
            found.append((rows, mlp.transcoder.reads, mlp.positions[some], mlp.slopes[some], mlp.biases[some]))
        first += len(mlp)
    first += (len(mlps) + 1) * length
    for start in range(0, len(target.ids), at_once):
        slopes = target.read_out[start : start + at_once]
        positions = torch.full((len(slopes),), length - 1, device=slopes.device)
        rows = slice(first + start, first + start + len(slopes))
        found.append((rows, LAST, positions, slopes, slopes.new_zeros(len(slopes))))
    return found


def _written_by_site(clean: Run, mlps: Sequence[ReplacedMLP]) -> dict[str, list[WrittenAt]]:
    """What is written at each writing site, by position."""
    embed = clean["embed"][0].float()
    n_features, length = features_of(mlps), len(embed)
    nothing, token = torch.zeros_like(embed[0]), n_features + len(mlps) * length
    found = {mlp.writes: _written_to(mlp.layer, mlps) for mlp in mlps}
    found["embed"] = [(torch.tensor([token + n]), row[None], nothing) for n, row in enumerate(embed)]
    return found


def _written_to(layer: int, mlps: Sequence[ReplacedMLP]) -> list[WrittenAt]:
    """The same for the site that the MLP of one layer writes: features of this layer and of earlier ones, and error."""
    own, errors = mlps[layer], features_of(mlps) + layer * len(mlps[layer].error)
    writers = [mlp for mlp in mlps if layer in mlp.layers]
    first = dict(zip((mlp.layer for mlp in mlps), np.cumsum([0, *map(len, mlps)]).tolist(), strict=False))
    bounds = {mlp.layer: _bounds(mlp) for mlp in writers}
    written = {mlp.layer: mlp.at(layer) for mlp in writers}
    places = []
    for position in range(len(own.error)):
        some = {one: range(*of_layer[position : position + 2]) for one, of_layer in bounds.items()}
        columns = [first[one] + number for one, numbers in some.items() for number in numbers]
        vectors = [written[one][numbers.start : numbers.stop] for one, numbers in some.items()]
        everything = torch.cat([*vectors, own.error[position][None]])
        places.append((torch.tensor([*columns, errors + position]), everything, own.constant[position]))
    return places


def _bounds(mlp: ReplacedMLP) -> list[int]:
    """The number of features at earlier positions, for each position and the end: pos + 1."""
    return torch.searchsorted(mlp.positions, torch.arange(len(mlp.error) + 1, device=mlp.error.device)).tolist()
