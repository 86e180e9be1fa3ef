"""Requests of the attention view: thumbnails of all heads, the full map of one head (or layer), exact numbers."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from hooks import Capture
from workbench.analyses.attention_difference import attention_difference
from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.head_atlas import head_atlas
from workbench.errors import WorkbenchError
from workbench.page.session.arguments import ModelOf, ResidOf, TokenizerOf, TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.edit_lines import bounded, tapped
from workbench.page.session.opened_prompt import MOST_ATTENTION_TOKENS, OpenedPrompt
from workbench.page.session.prompts import Prompt
from workbench.progress import Progress
from workbench.results import Measures, change
from workbench.views import standalone
from workbench.views.pixels import SIDE, Picture, encode, pool_last


@dataclass(frozen=True)
class MapRequest:
    """A request for an attention map of `checkpoint`; with an `other` one, for the other's map minus this one's.

    Data routes parse it from the request's body.

    Attributes:
        combine: "one" for the map of `head`; "mean" or "max" over all heads of `layer`.
        weigh: "weight" for attention probabilities; "value" for ‖α v W_O‖ (see `attention_maps`).
        edits: interventions in the models, one a line.
        change: whether the map of the unedited model is subtracted; has no effect with `other`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str
    prompt: Prompt
    other: str | None = None
    layer: int = 0
    head: int = 0
    combine: Literal["one", "mean", "max"] = "one"
    weigh: Literal["weight", "value"] = "weight"
    edits: str = ""
    change: bool = False

    @property
    def signed(self) -> bool:
        """Whether the values are differences."""
        return self.other is not None or self.is_change

    @property
    def is_change(self) -> bool:
        """Whether the map is that of the edited model minus that of the unedited one."""
        return self.change and bool(self.edits) and self.other is None


MOST_PAGE_BYTES = 64_000_000  # of weights in a stand-alone page
INDUCTION_SAMPLES = 16  # rows for induction scores, the same on all tabs; fewer than `head_atlas` takes by default
WEIGHTING_OF = {"weight": "probability", "value": "value-norm"}


def head_picture(bench: Bench, request: MapRequest) -> Picture:
    """The full map of one head, or of a layer's heads combined, as a picture: query × key."""
    return encode(head_map(bench, request), signed=request.signed)


def head_cells(bench: Bench, request: MapRequest, query: int, key: int) -> bytes:
    """Row `query` of a map, then column `key`: exact values as little-endian float32, two for each token."""
    found = head_map(bench, request)
    if not (0 <= query < len(found) and 0 <= key < len(found)):
        raise WorkbenchError(f"query {query} or key {key} is out of range; tokens are 0 to {len(found) - 1}")
    return np.concatenate([found[query], found[:, key]]).astype("<f4").tobytes()


def head_map(bench: Bench, request: MapRequest) -> np.ndarray:
    """The values of a map: query key."""
    call = map_call(request)
    if bench.results.get(call) is None:
        checked_prompts(bench, request)
    return result(call, bench).values[0]


def map_call(request: MapRequest) -> Call:
    """The call that computes the map of one head, or of a layer's heads combined."""
    model, tokens = ModelOf(request.checkpoint, request.edits), TokensOf(request.checkpoint, request.prompt)
    options: dict[str, Any] = {"layers": (request.layer,)}
    options |= {"heads": (request.head,)} if request.combine == "one" else {"combine": request.combine}
    options |= {"weighting": WEIGHTING_OF[request.weigh]} if request.weigh != "weight" else {}
    options |= {"tokenizer": TokenizerOf(request.checkpoint)}
    if request.other is not None:
        return Call.of(attention_difference, model, ModelOf(request.other, request.edits), tokens, minus="a", **options)
    if request.layer:
        options |= {"resid": ResidOf(request.checkpoint, request.prompt, request.layer, request.edits)}
    call = Call.of(attention_maps, model, tokens, **options)
    return Call.quick(change, call, call.unedited) if request.is_change else call


def thumbnails(bench: Bench, request: MapRequest) -> Picture:
    """The maps of all heads of all layers, at thumbnail size; with an `other` checkpoint, its maps minus those."""
    request = replace(request, layer=0, head=0, combine="one", weigh="weight")

    def make() -> Picture:
        pooled = [_pooled(bench, one, request.edits).cpu().numpy() for one in checked_prompts(bench, request)]
        pooled.reverse()  # B − A
        if request.is_change:
            pooled += [_pooled(bench, one, "").cpu().numpy() for one in checked_prompts(bench, request)]
        found = pooled[0] if len(pooled) == 1 else pooled[0] - pooled[1]  # layer head side bin
        maps, second = np.split(found, [found.shape[-2]], -1)
        return encode(maps, second=second if second.size else None, signed=request.signed)

    return bench.once(("thumbnails", request), make)


def checked_prompts(bench: Bench, request: MapRequest) -> list[OpenedPrompt]:
    """The request's one or two checkpoints with its prompt.

    Errors: WorkbenchError if the prompt is empty or too long, if two checkpoints tokenise it differently, or if the
    layer or the head is out of range.
    """
    bounded(request.edits)
    names = [request.checkpoint, *([] if request.other is None else [request.other])]
    opened = [bench.read(name, request.prompt, MOST_ATTENTION_TOKENS) for name in names]
    if request.other is not None:
        bench.same_tokens(request.checkpoint, request.other, request.prompt)
    for one in opened:
        layers, heads = one.model.config.num_hidden_layers, one.model.config.num_attention_heads
        if not (0 <= request.layer < layers and 0 <= request.head < heads):
            there = f"layers 0 … {layers - 1}, heads 0 … {heads - 1}"
            raise WorkbenchError(f"no head L{request.layer}H{request.head} in {one.checkpoint}; {there}")
    return opened


def _pooled(bench: Bench, opened: OpenedPrompt, edits: str) -> Tensor:
    """The attention patterns of all heads at thumbnail size: layer head side bin.

    Keys are pooled while the model runs, so whole patterns are not kept. Each bin is one pixel. If the first bin covers
    several keys, one more bin follows the last: the maximum over those keys without the very first key.
    """

    def pool_keys(pattern: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        left_out = length - pattern.shape[-1]  # later keys, which the pattern does not hold
        whole = torch.nn.functional.pad(pattern.float(), (0, left_out))
        second = whole[..., 1:together].amax(-1, keepdim=True) if together > 1 else whole[..., :0]
        return rearrange(torch.cat([pool_last(whole), second], -1), "batch head query bin -> bin batch head query")

    length = opened.ids.shape[1]
    together = -(-length // SIDE)  # keys in the first bin
    capture = Capture("blocks.*.attn.pattern", reduce=pool_keys)
    with tapped(bench, (opened.model, opened.checkpoint, edits)):
        run = opened.model.run(opened.ids, capture=capture, captures_only=True)
    by_query = rearrange(run.stack("attn.pattern")[:, :, 0], "layer bin head query -> layer head query bin")
    return pool_last(by_query.mT).mT


def whole_page(bench: Bench, request: MapRequest) -> str:
    """The attention view as a stand-alone page: of one checkpoint, or of A, B and B − A.

    Errors: those of `checked_prompts`; WorkbenchError if the weights are larger than `MOST_PAGE_BYTES`.
    """
    opened = checked_prompts(bench, request)
    config, length = opened[0].model.config, opened[0].ids.shape[1]
    heads = config.num_hidden_layers * config.num_attention_heads
    size = len(opened) * heads * length * (length + 1) * 2  # bytes
    if size > MOST_PAGE_BYTES:
        raise WorkbenchError(
            f"the HTML page would contain {size / 1e6:,.0f} MB of weights; at most {MOST_PAGE_BYTES / 1e6:.0f} MB "
            "are allowed, so use a shorter text"
        )
    maps = [result(all_maps(one.checkpoint, request.prompt, request.edits), bench) for one in opened]
    if len(maps) == 2:
        return standalone.attention(maps[0], other=maps[1]).page
    return standalone.attention(maps[0], atlas_of(bench, opened[0], request.prompt, request.edits)).page


def atlas_of(
    bench: Bench, opened: OpenedPrompt, prompt: Prompt, edits: str = "", progress: Progress | None = None
) -> Measures | None:
    """The statistics of all heads on a prompt; None for a prompt of fewer than 2 tokens."""
    if opened.ids.shape[1] < 2:
        return None
    return result(atlas_call(opened.checkpoint, prompt, edits), bench, progress)


def atlas_call(checkpoint: str, prompt: Prompt, edits: str = "") -> Call:
    """The call that computes the statistics of all heads on a prompt of two tokens or more."""
    return Call.of(head_atlas, ModelOf(checkpoint, edits), TokensOf(checkpoint, prompt), samples=INDUCTION_SAMPLES)


def all_maps(checkpoint: str, prompt: Prompt, edits: str = "") -> Call:
    """The call that computes the maps of all heads."""
    tokens, tokenizer = TokensOf(checkpoint, prompt), TokenizerOf(checkpoint)
    return Call.of(attention_maps, ModelOf(checkpoint, edits), tokens, tokenizer=tokenizer)
