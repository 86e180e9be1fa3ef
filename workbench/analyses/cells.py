"""Many runs at once that differ in one place each: cells, beside each other in one batch.

A cell is a copy of all texts of a batch in which one position, or one head, of one site is taken from elsewhere. Cells
of one layer start at that layer, from the stored residual stream; and since causal models read leftwards only, cells
whose changes lie at or after a position compute nothing before it: keys and values there are those of the run itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor
from transformers import DynamicCache

from hooks import Capture, Edit, OlmoForCausalLM, Run, edits
from hooks.sites import layer_of, position_axis

RESIDUALS = "blocks.*.resid_pre"
KEYS_AND_VALUES = ("blocks.*.attn.rot_k", "blocks.*.attn.v")
"""What a run must have captured for its cells to start from any layer, and from any position."""
TOKENS = 4096  # run at a time


@dataclass(frozen=True, eq=False)
class Swap:
    """At one site, what each cell takes from elsewhere.

    Attributes:
        source: what is there elsewhere; like the site, its batch the texts, or 1 where it broadcasts.
        masks: where it is taken: cell, then the site's axes after its batch, or 1 for them.
    """

    site: str
    source: Tensor
    masks: Tensor

    def edit(self, shape: str, start: int = 0) -> Edit:
        """The change of a batch (cell text) that holds the positions from `start` on; shape is the site's, in words."""
        axis = position_axis(shape)
        source, masks = (_from(start, axis, tensor) for tensor in (self.source, self.masks))

        def swapped(x: Tensor) -> Tensor:
            cells = x.unflatten(0, (len(masks), -1))  # cell text …
            there = source.to(device=x.device, dtype=x.dtype)
            return torch.where(masks[:, None].to(x.device), there, cells).flatten(0, 1)

        return edits.apply(self.site, swapped)


def _from(start: int, axis: int, tensor: Tensor) -> Tensor:
    return tensor if tensor.shape[axis] == 1 else tensor.narrow(axis, start, tensor.shape[axis] - start)


def one_each(shape: str, axis: str, indices: Sequence[int], size: int) -> Tensor:
    """Masks of cells that each take one index of one axis of a site of this shape (in words)."""
    masks = torch.zeros(len(indices), size, dtype=torch.bool)
    masks[range(len(indices)), list(indices)] = True
    axes = " ".join(word if word == axis else "1" for word in shape.split()[1:])
    return rearrange(masks, f"cell {axis} -> cell {axes}")


def repeated(texts: Tensor, cells: int) -> Tensor:
    """A batch of texts once for each cell: text … -> (cell text) …"""
    return repeat(texts, "text ... -> (cell text) ...", cell=cells)


def run_cells(
    model: OlmoForCausalLM,
    base: Run,
    swap: Swap,
    *,
    start: int = 0,
    freeze: Sequence[Edit] = (),
    capture: Sequence[Capture] = (),
    stop_at_layer: int | None = None,
    logits_to_keep: int = 0,
) -> Run:
    """The cells of a swap, from its layer and from position `start` on; before it nothing may change. Batch cell text.

    `base` is the run that they are cells of, with `RESIDUALS` captured, and with `KEYS_AND_VALUES` where `start` is not
    0. `freeze` are further edits.
    """
    layer, _ = layer_of(swap.site)
    cells = len(swap.masks)
    return model.run(
        resid=repeated(base[f"blocks.{layer}.resid_pre"][:, start:], cells),
        start_at_layer=layer,
        stop_at_layer=stop_at_layer,
        edits=[swap.edit(model.sites[swap.site], start), *freeze],
        capture=capture,
        past_key_values=_cache(base, range(layer, model.config.num_hidden_layers), start, cells) if start else None,
        logits_to_keep=logits_to_keep,
    )


def _cache(base: Run, layers: range, start: int, cells: int) -> DynamicCache:
    """The keys and values of some layers before position `start`, once for each cell."""
    cache = DynamicCache()
    for layer in layers:
        k, v = (
            rearrange(base[f"blocks.{layer}.attn.{name}"][:, :start], "text pos kv_head d -> text kv_head pos d")
            for name in ("rot_k", "v")
        )
        cache.update(repeated(k, cells), repeated(v, cells), layer)
    return cache


def groups(cells: range, tokens: int, at_most: int) -> list[range]:
    """Consecutive cells to run at a time, where one cell has so many tokens."""
    size = max(1, min(at_most, TOKENS // tokens))
    return [cells[first : first + size] for first in range(0, len(cells), size)]
