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
from workbench.features.dictionary import Dictionary
from workbench.features.replaced_mlps import ReplacedMLP, replaced_mlps, sites_of, transcoders_by_layer
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
    transcoders: Mapping[str, Dictionary] | None = None,
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
        transcoders: transcoders of MLPs by name, at most one of each layer.
        query, key, against: positions; negative ones count from the end. Without `key`, the one that has the largest
            weight.
        tokenizer: for readable tokens; token ids without it.
        progress: called before and after the runs.

    Errors: WorkbenchError for an unknown head or position, for a key that the query cannot attend to, and for
    dictionaries as in `attribution_graph`.
    """
    ids = one_text(tokens, model)
    named = transcoders_by_layer(model, transcoders or {})
    (layer,) = chosen([layer], model.config.num_hidden_layers, "layer")
    (head,) = chosen([head], model.config.num_attention_heads, "head")
    (query,) = chosen([query], ids.shape[1], "position")
    _peak(model, ids.shape[1])  # refused before anything runs
    report(progress, 0.0, QK_WHAT)
    scores, weights = _row(model, ids, layer, head, query)
    wanted = [int(weights.argmax())] if key is None else chosen([key], ids.shape[1], "position")
    keys = [*wanted, *([] if against is None else chosen([against], ids.shape[1], "position"))]
    _check_seen(model, layer, head, query, keys, scores)
    places = sorted({query, *keys})
    run = _run(model, ids, layer, named, places)
    mlps = replaced_mlps(model, run, named, range(layer))
    labels = token_labels(ids[0], tokenizer)
    q_names, q = _read(model, run, mlps, layer, head, places, query, labels, "q")
    k_names, k = _read(model, run, mlps, layer, head, places, keys[0], labels, "k")
    if against is not None:
        other_names, other = _read(model, run, mlps, layer, head, places, keys[1], labels, "k")
        k_names, k = [*k_names, *(f"− {name}" for name in other_names)], torch.cat([k, -other])
    values = model.model.blocks[layer].self_attn.scaling * (q @ k.T)
    report(progress, 1.0, QK_WHAT)
    score = float(scores[keys[0]] - (0.0 if against is None else scores[keys[1]]))
    less = "" if against is None else f" rather than to {keys[1]} ({labels[keys[1]]})"
    return QKAttribution(
        values.cpu(),
        q_names,
        k_names,
        row_name="query",
        column_name="key",
        score=score,
        weight=float(weights[keys[0]]),
        title=f"{head_name(layer, head)} from {query} ({labels[query]}) to {keys[0]} ({labels[keys[0]]}){less}",
        value_name="score",
        signed=True,
    )


def _row(model: OlmoForCausalLM, ids: Tensor, layer: int, head: int, query: int) -> tuple[Tensor, Tensor]:
    """(scores, weights) of a head at a query: key, float32."""
    sites = [f"blocks.{layer}.attn.{name}" for name in ("scores", "pattern")]
    run = model.run(ids, capture=[Capture(site, heads=[head], queries=[query]) for site in sites], captures_only=True)
    scores, weights = (run[site][0, 0, 0].float() for site in sites)
    return scores, weights


def _check_seen(model: OlmoForCausalLM, layer: int, head: int, query: int, keys: Sequence[int], scores: Tensor) -> None:
    hidden = [key for key in keys if not scores[key].isfinite()]
    if hidden:
        window = model.model.blocks[layer].self_attn.sliding_window
        why = f"after it, or outside the window of {window} tokens" if window else "after it"
        raise WorkbenchError(
            f"{head_name(layer, head)} cannot attend from position {query} to {hidden[0]}, which is {why}"
        )


def _run(
    model: OlmoForCausalLM,
    ids: Tensor,
    layer: int,
    named: Mapping[int, tuple[str, Dictionary]],
    places: Sequence[int],
) -> Run:
    at = f"blocks.{layer}"
    own = [f"{at}.attn.{name}" for name in ("q_raw", "k_raw", "q", "k")]
    if model.model.blocks[layer].norm_first:
        own.append(f"{at}.ln1.scale")
    before = [
        f"blocks.{earlier}.{name}" for earlier in range(layer) for name in ("attn.result", "attn_out", "ln2.scale")
    ]
    sites = dict.fromkeys(["embed", *own, *before, *sites_of(named, range(layer))])
    return model.run(ids, capture=[Capture(site, positions=list(places)) for site in sites], captures_only=True)


def _read(
    model: OlmoForCausalLM,
    run: Run,
    mlps: Sequence[ReplacedMLP],
    layer: int,
    head: int,
    places: Sequence[int],
    position: int,
    labels: Sequence[str],
    letter: str,
) -> tuple[list[str], Tensor]:
    """The sources at a position, and the rotated query or key (`letter` q or k) of each: names, source d_head."""
    place = places.index(position)
    names, parts = _written(model, run, mlps, place)
    names = [
        f"token @{position} {labels[position]}",
        *(f"{name} @{position}" for name in names[1:]),
        f"bias @{position}",
    ]
    block = model.model.blocks[layer]
    attention = block.self_attn
    number = head if letter == "q" else head // attention.num_key_value_groups
    if block.norm_first:
        parts = divided(getattr(block, block.attn_norm), parts, run[f"blocks.{layer}.ln1.scale"][0, place].float())
    matrix = (model.W_Q if letter == "q" else model.W_K)[layer][number].float()
    rows = parts @ matrix  # source d_head
    projection = attention.q_proj if letter == "q" else attention.k_proj
    bias = torch.zeros_like(rows[0])
    if projection.bias is not None:
        bias = projection.bias.float().view(-1, attention.head_dim)[number]
    rows = torch.cat([rows, bias[None]])
    norm = attention.q_norm if letter == "q" else attention.k_norm
    raw = run[f"blocks.{layer}.attn.{letter}_raw"][0, place].float()  # head d_head
    if isinstance(norm, OlmoRMSNorm):
        rows = rows * norm.weight.float().view(-1, attention.head_dim)[number] / norm.scale(raw.flatten())
    if attention.clip is not None:
        clipped = raw[number].abs() > attention.clip
        rows = rows.where(~clipped, 0.0)
        rows[-1] += run[f"blocks.{layer}.attn.{letter}"][0, place, number].float().where(clipped, 0.0)
    where = torch.tensor([[position]], device=rows.device)
    rotary = model.model.rotary_emb[attention.kind](rows, where)
    return names, rotated(rows[None, None], rotary)[0, 0]


def _written(model: OlmoForCausalLM, run: Run, mlps: Sequence[ReplacedMLP], place: int) -> tuple[list[str], Tensor]:
    """What was written to the residual stream at a captured position: names, source d_model."""
    names, parts = ["token"], [run["embed"][0, place].float()[None]]
    for mlp in mlps:
        at, block = f"blocks.{mlp.layer}", model.model.blocks[mlp.layer]
        heads = of_heads(run[f"{at}.attn.result"], run[f"{at}.attn_out"])[:, 0, place]  # head d_model
        own = mlp.positions == place
        written = [mlp.written[own], mlp.error[place][None]]
        of_mlp = [*(f"L{mlp.layer} F{feature}" for feature in mlp.features[own].tolist()), f"L{mlp.layer} error"]
        if mlp.transcoder is not None:
            written.append(mlp.constant[place][None])
            of_mlp.append(f"L{mlp.layer} decoder bias")
            if mlp.transcoder.skip is not None:
                written.append(run[mlp.transcoder.reads][0, place].float()[None] @ mlp.transcoder.skip)
                of_mlp.append(f"L{mlp.layer} skip")
        rows = torch.cat(written)
        if not block.norm_first and mlp.writes.endswith("_raw"):
            rows = divided(getattr(block, block.mlp_norm), rows, run[f"{at}.ln2.scale"][0, place].float())
        names += [*(head_name(mlp.layer, head) for head in range(len(heads))), *of_mlp]
        parts += [heads, rows]
    return names, torch.cat(parts)


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
