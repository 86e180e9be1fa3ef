"""How much a logit of the model falls if the output of one node is removed, in runs in which all else may respond."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hooks import Edit, OlmoForCausalLM, edits
from workbench.features.graph import AttributionGraph
from workbench.features.replaced_mlps import ReplacedMLP
from workbench.features.replaced_run import HELD, ReplacedRun
from workbench.progress import Progress, part, steps

CHECKING = "taking away nodes"


@dataclass(frozen=True, eq=False)
class NodeOutput:
    """What a node writes.

    Attributes:
        position: the position.
        written: d_model, by site: `blocks.2.mlp_out`.
    """

    position: int
    written: Mapping[str, Tensor]


def with_checks(
    graph: AttributionGraph,
    run: ReplacedRun,
    read_out: Tensor,
    order: Sequence[int],
    copies: int,
    progress: Progress | None,
) -> AttributionGraph:
    """The graph with what the first logit loses without each of some nodes: `measured` and `held` of its nodes.

    Args:
        graph: the graph.
        run: the run that it is of.
        read_out: the vector that reads the logit, as in `losses_without`.
        order: the numbers of the nodes, features or errors.
        copies: the number of runs in a batch.
        progress: called before and after each batch.
    """
    outputs, nodes = [_output(run.mlps, number) for number in order], graph.nodes.copy()
    runs = {"measured": [], "held": [edits.patch(site, run.clean) for site in HELD]}
    for number, (name, held) in enumerate(runs.items()):
        stage = part(progress, 0.5 * number, 0.5 * (number + 1))
        lost = losses_without(run.model, run.ids, outputs, read_out, copies, stage, held=held)
        nodes.loc[order, name] = lost.double().numpy()
    return replace(graph, nodes=nodes)


def _output(mlps: Sequence[ReplacedMLP], number: int) -> NodeOutput:
    """What a feature or error writes, by the number of its node."""
    for mlp in mlps:
        if number < len(mlp):
            written = {mlps[layer].writes: mlp.at(layer)[number] for layer in mlp.layers}
            return NodeOutput(int(mlp.positions[number]), written)
        number -= len(mlp)
    layer, position = divmod(number, len(mlps[0].error))
    return NodeOutput(position, {mlps[layer].writes: mlps[layer].error[position]})


@torch.no_grad()
def losses_without(
    model: OlmoForCausalLM,
    ids: Tensor,
    outputs: Sequence[NodeOutput],
    read_out: Tensor,
    at_once: int,
    progress: Progress | None,
    *,
    held: Sequence[Edit] = (),
) -> Tensor:
    """How much a logit after the last token falls without each of the outputs, one at a time: node, float32 on the CPU.

    The output is subtracted at its site; attention, norms and MLPs respond as they do in the model.

    Args:
        ids: the text, 1 pos.
        read_out: the vector that reads the logit (or a difference) from the output of the final norm: d_model.
        at_once: the number of runs in a batch.
        held: edits of all runs that freeze some activations.
    """
    site = "ln_final.normalized"
    whole = model.run(ids, capture=site, captures_only=True)[site][0, -1].float() @ read_out
    groups = [outputs[start : start + at_once] for start in range(0, len(outputs), at_once)]
    lost = []
    for some in steps(groups, progress, CHECKING):
        changes = [*held, *_taken_away(some, ids)]
        run = model.run(ids.expand(len(some), -1), capture=site, edits=changes, captures_only=True)
        lost.append((whole - run[site][:, -1].float() @ read_out).cpu())
    return torch.cat(lost) if lost else torch.zeros(0)


def _taken_away(outputs: Sequence[NodeOutput], ids: Tensor) -> list[Edit]:
    """The edits that remove the n-th output in the n-th text of a batch."""
    changes: dict[str, Tensor] = {}
    for text, output in enumerate(outputs):
        for site, written in output.written.items():
            shape = len(outputs), ids.shape[1], len(written)
            change = changes.setdefault(site, written.new_zeros(shape))
            change[text, output.position] = written
    return [
        edits.apply(site, lambda x, change=change: (x.float() - change).to(x.dtype)) for site, change in changes.items()
    ]
