"""Attention patterns of heads, by attention weight or by the norm of the value that is moved."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hooks import Capture, OlmoForCausalLM, Run
from workbench.analyses.support.arguments import chosen, one_text
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.heads import head_name, head_output, values_by_head
from workbench.analyses.support.memory import peak_bytes, run_bytes, site_bytes
from workbench.errors import WorkbenchError
from workbench.progress import Progress, report
from workbench.results import Maps
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels

WEIGHTINGS = {"probability": "attention", "value-norm": "‖α v W_O‖"}
COMBINED: dict[str, Callable[..., Tensor]] = {"mean": torch.mean, "max": torch.amax}
TITLES = {"probability": "Attention{}", "value-norm": "Attention{}, by the size of what is moved"}


@torch.no_grad()
def attention_maps(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[int] | None = None,
    weighting: str = "probability",
    combine: str | None = None,
    tokenizer: Tokenizer | None = None,
    resid: Tensor | None = None,
    progress: Progress | None = None,
) -> Maps:
    """Attention of the chosen heads, in the chosen layers, at the chosen query positions of one text.

    Returns Maps of head × query × key. For `layers`, `heads` and `queries`, None means all.

    `weighting` decides the number in a cell:

    - `probability`: the attention weight α, 0 to 1. Each row sums to 1.
    - `value-norm`: ‖α v W_O‖ (Kobayashi et al. 2020, "Attention is not only a weight"), the norm of the vector that the
      head moves from the key to the residual stream of the query. A key with a large weight but a small value, such as
      an attention sink, gets a small number. In OLMo 2 and 3, W_O includes the norm after attention, with its divisor
      held fixed.

    `combine`, `mean` or `max`, merges the chosen heads of each layer into one map.

    `resid`, batch pos d_model, is the residual stream that enters the lowest chosen layer. If it is given, earlier
    layers are not computed. Only the chosen heads and queries are computed, and nothing after the last chosen pattern.

    Errors: WorkbenchError for several texts, a layer, head or query that does not exist, an empty choice of them, or an
    unknown `weighting` or `combine`.
    """
    if weighting not in WEIGHTINGS:
        raise WorkbenchError(f"weighting is {weighting!r}; choose from {', '.join(WEIGHTINGS)}")
    if combine is not None and combine not in COMBINED:
        raise WorkbenchError(f"combine is {combine!r}; choose from {', '.join(COMBINED)}, or None")
    batch = one_text(tokens, model)
    layers = chosen(layers, model.config.num_hidden_layers, "layer")
    heads = chosen(heads, model.config.num_attention_heads, "head")
    rows = chosen(queries, batch.shape[1], "position")
    if not (layers and heads and rows):
        raise WorkbenchError("an attention map needs at least one layer, one head and one query position")
    _peak(model, batch.shape[1], len(layers) * len(heads) * len(rows), weighting)
    report(progress, 0.0, "attention")
    capture: list[Capture | str] = []
    for layer in sorted(set(layers)):
        capture.append(Capture(f"blocks.{layer}.attn.pattern", heads=heads, queries=queries))
        if weighting == "value-norm":
            capture += [f"blocks.{layer}.attn.v", f"blocks.{layer}.ln1.scale"]
    start = 0 if resid is None else min(layers)
    run = model.run(batch, capture=capture, start_at_layer=start, resid=resid, captures_only=True)
    maps = []
    for layer in layers:
        pattern = run[f"blocks.{layer}.attn.pattern"][0].float()  # head query key
        if weighting == "value-norm":
            pattern = pattern * _norms(model, run, layer, heads, rows)
        if combine is not None:
            pattern = COMBINED[combine](pattern, 0, keepdim=True)
        maps.append(pattern.cpu().numpy())
    report(progress, 1.0, "attention")
    values = maps[0] if len(maps) == 1 else np.concatenate(maps)
    values.setflags(write=False)  # so that the result keeps it instead of a copy
    names = [name for layer in layers for name in _map_names(layer, heads, combine)]
    return Maps(
        values,
        names,
        token_labels(batch[0].tolist(), tokenizer),
        queries=rows,
        title=TITLES[weighting].format(f" of {names[0]}" if len(names) == 1 else ""),
        value_name=WEIGHTINGS[weighting],
    )


@work_of(attention_maps)
def _work(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[int] | None = None,
    weighting: str = "probability",
    resid: Tensor | None = None,
    **_: object,
) -> Work:
    length = one_text(tokens).shape[1]
    layers = chosen(layers, model.config.num_hidden_layers, "layer")
    count = [
        len(layers),
        len(chosen(heads, model.config.num_attention_heads, "head")),
        len(chosen(queries, length, "position")),
    ]
    blocks = max(layers) + 1 - (0 if resid is None else min(layers))
    return Work(pass_flops(model, length, blocks), nbytes=_peak(model, length, math.prod(count), weighting))


def _peak(model: OlmoForCausalLM, length: int, rows: int, weighting: str) -> float:
    """Bytes besides the model: a pass, the patterns in the dtype of the model, and three float32 copies of them.

    Errors: WorkbenchError if they do not fit.
    """
    kept = rows * length * (model.dtype.itemsize + 3 * 4)
    per_token = run_bytes(model)
    if weighting == "value-norm":
        per_token += run_bytes(model, capture=["blocks.*.attn.v"]) + 3 * 4 * site_bytes(model, "blocks.0.attn.result")
    return peak_bytes(model, "attention maps", per_token, length, fixed=kept)


def _map_names(layer: int, heads: list[int], combine: str | None) -> list[str]:
    """The names of the maps of one layer."""
    return [head_name(layer, head) for head in heads] if combine is None else [f"L{layer} {combine}"]


def _norms(model: OlmoForCausalLM, run: Run, layer: int, heads: list[int], queries: list[int]) -> Tensor:
    """‖v W_O‖ of each key for each head, with the scale that the norm after attention has at each query: head query
    key.
    """
    values = values_by_head(run[f"blocks.{layer}.attn.v"][0], model.config.num_attention_heads)  # key head d_head
    norms = torch.stack(
        [head_output(model, layer, values, head, values.new_ones(1)).float().norm(dim=-1) for head in heads]
    )
    if model.model.blocks[layer].norm_first:
        return norms[:, None]
    return norms[:, None] / run[f"blocks.{layer}.ln1.scale"][0, queries]  # query 1
