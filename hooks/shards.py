"""Tensor parallelism: heads and neurons are split across processes, but captures and edits get the whole tensor.

transformers' own plan shards OLMo's matrices. Where an axis of a site is sharded, its parts are gathered before an
edit or a capture, and the result of an edit is split again. Heads therefore keep their global numbers.
"""

import torch
from torch import Tensor
from torch.distributed.nn.functional import all_gather, all_reduce
from transformers import PreTrainedModel

from .compat import device_mesh

SHARDED_AXES = ("head", "kv_head", "d_mlp")


class Shards:
    """The processes of one group that share a model's heads and neurons.

    Args:
        group: the process group.
        sizes: the full length of each axis, by its name.
    """

    def __init__(self, group: torch.distributed.ProcessGroup, sizes: dict[str, int]) -> None:
        self.group, self.sizes = group, sizes
        self.rank, self.world = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)

    def whole(self, x: Tensor, shape: str) -> Tensor:
        """The full tensor: `x`, of a shape in words, with the shards of all processes concatenated."""
        for axis, word in enumerate(shape.split()):
            if word in SHARDED_AXES:
                x = self.gathered(x, axis, self.sizes[word])
        return x

    def gathered(self, x: Tensor, axis: int, size: int) -> Tensor:
        """The parts of all processes concatenated along one axis in rank order; `x` itself if it has full `size`."""
        if x.shape[axis] == size:
            return x
        assert x.shape[axis] * self.world == size, f"{self.world} shards of {x.shape[axis]} do not make {size}"
        return torch.cat(all_gather(x.contiguous(), group=self.group), axis)

    def share(self, whole: Tensor, like: Tensor) -> Tensor:
        """This process's part of `whole`: the inverse of `whole()`."""
        for axis, size in enumerate(like.shape):
            if whole.shape[axis] != size:
                whole = whole.narrow(axis, self.rank * size, size)
        return whole

    def own_heads(self, z: Tensor) -> Tensor:
        """The heads of z (batch pos head d_head) whose part of the output projection this process holds."""
        share = self.sizes["head"] // self.world
        return z if z.shape[2] == share else z.narrow(2, self.rank * share, share)

    def total(self, x: Tensor) -> Tensor:
        """The sum of x over the processes."""
        return all_reduce(x, group=self.group)


def shards_of(model: PreTrainedModel) -> Shards | None:
    """The shards of a model that is split across processes; None if the model is not split."""
    mesh = device_mesh(model)
    if mesh is None:
        return None
    return Shards(mesh.get_group() if mesh.ndim == 1 else mesh.get_group("tp"), model.sites.sizes)
