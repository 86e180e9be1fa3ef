"""`qk_attribution`: why a head attends from one position to another, by pairs of what was written at both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hooks import Capture, OlmoForCausalLM, Run
from hooks.olmo import OlmoRMSNorm, divided, rotated
from workbench.analyses.support.arguments import chosen, one_text
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.edge_graph import of_heads
from workbench.analyses.support.heads import head_name
from workbench.analyses.support.memory import peak_bytes, run_bytes
from workbench.errors import WorkbenchError
from workbench.features.replaced_mlps import (
    LayerTranscoder,
    ReplacedMLP,
    Transcoders,
    replaced_mlps,
    sites_of,
    transcoders_by_layer,
)
from workbench.progress import Progress, report
from workbench.results import Grid
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels

QK_WHAT = "attention by pairs"
SHOWN = 24  # rows and columns in a figure


@dataclass(frozen=True, eq=False, repr=False)
class QKAttribution(Grid):
    """An attention score as a sum over pairs, as `qk_attribution` computes it.

    Attributes:
        values: what each pair adds to the score: source at the query × source at the key.
        score: the score before the softmax (or the difference of two), which the values sum to.
        weight: the attention weight of the key.
    """

    score: float = field(kw_only=True)
    weight: float = field(kw_only=True)

    def pairs(self) -> pd.DataFrame:
        """One row for each pair, the largest in absolute value first: `query`, `key` and `value`."""
        found = self.table()[[self.row_name, self.column_name, "value"]]
        found = found.set_axis(["query", "key", "value"], axis=1)
        return found.sort_values("value", key=abs, ascending=False, kind="stable", ignore_index=True)

    def strongest(self, n: int = SHOWN) -> Grid:
        """The `n` rows and columns of the largest sums of absolute values, in the order of the layers."""
        kept = [np.abs(self.values).sum(1 - axis).argsort()[::-1][:n] for axis in (0, 1)]
        rows, columns = (sorted(some.tolist()) for some in kept)
        return Grid(
            self.values[rows][:, columns],
            [self.rows[row] for row in rows],
            [self.columns[column] for column in columns],
            row_name=self.row_name,
            column_name=self.column_name,
            title=self.title,
            value_name=self.value_name,
            signed=True,
            provenance=self.provenance,
        )

    def plot(self) -> Any:  # noqa: ANN401 - as `Labelled.plot`
        """The plotly figure of the strongest rows and columns."""
        return self.strongest().plot()


@torch.no_grad()
def qk_attribution(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    layer: int,
    head: int,
    transcoders: Transcoders | None = None,
    *,
    query: int = -1,
    key: int | None = None,
    against: int | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> QKAttribution:
    """Why a head attends from `query` to `key`: its score as a sum over pairs of sources.

    The residual stream before the layer is a sum of what was written at a position: the embedding, the outputs of
    earlier heads, features, errors, biases and skips of transcoders (for a layer without one, the MLP). With the
    divisors of the norms (before attention in OLMo 1; of queries and keys in OLMo 2 and 3) held, queries and keys are
    linear in it, rotation included. So the score is bilinear:

        score(query, key) = Σ_a Σ_b q(a) · k(b) / √d_head

    over sources a at the query and b at the key. `bias` holds biases of queries and keys, and values that OLMo 1 clips.
    A term of the score that is the same for all keys changes no attention; `against` leaves it out: the score of `key`
    less that of another key, whose sources have negative signs.

    Args:
        model, tokens: a model, and one text.
        layer, head: the head.
        transcoders: as in `attribution_graph`.
        query, key, against: positions; negative ones count from the end. Without `key`, the one that has the largest
            weight.
        tokenizer: for readable tokens; token ids without it.
        progress: called before and after the runs.

    Errors: WorkbenchError for an unknown head or position, for a key that the query cannot attend to, and for
    dictionaries as in `attribution_graph`.
    """
    ids = one_text(tokens, model)
    named = transcoders_by_layer(model, transcoders or {})
    place = _place(model, ids, layer, head, query)
    _peak(model, ids.shape[1])  # refused before anything runs
    report(progress, 0.0, QK_WHAT)
    scores, weights = _row(model, ids, place)
    keys = _keys(ids, weights, key, against)
    _check_seen(model, place, keys, scores)
    labels = token_labels(ids[0], tokenizer)
    sources = _Sources.of(model, ids, place, named, keys)
    q_names, q = sources.read("q", place.query, labels)
    k_names, k = sources.read_keys(keys, labels)
    values = model.model.blocks[place.layer].self_attn.scaling * (q @ k.T)
    report(progress, 1.0, QK_WHAT)
    return QKAttribution(
        values.cpu(),
        q_names,
        k_names,
        row_name="query",
        column_name="key",
        score=float(scores[keys[0]] - (scores[keys[1]] if len(keys) > 1 else 0.0)),
        weight=float(weights[keys[0]]),
        title=_attention_title(place, keys, labels),
        value_name="score",
        signed=True,
    )


@dataclass(frozen=True)
class _Place:
    """A head and the position from which it attends."""

    layer: int
    head: int
    query: int

    @property
    def name(self) -> str:
        return head_name(self.layer, self.head)


def _place(model: OlmoForCausalLM, ids: Tensor, layer: int, head: int, query: int) -> _Place:
    """Errors: WorkbenchError for an unknown layer, head or position."""
    (layer,) = chosen([layer], model.config.num_hidden_layers, "layer")
    (head,) = chosen([head], model.config.num_attention_heads, "head")
    (query,) = chosen([query], ids.shape[1], "position")
    return _Place(layer, head, query)


def _row(model: OlmoForCausalLM, ids: Tensor, place: _Place) -> tuple[Tensor, Tensor]:
    """(scores, weights) of a head at a query: key, float32."""
    sites = [f"blocks.{place.layer}.attn.{name}" for name in ("scores", "pattern")]
    captures = [Capture(site, heads=[place.head], queries=[place.query]) for site in sites]
    run = model.run(ids, capture=captures, captures_only=True)
    scores, weights = (run[site][0, 0, 0].float() for site in sites)
    return scores, weights


def _keys(ids: Tensor, weights: Tensor, key: int | None, against: int | None) -> list[int]:
    """The key (that of the largest weight if None), and the one that is subtracted, if there is one."""
    wanted = [int(weights.argmax())] if key is None else chosen([key], ids.shape[1], "position")
    return [*wanted, *([] if against is None else chosen([against], ids.shape[1], "position"))]


def _check_seen(model: OlmoForCausalLM, place: _Place, keys: Sequence[int], scores: Tensor) -> None:
    hidden = [key for key in keys if not scores[key].isfinite()]
    if hidden:
        window = model.model.blocks[place.layer].self_attn.sliding_window
        why = f"after it, or outside the window of {window} tokens" if window else "after it"
        raise WorkbenchError(f"{place.name} cannot attend from position {place.query} to {hidden[0]}, which is {why}")


def _attention_title(place: _Place, keys: Sequence[int], labels: Sequence[str]) -> str:
    wanted, *others = (f"{key} ({labels[key]})" for key in keys)
    less = "".join(f" rather than to {other}" for other in others)
    return f"{place.name} from {place.query} ({labels[place.query]}) to {wanted}{less}"


@dataclass(frozen=True, eq=False)
class _Sources:
    """What was written before a layer at a query and its keys, and how a head reads it.

    Attributes:
        model: the model.
        run: a run that captured `positions` only.
        mlps: the MLPs of earlier layers at these positions.
        place: the head.
        positions: in ascending order.
    """

    model: OlmoForCausalLM
    run: Run
    mlps: Sequence[ReplacedMLP]
    place: _Place
    positions: Sequence[int]

    @classmethod
    def of(
        cls,
        model: OlmoForCausalLM,
        ids: Tensor,
        place: _Place,
        named: Mapping[int, LayerTranscoder],
        keys: Sequence[int],
    ) -> "_Sources":
        """The sources of a text."""
        positions = sorted({place.query, *keys})
        captures = [Capture(site, positions=positions) for site in _sites(model, place.layer, named)]
        run = model.run(ids, capture=captures, captures_only=True)
        return cls(model, run, replaced_mlps(model, run, named, range(place.layer)), place, positions)

    def read_keys(self, keys: Sequence[int], labels: Sequence[str]) -> tuple[list[str], Tensor]:
        """As `read`, of the first key, and of the second one with a negative sign."""
        names, rows = self.read("k", keys[0], labels)
        for key in keys[1:]:
            other_names, other = self.read("k", key, labels)
            names, rows = [*names, *(f"− {name}" for name in other_names)], torch.cat([rows, -other])
        return names, rows

    def read(self, letter: str, position: int, labels: Sequence[str]) -> tuple[list[str], Tensor]:
        """The sources at a position, and the rotated query or key (`letter` q or k) of each: names, source d_head."""
        at = self.positions.index(position)
        names, parts = self._written(at)
        rows = self._normed(self._projected(self._before_attention(parts, at), letter), at, letter)
        names = [f"token @{position} {labels[position]}", *(f"{name} @{position}" for name in names[1:])]
        attention = self.model.model.blocks[self.place.layer].self_attn
        where = torch.tensor([[position]], device=rows.device)
        rotary = self.model.model.rotary_emb[attention.kind](rows, where)
        return [*names, f"bias @{position}"], rotated(rows[None, None], rotary)[0, 0]

    def _number(self, letter: str) -> int:
        """The number of the head among queries or among keys."""
        shared = self.model.model.blocks[self.place.layer].self_attn.num_key_value_groups
        return self.place.head if letter == "q" else self.place.head // shared

    def _before_attention(self, parts: Tensor, at: int) -> Tensor:
        """What attention reads of each source: source d_model; the norm of OLMo 1 with its divisor held."""
        block = self.model.model.blocks[self.place.layer]
        if not block.norm_first:
            return parts
        return divided(
            getattr(block, block.attn_norm), parts, self.run[f"blocks.{self.place.layer}.ln1.scale"][0, at].float()
        )

    def _projected(self, parts: Tensor, letter: str) -> Tensor:
        """The query or key of each source, and the bias: source d_head."""
        attention, number = self.model.model.blocks[self.place.layer].self_attn, self._number(letter)
        matrix = (self.model.W_Q if letter == "q" else self.model.W_K)[self.place.layer][number].float()
        rows = parts @ matrix
        projection = attention.q_proj if letter == "q" else attention.k_proj
        bias = torch.zeros_like(rows[0])
        if projection.bias is not None:
            bias = projection.bias.float().view(-1, attention.head_dim)[number]
        return torch.cat([rows, bias[None]])

    def _normed(self, rows: Tensor, at: int, letter: str) -> Tensor:
        """The same after the norm of queries and keys with its divisor held, and after clipping: source d_head."""
        attention, number = self.model.model.blocks[self.place.layer].self_attn, self._number(letter)
        site = f"blocks.{self.place.layer}.attn.{letter}"
        norm, raw = getattr(attention, f"{letter}_norm"), self.run[f"{site}_raw"][0, at].float()  # head d_head
        if isinstance(norm, OlmoRMSNorm):
            rows = rows * norm.weight.float().view(-1, attention.head_dim)[number] / norm.scale(raw.flatten())
        if attention.clip is not None:
            clipped = raw[number].abs() > attention.clip
            rows = rows.where(~clipped, 0.0)
            rows[-1] += self.run[site][0, at, number].float().where(clipped, 0.0)
        return rows

    def _written(self, at: int) -> tuple[list[str], Tensor]:
        """What was written to the residual stream at a captured position: names, source d_model."""
        names, parts = ["token"], [self.run["embed"][0, at].float()[None]]
        for mlp in self.mlps:
            block = f"blocks.{mlp.layer}"
            heads = of_heads(self.run[f"{block}.attn.result"], self.run[f"{block}.attn_out"])[:, 0, at]  # head d_model
            of_mlp, rows = self._written_by(mlp, at)
            names += [*(head_name(mlp.layer, head) for head in range(len(heads))), *of_mlp]
            parts += [heads, rows]
        return names, torch.cat(parts)

    def _written_by(self, mlp: ReplacedMLP, at: int) -> tuple[list[str], Tensor]:
        """What features, error, bias and skip of one MLP add to the residual stream: names, source d_model.

        A feature that also writes to the MLPs of later layers adds the sum.
        """
        own = mlp.positions == at
        of_features = [self._added(mlp.at(layer)[own], self.mlps[layer], at) for layer in mlp.layers]
        names = [*(f"L{mlp.layer} F{feature}" for feature in mlp.features[own].tolist()), f"L{mlp.layer} error"]
        others = [mlp.error[at][None]]
        if mlp.transcoder is not None:
            others.append(mlp.constant[at][None])
            names.append(f"L{mlp.layer} decoder bias")
            if mlp.transcoder.skip is not None:
                others.append(self.run[mlp.transcoder.reads][0, at].float()[None] @ mlp.transcoder.skip)
                names.append(f"L{mlp.layer} skip")
        return names, torch.cat([torch.stack(of_features).sum(0), self._added(torch.cat(others), mlp, at)])

    def _added(self, rows: Tensor, mlp: ReplacedMLP, at: int) -> Tensor:
        """What rows written at the site of an MLP add to the residual stream; its norm's divisor is held."""
        block = self.model.model.blocks[mlp.layer]
        if block.norm_first or not mlp.writes.endswith("_raw"):
            return rows
        return divided(getattr(block, block.mlp_norm), rows, self.run[f"blocks.{mlp.layer}.ln2.scale"][0, at].float())


def _sites(model: OlmoForCausalLM, layer: int, named: Mapping[int, LayerTranscoder]) -> list[str]:
    """The sites that `_Sources` reads."""
    at = f"blocks.{layer}"
    own = [f"{at}.attn.{name}" for name in ("q_raw", "k_raw", "q", "k")]
    if model.model.blocks[layer].norm_first:
        own.append(f"{at}.ln1.scale")
    before = [
        f"blocks.{earlier}.{name}" for earlier in range(layer) for name in ("attn.result", "attn_out", "ln2.scale")
    ]
    return list(dict.fromkeys(["embed", *own, *before, *sites_of(named, range(layer))]))


def _peak(model: OlmoForCausalLM, length: int) -> float:
    """The peak memory besides the model for a text of this length, in bytes."""
    return peak_bytes(
        model, QK_WHAT, run_bytes(model, capture=["blocks.*.mlp_in", "blocks.*.mlp_out"], length=length), length
    )


@work_of(qk_attribution)
def _work(model: OlmoForCausalLM, tokens: TextsLike, layer: int, *_: object, **__: object) -> Work:
    length = one_text(tokens, model).shape[1]
    config = model.config
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    last = 2 * length * config.hidden_size * heads * model.sites.sizes["d_head"]  # queries, keys and values
    return Work(2 * (pass_flops(model, length, layer % config.num_hidden_layers) + last), nbytes=_peak(model, length))
