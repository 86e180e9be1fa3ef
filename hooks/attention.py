"""Attention arithmetic: the fused kernel by default, explicit rows where scores or patterns are captured or edited.

Shapes here are those of the kernels: q is batch head query d_head; k and v are batch kv_head key d_head. A `mask` is in
the form of `scaled_dot_product_attention`, batch 1 query key: bools, True where a query may attend to a key, or numbers
that are added to the scores. None means causal (query i attends to keys 0 to i), or all keys for a single query.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask
from transformers import Cache, PreTrainedConfig
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .compat import attention_implementation, with_attention
from .taps import Tap, Untapped

MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
# Query rows per chunk: small enough that their scores fit the processor's cache and their memory is reused.
ROWS_AT_A_TIME = 128
_Mask = TypeVar("_Mask", Tensor, BlockMask)


class AttentionLayer(Protocol):
    """The attributes of an attention layer that `attend` uses. `kind` is "full_attention" or "sliding_attention"."""

    kind: str
    scaling: float
    sliding_window: int | None
    attention_dropout: float
    training: bool


class Masks:
    """The masks of one forward pass for each kind of layer, made before any layer extends the cache.

    Args:
        config: the configuration of the model.
        kinds: for each kind of layer, the layer whose cache gives the number of cached positions; None means the layer
            that transformers uses by default.
        looked_at: whether scores or patterns may be captured, edited or returned.
        past_key_values: the cache, if any.
        arguments: the other arguments of transformers' mask functions.

    Attributes:
        implementation: the attention implementation by its name in transformers; "eager" is the explicit attention of
            this file.
        kernel: masks for the implementation, by kind of layer.
        explicit: masks for the explicit path, by kind of layer, in SDPA form; None means causal.
        rows: the new positions to compute queries for; None means all. Keys are computed for every position.
        by_row: whether the masks allow computing a single query row (see `last_row`).
    """

    rows: slice | None = None

    def __init__(
        self,
        config: PreTrainedConfig,
        kinds: dict[str, int | None],
        looked_at: bool,
        past_key_values: Cache | None,
        **arguments: object,
    ) -> None:
        self.implementation = attention_implementation(config)
        implementation = "sdpa" if self.implementation == "eager" else self.implementation
        arguments["past_key_values"] = past_key_values
        # Without a mask, a single query would attend to the unused entries of a static cache.
        has_free_places = past_key_values is not None and past_key_values.is_compileable
        self.by_row = implementation == "sdpa" and not has_free_places
        self.kernel = self._made(config, implementation, kinds, arguments)
        self.explicit = self.kernel
        if looked_at and implementation != "sdpa":
            self.explicit = self._made(config, "sdpa", kinds, arguments)

    def asking(self, x: Tensor) -> Tensor:
        """The query positions `rows` of x (batch pos …)."""
        return x if self.rows is None else x[:, self.rows]

    def last_row(self) -> "Masks":
        """The masks for the last position as the only query; these masks unchanged if `by_row` is False."""
        if not self.by_row:
            return self
        last = copy(self)
        last.rows = slice(-1, None)
        last.kernel = last.explicit = {
            kind: mask if mask is None else mask[:, :, -1:] for kind, mask in self.kernel.items()
        }
        return last

    @staticmethod
    def _made(
        config: PreTrainedConfig, implementation: str, kinds: dict[str, int | None], arguments: dict[str, object]
    ) -> dict[str, Any]:
        given = arguments["attention_mask"]
        if isinstance(given, dict):  # `generate` itself prepares the masks of static caches
            return given
        config = with_attention(config, implementation)
        return {kind: MASKS[kind](config, layer_idx=layer, **arguments) for kind, layer in kinds.items()}


@dataclass(frozen=True)
class QK:
    """The queries and keys of one layer, and the mask of keys for each query.

    Attributes:
        q: queries after RoPE, batch head query d_head.
        k: keys after RoPE, batch kv_head key d_head.
        mask: in the form described at the top of this file.
        scaling: the factor of the products q kᵀ.
    """

    q: Tensor
    k: Tensor
    mask: Tensor | None
    scaling: float

    def of(self, heads: Tensor) -> "QK":
        """The queries and keys of the given query heads only; each head gets a key head of its own."""
        group = self.q.shape[1] // self.k.shape[1]
        return replace(self, q=self.q[:, heads], k=self.k[:, heads // group])

    @property
    def causal(self) -> bool:
        """Whether attention is causal (query i attends to keys 0 to i) without a mask tensor."""
        return self.mask is None and self.q.shape[2] > 1


def attend(
    module: AttentionLayer,
    qkv: tuple[Tensor, Tensor, Tensor],
    masks: Masks,
    tap: Tap | Untapped,
    output_pattern: bool,
    kernel_arguments: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """The attention-weighted values of each head: z = softmax(q kᵀ · scaling + mask) v.

    By default the fused kernel computes z. Captured scores and patterns are computed separately from q and k, for the
    selected heads and rows only. z is computed explicitly, from scores and pattern, if these are edited, if they are
    captured with gradients, or if the implementation is "eager". After an edit without gradients, rows whose pattern is
    unchanged keep the bits of the fused kernel.

    Args:
        module: the attention layer.
        qkv: q (batch head query d_head), k and v (batch kv_head key d_head), cached positions included.
        masks: the masks of this forward pass.
        tap: the tap of this block.
        output_pattern: whether to return the pattern.
        kernel_arguments: further arguments of transformers' attention function.

    Returns:
        z (batch pos head d_head) and the pattern (batch head query key), which may be None unless `output_pattern`.
    """
    looked_at = tap.wants("attn.scores", "attn.pattern")
    edited = looked_at and tap.changes("attn.scores", "attn.pattern")
    on_the_path = edited or masks.implementation == "eager" or (looked_at and tap.grad)

    if not (looked_at or on_the_path or output_pattern):
        return _fused(module, qkv, masks, kernel_arguments), None

    q, k, v = qkv
    qk = QK(q, k, _on(q.device, masks.explicit[module.kind]), module.scaling)
    if not on_the_path:
        if isinstance(tap, Tap):
            _record_beside(qk, tap)  # before the kernel, which a `captures_only` run may then skip
        return _fused(module, qkv, masks, kernel_arguments), pattern(qk) if output_pattern else None
    fused = None
    if masks.implementation != "eager" and not tap.grad:
        fused = _fused(module, qkv, masks, kernel_arguments)
    plain = scores(qk)
    weights = tap("attn.pattern", softmax(tap("attn.scores", plain), may_be_blind=edited or not qk.causal))
    z = weigh(F.dropout(weights, module.attention_dropout, module.training), v)
    if fused is not None:  # rows that no edit changed keep the bits of the fused kernel
        untouched = (weights == softmax(plain)).all(-1)
        z = torch.where(rearrange(untouched, "batch head query -> batch query head 1"), fused, z)
    return z, weights


def _fused(
    module: AttentionLayer, qkv: tuple[Tensor, Tensor, Tensor], masks: Masks, kernel_arguments: dict[str, Any]
) -> Tensor:
    """z computed by the configured attention implementation: batch query head d_head."""
    q, k, v = qkv
    dropout = module.attention_dropout if module.training else 0.0
    options = dict(kernel_arguments, dropout=dropout, scaling=module.scaling, sliding_window=module.sliding_window)
    kernel = ALL_ATTENTION_FUNCTIONS[masks.implementation]
    return kernel(module, q, k, v, _on(q.device, masks.kernel[module.kind]), **options)[0]


def _record_beside(qk: QK, tap: Tap) -> None:
    """Compute and record the captured scores and pattern, for the selected heads and rows only."""
    for name, compute in (("attn.scores", scores), ("attn.pattern", pattern)):
        if not tap.wants(name):
            continue
        capture = tap.capture(name)
        chosen = qk if capture.heads is None else qk.of(tap.heads(capture, qk.q.shape[1], qk.q.device))
        if capture.reduce is None:
            tap.record(name, compute(chosen, tap.rows(capture)), head_axis=1)
        else:
            reduce = partial(tap.reduced, capture, qk.k.shape[2])
            tap.record(name, streamed(chosen, reduce, tap.rows(capture)), head_axis=2)


def scores(qk: QK, queries: Sequence[int] | None = None) -> Tensor:
    """Scaled scores of the query rows `queries` (all by default); -inf where the mask hides a key from a query.

    Returns:
        batch head query key.
    """
    return _masked_scores(qk, range(qk.q.shape[2]) if queries is None else queries, qk.k.shape[2])


def pattern(qk: QK, queries: Sequence[int] | None = None) -> Tensor:
    """Attention weights of the query rows `queries` (all by default).

    A row whose keys are all masked (a padding position) holds zeros, as in the fused kernel.

    Returns:
        batch head query key, in the dtype of q.
    """
    if torch.is_grad_enabled() and (qk.q.requires_grad or qk.k.requires_grad):
        return softmax(scores(qk, queries), may_be_blind=not qk.causal)
    n_rows = qk.q.shape[2] if queries is None else len(queries)
    weights = qk.q.new_zeros(*qk.q.shape[:2], n_rows, qk.k.shape[2])
    start = 0
    for rows, part in _chunks(qk, queries):
        weights[:, :, start : start + len(rows), : part.shape[-1]] = part
        start += len(rows)
    return weights


def streamed(qk: QK, reduce: Callable[[Tensor, Sequence[int]], Tensor], queries: Sequence[int] | None = None) -> Tensor:
    """`reduce` of the pattern, applied to one chunk of query rows at a time, so the whole pattern is never in memory.

    Args:
        reduce: (pattern: batch head query key, rows: the chunk's query rows) -> stat batch head query. With a causal
            mask, a chunk holds the keys up to the last key that any of its rows attends to.
        queries: the query rows; None means all.

    Returns:
        stat batch head query.
    """
    return torch.cat([reduce(part, rows) for rows, part in _chunks(qk, queries)], -1)


def softmax(scores: Tensor, may_be_blind: bool = True, overwrite: bool = False) -> Tensor:
    """Softmax over keys, computed in float32, in the dtype of the scores; zeros for a row whose scores are all -inf.

    Args:
        may_be_blind: whether there may be rows whose scores are all -inf.
        overwrite: whether the result may be written into the memory of the scores.
    """
    if not may_be_blind:
        if overwrite and type(scores) is Tensor and scores.dtype == torch.float32:
            return torch.softmax(scores, -1, out=scores)
        return F.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
    blind = scores.amax(-1, keepdim=True).isneginf()
    if not scores.requires_grad:
        return F.softmax(scores, dim=-1, dtype=torch.float32).masked_fill_(blind, 0.0).to(scores.dtype)
    # Masking only the NaN result would leave NaN gradients, so the scores are masked too.
    weights = F.softmax(scores.masked_fill(blind, 0.0), dim=-1, dtype=torch.float32)
    return weights.masked_fill(blind, 0.0).to(scores.dtype)


def weigh(weights: Tensor, v: Tensor) -> Tensor:
    """The sums of the values v by attention weights: batch query head d_head."""
    grouped = rearrange(
        weights, "batch (kv_head group) query key -> batch kv_head (group query) key", kv_head=v.shape[1]
    )
    return rearrange(
        grouped @ v, "batch kv_head (group query) d_head -> batch query (kv_head group) d_head", query=weights.shape[2]
    )


def _chunks(qk: QK, queries: Sequence[int] | None) -> Iterator[tuple[Sequence[int], Tensor]]:
    """The pattern in chunks of query rows: for each chunk its rows and their weights (batch head query key).

    If attention is causal without a mask tensor, the keys after the last row of a chunk are left out.
    """
    n_keys = qk.k.shape[2]
    queries = range(qk.q.shape[2]) if queries is None else queries
    for start in range(0, max(len(queries), 1), ROWS_AT_A_TIME):  # at least one chunk, empty if there are no rows
        rows = queries[start : start + ROWS_AT_A_TIME]
        seen = max(rows, default=n_keys - 1) + 1 if qk.causal else n_keys
        yield rows, softmax(_masked_scores(qk, rows, seen), may_be_blind=not qk.causal, overwrite=True)


def _masked_scores(qk: QK, rows: Sequence[int], seen: int) -> Tensor:
    """Masked scores of the query rows `rows` for the first `seen` keys: batch head query key."""
    index = torch.tensor(rows, dtype=torch.long, device=qk.q.device)
    asked = slice(rows.start, rows.stop) if isinstance(rows, range) and rows.step == 1 else index
    part = _products(qk.q[:, :, asked] * qk.scaling, qk.k[:, :, :seen])
    if qk.causal:
        first = min(rows, default=0)  # every row attends to all keys before this one
        hidden = torch.arange(first, seen, device=qk.q.device) > index[:, None]  # query key
        part[..., first:].masked_fill_(hidden, -torch.inf)
    elif qk.mask is not None:
        _hide(part, qk.mask[:, :, index, :seen])
    return part


def _on(device: torch.device, mask: _Mask | None) -> _Mask | None:
    return mask if mask is None else mask.to(device)


def _products(q: Tensor, k: Tensor) -> Tensor:
    """q kᵀ, where each key head is shared by its group of query heads: batch head query key."""
    grouped = rearrange(
        q, "batch (kv_head group) query d_head -> batch kv_head (group query) d_head", kv_head=k.shape[1]
    )
    return rearrange(
        grouped @ k.mT, "batch kv_head (group query) key -> batch (kv_head group) query key", query=q.shape[2]
    )


def _hide(part: Tensor, mask: Tensor) -> None:
    """Apply a mask to `part`, freshly computed scores, in place: -inf at hidden keys, the added number elsewhere."""
    if mask.dtype == torch.bool:
        part.masked_fill_(~mask, -torch.inf)
    else:
        part.add_(mask).masked_fill_(mask <= torch.finfo(mask.dtype).min / 2, -torch.inf)


class HeadStatistics:
    """Statistics of each row of a pattern, for `Capture("blocks.*.attn.pattern", reduce=HeadStatistics(...))`.

    Statistics, each batch head query:
        entropy: -Σ p ln p, nats; 0 when all weight is on one key.
        previous, first, self: the weight on the previous token, on the first token, on the query's own position.
        distance: Σ p · (query - key), tokens.
        duplicate: the weight on earlier occurrences of the query's token (needs `tokens`).
        each name in `targets`: the weight on the target position of the query.

    The value is NaN if the query has no such key: no previous token, a target of -1, or no earlier occurrence.

    Args:
        tokens: token ids of the whole sequence, including the cached part: batch pos.
        targets: for each name, the target position of every query in the whole sequence, -1 for no target: batch pos.
        attention_mask: 0 at left padding, for the whole sequence: batch pos. The first token is then the first one
            that is not padding.
    """

    ALWAYS = ("entropy", "previous", "first", "self", "distance")

    def __init__(
        self,
        tokens: Tensor | None = None,
        targets: dict[str, Tensor] | None = None,
        attention_mask: Tensor | None = None,
    ) -> None:
        self.tokens, self.targets = tokens, targets or {}
        self.first = torch.zeros(1, dtype=torch.long) if attention_mask is None else attention_mask.argmax(-1)  # batch
        self.names = (*self.ALWAYS, *(("duplicate",) if tokens is not None else ()), *self.targets)

    def __call__(self, pattern: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """The statistics of one chunk of a pattern: stat batch head query.

        Args:
            pattern: batch head query key.
            queries: the positions of the rows in the whole sequence.
            keys: the positions of the columns in the whole sequence.
        """
        weights = pattern.float()
        first = self.first.to(pattern.device)[:, None]  # batch 1
        aims = [torch.where(queries > first, queries - 1, -1), first.expand(-1, len(queries)), queries[None]]
        aims += [target.to(pattern.device)[:, queries] for target in self.targets.values()]
        previous, on_first, on_itself, *on_targets = (_weight_on(weights, keys, aim) for aim in aims)
        distance = queries * weights.sum(-1) - weights @ keys.float()
        statistics = [_entropy(weights), previous, on_first, on_itself, distance]
        if self.tokens is not None:
            statistics.append(_weight_on_copies(weights, self.tokens.to(pattern.device), first, queries, keys))
        return torch.stack(statistics + on_targets)


def _entropy(weights: Tensor) -> Tensor:
    """-Σ p ln p over keys, in nats. `torch.special.entr`, which handles zeros, takes twice as long."""
    logarithms = weights.clamp(min=torch.finfo(weights.dtype).tiny).log_()
    return -logarithms.mul_(weights).sum(-1)


def _weight_on_copies(weights: Tensor, tokens: Tensor, first: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """The total weight of each query on earlier occurrences of its own token: batch head query.

    NaN if there is no earlier occurrence at or after `first`.

    Args:
        tokens: batch pos.
        first: the position of the first token of each text, batch 1.
    """
    positions = torch.arange(int(keys[-1]) + 1, device=tokens.device)
    same = tokens[:, queries, None] == tokens[:, None, : len(positions)]  # batch query pos
    same &= (positions < queries[:, None]) & (positions >= first[..., None])
    at_keys = same if len(keys) == len(positions) else same[..., keys]
    on_copies = torch.einsum("bhqk,bqk->bhq", weights, at_keys.float())
    return on_copies.masked_fill(~same.any(-1)[:, None], torch.nan)


def _weight_on(weights: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    """The weight (of `weights`, batch head query key) of each query on its target (batch query): batch head query.

    NaN for target -1; 0 for a target that is not among the keys.
    """
    index = (targets - keys[0])[:, None, :, None].expand(*weights.shape[:3], 1)
    weight = weights.gather(-1, index.clamp(0, len(keys) - 1)).squeeze(-1)
    weight = weight.masked_fill(((index < 0) | (index >= len(keys))).squeeze(-1), 0.0)
    return weight.masked_fill(targets[:, None] < 0, torch.nan)
