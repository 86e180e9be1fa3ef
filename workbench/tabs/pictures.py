"""Attention as pictures for the browser: every head as a thumbnail, one head (or a layer) as a full map."""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from hooks import Capture
from workbench.errors import WorkbenchError
from workbench.tabs.bench import MOST_ATTENTION_TOKENS, Bench, Opened
from workbench.views.pixels import Picture, encode, pool_last


@dataclass(frozen=True)
class Ask:
    """Which map: of `checkpoint`, less that of `other` if there is one."""

    checkpoint: str
    prompt: str
    other: str | None = None
    layer: int = 0
    head: int = 0
    combine: Literal["one", "mean", "max"] = "one"
    weigh: Literal["weight", "value"] = "weight"


def head_picture(bench: Bench, ask: Ask) -> Picture:
    """The full map of a head (or of a layer's heads together): query × key."""
    return bench.once(("map", ask), lambda: _difference([_one_map(one, ask) for one in _opened(bench, ask)]))


def thumbnails(bench: Bench, ask: Ask) -> Picture:
    """Every head of every layer at thumbnail size."""
    return bench.once(("thumbnails", ask), lambda: _difference([_pooled(one) for one in _opened(bench, ask)]))


def _difference(maps: list[Tensor]) -> Picture:
    """A, or A − B."""
    return encode(maps[0] - maps[1], signed=True) if len(maps) == 2 else encode(maps[0])


def _opened(bench: Bench, ask: Ask) -> list[Opened]:
    """The one or two checkpoints, checked."""
    names = [ask.checkpoint] if ask.other is None else [ask.checkpoint, ask.other]
    opened = [bench.read(name, ask.prompt, MOST_ATTENTION_TOKENS) for name in names]
    if len(opened) == 2:
        bench.same_tokens(*opened)
    for one in opened:
        layers, heads = one.model.config.num_hidden_layers, one.model.config.num_attention_heads
        if not (0 <= ask.layer < layers and 0 <= ask.head < heads):
            there = f"layers 0 … {layers - 1}, heads 0 … {heads - 1}"
            raise WorkbenchError(f"no head L{ask.layer}H{ask.head} in {one.checkpoint}; {there}")
    return opened


def _one_map(opened: Opened, ask: Ask) -> Tensor:
    """One head's pattern, or the layer's mean or maximum over heads: query key."""
    heads = [ask.head] if ask.combine == "one" else None
    pattern, value = f"blocks.{ask.layer}.attn.pattern", f"blocks.{ask.layer}.attn.v"
    capture = [Capture(pattern, heads=heads)] + ([Capture(value)] if ask.weigh == "value" else [])
    run = opened.model.run(opened.ids, capture=capture, stop_at_layer=ask.layer + 1)
    maps = run[pattern][0].float()  # head query key
    if ask.weigh == "value":
        norms = rearrange(run[value][0].float().norm(dim=-1), "key kv_head -> kv_head 1 key")
        shared = opened.model.config.num_attention_heads // norms.shape[0]
        of_head = norms.repeat_interleave(shared, dim=0)
        maps = maps * (of_head if heads is None else of_head[heads])
    return maps.amax(0) if ask.combine == "max" else maps.mean(0)


def _pooled(opened: Opened) -> Tensor:
    """Every head's pattern at thumbnail size, never a whole pattern at once: layer head side side."""

    def pool_keys(pattern: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        whole = torch.nn.functional.pad(pattern, (0, length - pattern.shape[-1]))  # a chunk leaves out later keys
        return rearrange(pool_last(whole.float()), "batch head query bin -> bin batch head query")

    length = opened.ids.shape[1]
    run = opened.model.run(opened.ids, capture=[Capture("blocks.*.attn.pattern", reduce=pool_keys)])
    by_query = rearrange(run.stack("attn.pattern")[:, :, 0], "layer bin head query -> layer head query bin")
    return pool_last(by_query.mT).mT
