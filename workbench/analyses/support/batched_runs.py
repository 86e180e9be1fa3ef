"""Many runs at once that differ in one place each: cells, beside each other in one batch.

A cell is a copy of all texts of a batch in which one position, or one head, of one site is taken from elsewhere. Cells
start at their layer, from the stored residual stream; and since causal models read leftwards only, cells whose changes
lie at or after a position compute nothing before it: keys and values there are those of the run itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor
from transformers import DynamicCache

from hooks import Capture, Edit, OlmoForCausalLM, Run, edits
from hooks.sites import position_axis
from workbench.analyses.support.residual_stream import block_of

RESIDUALS = "blocks.*.resid_pre"
KEYS_AND_VALUES = ("blocks.*.attn.rot_k", "blocks.*.attn.v")
"""What a run must have captured for its cells to start from any layer, and from any position."""
PARTS = ("blocks.*.attn.z", "blocks.*.mlp_out")
"""What a run must have captured for `heads_and_mlp` to take from."""


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


def heads_and_mlp(model: OlmoForCausalLM, source: Mapping[str, Tensor], layer: int, at_most: int) -> list[Swap]:
    """Cells that take each head of a layer, at most so many at a time, and then its MLP from elsewhere."""
    heads, mlp = f"blocks.{layer}.attn.z", f"blocks.{layer}.mlp_out"
    n_heads = model.config.num_attention_heads
    swaps = [
        Swap(heads, source[heads], one_each(model.sites[heads], "head", some, n_heads))
        for some in groups(range(n_heads), at_most)
    ]
    return [*swaps, Swap(mlp, source[mlp], torch.ones(1, 1, 1, dtype=torch.bool))]


def repeated(texts: Tensor, cells: int) -> Tensor:
    """A batch of texts once for each cell: text … -> (cell text) …"""
    return repeat(texts, "text ... -> (cell text) ...", cell=cells)


def run_cells(
    model: OlmoForCausalLM,
    base: Run,
    swap: Swap,
    *,
    resid: Tensor | None = None,
    start: int = 0,
    freeze: Sequence[Edit] = (),
    capture: Sequence[Capture] = (),
    stop_at_layer: int | None = None,
    logits_to_keep: int = 0,
) -> Run:
    """The cells of a swap, from its layer and from position `start` on; before it nothing may change. Batch cell text.

    `base` is the run that they are cells of, with `RESIDUALS` captured, and with `KEYS_AND_VALUES` where `start` is not
    0. `resid` is what the cells' layer reads, from `start` on, where that is not the same as in `base`. `freeze` are
    further edits.
    """
    layer, cells = block_of(swap.site), len(swap.masks)
    stop = model.config.num_hidden_layers if stop_at_layer is None else stop_at_layer
    return model.run(
        resid=entering(base, layer, start, cells) if resid is None else resid,
        start_at_layer=layer,
        stop_at_layer=stop,
        edits=[swap.edit(model.sites[swap.site], start), *freeze],
        capture=capture,
        past_key_values=_cache(base, range(layer, stop), start, cells) if start else None,
        logits_to_keep=logits_to_keep,
    )


def swept(model: OlmoForCausalLM, base: Run, swaps: Sequence[Swap], tokens: int, start: int = 0) -> Tensor:
    """The last logits of the cells of every layer, (layer cell text) vocab: a swap each, in order, of as many cells.

    Cells join those of earlier layers at their own, so that each block runs once for all that have come so far, on at
    most so many `tokens` (or one cell) at a time. `base` and `start` as in `run_cells`.
    """
    x = entering(base, 0, start, 0)  # (layer cell text) pos d_model
    for layer, swap in enumerate(swaps):
        cells = len(swap.masks)
        joining = entering(base, layer, start, cells)
        others = swap.masks.new_zeros(layer * cells, *swap.masks.shape[1:])
        x = torch.cat([x.to(joining.device), joining])
        x = _after_block(model, base, replace(swap, masks=torch.cat([others, swap.masks])), x, tokens, start)
    return x


def _after_block(model: OlmoForCausalLM, base: Run, swap: Swap, x: Tensor, tokens: int, start: int) -> Tensor:
    """Cells after the swap's block, (cell text) pos d_model; after the last their last logits, (cell text) vocab."""
    texts, after = len(x) // len(swap.masks), block_of(swap.site) + 1
    size = max(1, tokens // (texts * x.shape[1]))
    runs = [
        run_cells(
            model, base, replace(swap, masks=some), resid=resid, start=start, stop_at_layer=after, logits_to_keep=1
        )
        for some, resid in zip(swap.masks.split(size), x.split(size * texts), strict=True)
    ]
    return torch.cat([run.resid if run.logits is None else run.logits[:, -1] for run in runs])


def entering(base: Run, layer: int, start: int, cells: int) -> Tensor:
    """What a layer of the base run reads from position `start` on, once for each cell: (cell text) pos d_model."""
    return repeated(base[f"blocks.{layer}.resid_pre"][:, start:], cells)


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


def groups(cells: range, at_most: int) -> list[range]:
    """Consecutive cells, at most so many (at least one) at a time."""
    size = max(1, at_most)
    return [cells[first : first + size] for first in range(0, len(cells), size)]
