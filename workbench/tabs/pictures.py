"""Attention for the browser: every head as a thumbnail, one head (or a layer) as a full map, and its exact numbers."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from hooks import Capture
from workbench.analyses.attention_difference import attention_difference
from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.head_atlas import head_atlas
from workbench.errors import WorkbenchError
from workbench.progress import Progress
from workbench.results import Measures
from workbench.tabs.bench import MOST_ATTENTION_TOKENS, Bench, Opened
from workbench.tabs.calls import Call, Model, Stream, Tokenizer, Tokens, result
from workbench.views import standalone
from workbench.views.pixels import SIDE, Picture, encode, pool_last


@dataclass(frozen=True)
class Ask:
    """Which map: of `checkpoint`, less that of `other` if there is one. Data routes read it from the request's body."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str
    prompt: str
    other: str | None = None
    layer: int = 0
    head: int = 0
    combine: Literal["one", "mean", "max"] = "one"
    weigh: Literal["weight", "value"] = "weight"


MOST_PAGE_BYTES = 64_000_000  # of weights in a page of its own
WEIGHTINGS = {"weight": "probability", "value": "value-norm"}


def head_picture(bench: Bench, ask: Ask) -> Picture:
    """The full map of a head (or of a layer's heads together): query × key."""
    return encode(head_map(bench, ask), signed=ask.other is not None)


def head_cells(bench: Bench, ask: Ask, query: int, key: int) -> bytes:
    """The exact numbers of one row and of one column of a map: twice as many little-endian float32 as tokens."""
    found = head_map(bench, ask)
    if not (0 <= query < len(found) and 0 <= key < len(found)):
        raise WorkbenchError(f"no query {query} or no key {key}; tokens are 0 to {len(found) - 1}")
    return np.concatenate([found[query], found[:, key]]).astype("<f4").tobytes()


def head_map(bench: Bench, ask: Ask) -> np.ndarray:
    """The numbers of a map: query key."""
    call = map_call(ask)
    if bench.results.get(call) is None:
        checked(bench, ask)
    return result(call, bench).values[0]


def map_call(ask: Ask) -> Call:
    """A head's map as a call, or that of a layer's heads together."""
    tokens, tokenizer = Tokens(ask.checkpoint, ask.prompt), Tokenizer(ask.checkpoint)
    options = (
        ("layers", (ask.layer,)),
        ("heads", (ask.head,)) if ask.combine == "one" else ("combine", ask.combine),
        *((("weighting", WEIGHTINGS[ask.weigh]),) if ask.weigh != "weight" else ()),
        ("tokenizer", tokenizer),
    )
    if ask.other is None:
        options += (("resid", Stream(ask.checkpoint, ask.prompt, ask.layer)),) if ask.layer else ()
        return Call(attention_maps, (Model(ask.checkpoint), tokens), options)
    return Call(attention_difference, (Model(ask.checkpoint), Model(ask.other), tokens), options)


def thumbnails(bench: Bench, ask: Ask) -> Picture:
    """Every head of every layer at thumbnail size."""
    ask = replace(ask, layer=0, head=0, combine="one", weigh="weight")

    def make() -> Picture:
        pooled = [_pooled(one).cpu().numpy() for one in checked(bench, ask)]  # layer head side bin
        found = pooled[0] if len(pooled) == 1 else pooled[0] - pooled[1]
        maps, second = np.split(found, [found.shape[-2]], -1)
        return encode(maps, second=second if second.size else None, signed=len(pooled) == 2)

    return bench.once(("thumbnails", ask), make)


def checked(bench: Bench, ask: Ask) -> list[Opened]:
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


def _pooled(opened: Opened) -> Tensor:
    """Every head's pattern at thumbnail size, never a whole pattern at once: layer head side bin.

    A bin a pixel; where the first stands for several keys, a last one stands for these without the very first key.
    """

    def pool_keys(pattern: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        left_out = length - pattern.shape[-1]  # later keys
        whole = torch.nn.functional.pad(pattern.float(), (0, left_out))
        second = whole[..., 1:together].amax(-1, keepdim=True) if together > 1 else whole[..., :0]
        return rearrange(torch.cat([pool_last(whole), second], -1), "batch head query bin -> bin batch head query")

    length = opened.ids.shape[1]
    together = -(-length // SIDE)  # keys in the first bin
    run = opened.model.run(opened.ids, capture=Capture("blocks.*.attn.pattern", reduce=pool_keys), captures_only=True)
    by_query = rearrange(run.stack("attn.pattern")[:, :, 0], "layer bin head query -> layer head query bin")
    return pool_last(by_query.mT).mT


def whole_page(bench: Bench, ask: Ask) -> str:
    """The attention view as a page that stands alone: of one checkpoint, or of A, B and A − B."""
    opened = checked(bench, ask)
    config, length = opened[0].model.config, opened[0].ids.shape[1]
    heads = config.num_hidden_layers * config.num_attention_heads
    size = len(opened) * heads * length * (length + 1) * 2  # bytes
    if size > MOST_PAGE_BYTES:
        raise WorkbenchError(
            f"a page of its own would hold {size / 1e6:,.0f} MB of weights; at most {MOST_PAGE_BYTES / 1e6:.0f}, "
            "with a shorter text"
        )
    maps = [result(all_maps(one.checkpoint, ask.prompt), bench) for one in opened]
    if len(maps) == 2:
        return standalone.attention(maps[0], other=maps[1]).page
    return standalone.attention(maps[0], atlas_of(bench, opened[0], ask.prompt)).page


def atlas_of(bench: Bench, opened: Opened, prompt: str, progress: Progress | None = None) -> Measures | None:
    """The statistics of all heads on a prompt; None for one too short to have any."""
    if opened.ids.shape[1] < 2:
        return None
    arguments = (Model(opened.checkpoint), Tokens(opened.checkpoint, prompt))
    return result(Call(head_atlas, arguments, (("samples", 16),)), bench, progress)


def all_maps(checkpoint: str, prompt: str) -> Call:
    """The maps of all heads, as a call."""
    tokens, tokenizer = Tokens(checkpoint, prompt), Tokenizer(checkpoint)
    return Call(attention_maps, (Model(checkpoint), tokens), (("tokenizer", tokenizer),))
