"""How much a logit of the model falls if the output of one node is removed, in runs in which all else may respond."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hooks import Edit, OlmoForCausalLM, edits
from workbench.progress import Progress, steps

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
