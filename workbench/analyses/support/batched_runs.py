"""Many runs in one batch, called cells, that differ from a base run in one place each.

A cell is a copy of all texts of a batch in which one position, or one head, of one site has a replacement activation. A
cell starts at the layer of its site, from the stored residual stream. A causal model reads only earlier positions, so
cells whose changes are at or after a position do not compute earlier positions. Their keys and values there are those
of the base run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor
from transformers import DynamicCache

from hooks import Capture, Edit, OlmoForCausalLM, Run, edits
from hooks.products import fast_products
from hooks.sites import position_axis
from workbench.analyses.support.residual_stream import block_of

RESIDUALS = "blocks.*.resid_pre"
KEYS_AND_VALUES = ("blocks.*.attn.rot_k", "blocks.*.attn.v")
"""Sites of a base run. With `RESIDUALS` captured, its cells can start at any layer; with these too, also at any
position.
"""
PARTS = ("blocks.*.attn.z", "blocks.*.mlp_out")
"""Sites that a run must have captured to be a source for `heads_and_mlp`."""


@dataclass(frozen=True, eq=False)
class Swap:
    """The replacement activations of cells at one site.

    Attributes:
        site: the name of the site.
        source: replacement activations, shaped like the site with the texts as its batch; axes of size 1 are broadcast.
        masks: boolean, where each cell has the replacement: cell, then the axes of the site after its batch, or 1 for
            an axis that is replaced as a whole.
    """

    site: str
    source: Tensor
    masks: Tensor

    def edit(self, shape: str, start: int = 0) -> Edit:
        """The edit of a batch (cell text) that holds the positions from `start` on. `shape` is the shape of the site in
        words.
        """
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
    """Masks of cells that each replace one index of one axis. `shape` is the shape of the site in words."""
    masks = torch.zeros(len(indices), size, dtype=torch.bool)
    masks[range(len(indices)), list(indices)] = True
    axes = " ".join(word if word == axis else "1" for word in shape.split()[1:])
    return rearrange(masks, f"cell {axis} -> cell {axes}")


def heads_and_mlp(model: OlmoForCausalLM, source: Mapping[str, Tensor], layer: int, at_most: int) -> list[Swap]:
    """Swaps that replace each head of a layer, in groups of at most `at_most` heads, and then the layer's MLP."""
    heads, mlp = f"blocks.{layer}.attn.z", f"blocks.{layer}.mlp_out"
    n_heads = model.config.num_attention_heads
    swaps = [
        Swap(heads, source[heads], one_each(model.sites[heads], "head", some, n_heads))
        for some in groups(range(n_heads), at_most)
    ]
    return [*swaps, Swap(mlp, source[mlp], torch.ones(1, 1, 1, dtype=torch.bool))]


def repeated(texts: Tensor, cells: int) -> Tensor:
    """The batch of texts, repeated for each cell: text … -> (cell text) …"""
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
    """Run the cells of a swap, from the layer of its site and from position `start` on. The batch is (cell text).

    No cell may change a position before `start`.

    Args:
        base: the run that the cells are copies of, with `RESIDUALS` captured, and with `KEYS_AND_VALUES` if `start` is
            not 0.
        swap: the replacement activations.
        resid: the residual stream that enters the layer from `start` on, (cell text) pos d_model; that of `base` if
            None.
        start: the first position to compute.
        freeze: further edits.
        capture: sites to capture.
        stop_at_layer: the layer before which the run stops; the end of the model if None.
        logits_to_keep: the number of last positions whose logits are computed; 0 for all.
    """
    layer, cells = block_of(swap.site), len(swap.masks)
    stop = model.config.num_hidden_layers if stop_at_layer is None else stop_at_layer
    with fast_products():
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
    """The last logits of the cells of every layer: (layer cell text) vocab.

    `swaps` has one swap for each layer, in order, all with the same number of cells. The cells of a layer join those of
    the earlier layers in one batch, so each block runs once for all cells so far, on at most `tokens` tokens (or one
    cell) at a time. `base` and `start` are as in `run_cells`.
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
    """The residual streams of cells after the block of the swap, (cell text) pos d_model; after the last block their
    last logits, (cell text) vocab.
    """
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
    """The residual stream of `base` that enters a layer, from `start` on, for each cell: (cell text) pos d_model."""
    return repeated(base[f"blocks.{layer}.resid_pre"][:, start:], cells)


def _cache(base: Run, layers: range, start: int, cells: int) -> DynamicCache:
    """The keys and values of some layers before position `start`, repeated for each cell."""
    cache = DynamicCache()
    for layer in layers:
        k, v = (
            rearrange(base[f"blocks.{layer}.attn.{name}"][:, :start], "text pos kv_head d -> text kv_head pos d")
            for name in ("rot_k", "v")
        )
        cache.update(repeated(k, cells), repeated(v, cells), layer)
    return cache


def groups(cells: range, at_most: int) -> list[range]:
    """Consecutive cells in groups of at most `at_most`, and at least one."""
    size = max(1, at_most)
    return [cells[first : first + size] for first in range(0, len(cells), size)]
