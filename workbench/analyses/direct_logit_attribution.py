"""A token's logit as a sum over the parts of the model that write into the residual stream."""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hooks import Capture, OlmoForCausalLM, Run
from hooks.olmo import divided
from workbench.analyses.support.arguments import chosen, one_text, texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.heads import head_name, head_output, values_by_head
from workbench.analyses.support.means import MeansOverTexts
from workbench.analyses.support.memory import peak_bytes, run_bytes, site_bytes
from workbench.analyses.support.undefined import refuse_undefined
from workbench.progress import Progress, report, steps
from workbench.results import Grid, Scores, without_errors
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_id, token_labels, vocabulary_labels


@torch.no_grad()
def direct_logit_attribution(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    token: int | str,
    against: int | str | None = None,
    *,
    position: int = -1,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Scores:
    """What each part of the model adds directly to the logit of `token`, or to the logit difference of `token` and
    `against`.

    Returns Scores for the next token after one `position` of one text, in logits. The parts are `embed`; every head
    (`L0H3`); the output bias of attention, if the model has one (`L0 bias`); and every MLP (`L0 MLP`). The contribution
    of a part is its output, passed through the final norm with the norm's divisor held fixed, times the unembedding. In
    OLMo 2 and 3 the output is taken after the sublayer's own norm, with its divisor held fixed too. The contributions
    add up to `total`, the logit itself, up to rounding (Elhage et al. 2021, "A mathematical framework for transformer
    circuits").

    `token` and `against` are ids, or with a `tokenizer` also texts of single tokens. Effects through later layers are
    not included; `activation_patching` measures those.

    Errors: WorkbenchError for several texts, a position outside the text, or a target that is not one token.
    """
    batch = one_text(tokens, model)
    (position,) = chosen([position], batch.shape[1], "position")
    target = target_ids(model, token, against, tokenizer)
    _peak(model, batch.shape[1])
    report(progress, 0.0, "direct logit attribution")
    sites = ("embed", "blocks.*.attn.result", "blocks.*.attn_out", "blocks.*.mlp_out", "ln_final.scale")
    capture = [Capture(site, positions=[position]) for site in sites]
    run = model.run(batch, capture=capture, logits_to_keep=torch.tensor([position], device=model.device))
    parts = {"embed": run["embed"][0, 0]}  # d_model each
    for layer in range(model.config.num_hidden_layers):
        heads = run[f"blocks.{layer}.attn.result"][0, 0]  # head d_model
        parts |= {head_name(layer, head): part for head, part in enumerate(heads)}
        if model.config.attention_bias:
            parts[f"L{layer} bias"] = run[f"blocks.{layer}.attn_out"][0, 0] - heads.sum(0)
        parts[f"L{layer} MLP"] = run[f"blocks.{layer}.mlp_out"][0, 0]
    report(progress, 1.0, "direct logit attribution")
    logits = run.logits[0, -1, target].double()
    return Scores(
        read_out(model, torch.stack(list(parts.values())), run["ln_final.scale"][0, 0], target),
        list(parts),
        total=float(logits[0] if against is None else logits[0] - logits[1]),
        title=_target_title(target, position, tokenizer),
        value_name="logit" if against is None else "logit difference",
        signed=True,
    )


@torch.no_grad()
def mean_attribution(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    token: int | str | None = None,
    against: int | str | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Scores:
    """The mean of `direct_logit_attribution` over texts, after the last token of each, with standard errors over texts.

    `token` is the same for all texts; with None it is the likeliest next token of each text. The parts add up to
    `total`, the mean logit (or logit difference).

    Errors: WorkbenchError for a target that is not one token, and with its number for a text whose effects are NaN.
    """
    texts, means, total = texts_for(model.config, tokens), MeansOverTexts(), 0.0
    parts = None
    for number, ids in enumerate(steps(list(texts), progress, "direct logit attribution")):
        asked = (
            int(model.run(ids[None].to(model.device), logits_to_keep=1).logits[0, -1].argmax())
            if token is None
            else token
        )
        parts = direct_logit_attribution(model, ids, asked, against, tokenizer=tokenizer)
        effects = torch.from_numpy(parts.values.copy())[None]
        refuse_undefined(effects, "direct effect", texts, [number])
        means.add(effects)
        total += (parts.total or 0.0) / len(texts)
    assert parts is not None  # there is a text
    target = (
        "each text's likeliest next token"
        if token is None
        else vocabulary_labels(target_ids(model, token, None, tokenizer), tokenizer)[0]
    )
    over = (
        ""
        if against is None
        else f" over that of {vocabulary_labels(target_ids(model, against, None, tokenizer), tokenizer)[0]}"
    )
    title = f"Direct effect on the logit of {target}{over}, mean over {len(texts)} texts"
    return replace(parts, values=means.values, total=total, title=title, errors=means.errors, texts=len(texts))


@work_of(mean_attribution)
def _work_of_mean(
    model: OlmoForCausalLM, tokens: TextsLike, token: int | str | None = None, *_: object, **__: object
) -> Work:
    texts = texts_for(model.config, tokens)
    passes = 2 if token is None else 1  # the first one finds the token
    return Work(passes * pass_flops(model, texts.tokens, logits=len(texts)), nbytes=_peak(model, texts.longest))


@work_of(direct_logit_attribution)
def _work(model: OlmoForCausalLM, tokens: TextsLike, *_: object, **__: object) -> Work:
    length = one_text(tokens).shape[1]
    return Work(pass_flops(model, length, logits=1), nbytes=_peak(model, length))


def _peak(model: OlmoForCausalLM, length: int) -> float:
    """Bytes besides the model: a pass, and what each part adds, also in float32 and float64."""
    n_parts = model.config.num_hidden_layers * (model.config.num_attention_heads + 2) + 1
    of_parts = n_parts * model.config.hidden_size * (2 * model.dtype.itemsize + 24)
    return peak_bytes(model, "direct logit attribution", run_bytes(model), length, fixed=of_parts)


def by_layer(parts: Scores) -> Scores:
    """The result of `direct_logit_attribution`, with the heads and the bias of each layer added up to `L0 attention`.

    The total stays the same.
    """
    sums: dict[str, float] = {}
    for name, value in zip(parts.names, parts.values.astype(float), strict=True):
        layer, kind = _layer_and_kind(name)
        key = name if layer is None or kind == "MLP" else f"L{layer} attention"
        sums[key] = sums.get(key, 0.0) + value
    return replace(without_errors(parts), values=list(sums.values()), names=list(sums))


def by_head(parts: Scores) -> Grid:
    """The result of `direct_logit_attribution` as a Grid of layer × (heads, MLP), in the layout of `ablation`.

    The embedding and the attention biases are left out.
    """
    errors = [None] * len(parts.names) if parts.errors is None else parts.errors.tolist()
    found = {
        _layer_and_kind(name): pair for name, *pair in zip(parts.names, parts.values.tolist(), errors, strict=True)
    }
    found = {(layer, kind): value for (layer, kind), value in found.items() if layer is not None and kind != "bias"}
    layers, columns = (list(dict.fromkeys(keys)) for keys in zip(*found, strict=True))
    values, errors = ([[found[layer, column][side] for column in columns] for layer in layers] for side in (0, 1))
    return Grid(
        values,
        layers,
        columns,
        column_name="part",
        title=parts.title,
        value_name=parts.value_name,
        signed=True,
        provenance=parts.provenance,
        errors=None if parts.errors is None else errors,
        texts=parts.texts,
    )


def _layer_and_kind(name: str) -> tuple[int | None, str]:
    """Layer and kind of a part: (0, "3") for `L0H3`, (0, "MLP") for `L0 MLP`, (None, "embed") for `embed`."""
    match = re.fullmatch(r"L(\d+)(?:H| )(\w+)", name)
    return (None, name) if match is None else (int(match[1]), match[2])


@torch.no_grad()
def head_sources(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    token: int | str,
    against: int | str | None = None,
    *,
    heads: Sequence[tuple[int, int]],
    position: int = -1,
    tokenizer: Tokenizer | None = None,
) -> Grid:
    """The direct contribution of heads to a logit, or a logit difference, split by the token that each head reads.

    `heads` are (layer, head) pairs. Returns a Grid of head × key (token of the text), in logits. A cell is the
    contribution of α[position, key] · v_key W_O to the logit, computed as in `direct_logit_attribution`. Each row adds
    up to the contribution of the head in that analysis.

    Errors: WorkbenchError for a head that the model does not have, and those of `direct_logit_attribution`.
    """
    batch = one_text(tokens, model)
    (position,) = chosen([position], batch.shape[1], "position")
    layers = chosen([layer for layer, _ in heads], model.config.num_hidden_layers, "layer")
    columns = chosen([head for _, head in heads], model.config.num_attention_heads, "head")
    target = target_ids(model, token, against, tokenizer)
    _peak_of_sources(model, batch.shape[1], heads)
    capture: list[Capture | str] = ["ln_final.scale"]
    for layer in sorted(set(layers)):
        capture.append(Capture(f"blocks.{layer}.attn.pattern", queries=[position]))
        capture += [f"blocks.{layer}.attn.v", f"blocks.{layer}.ln1.scale"]
    run = model.run(batch, capture=capture, logits_to_keep=1)
    rows = []
    for layer, head in zip(layers, columns, strict=True):
        parts = _read_from(model, run, layer, head, position)  # key d_model
        rows.append(read_out(model, parts, run["ln_final.scale"][0, position], target))
    return Grid(
        torch.stack(rows),
        [head_name(layer, head) for layer, head in zip(layers, columns, strict=True)],
        token_labels(batch[0], tokenizer),
        row_name="head",
        column_name="key (source)",
        title=_target_title(target, position, tokenizer),
        value_name="logit" if against is None else "logit difference",
        signed=True,
    )


@work_of(head_sources)
def _work_of_sources(
    model: OlmoForCausalLM, tokens: TextsLike, *_: object, heads: Sequence[tuple[int, int]], **__: object
) -> Work:
    length = one_text(tokens).shape[1]
    return Work(pass_flops(model, length, logits=1), nbytes=_peak_of_sources(model, length, heads))


def _peak_of_sources(model: OlmoForCausalLM, length: int, heads: Sequence[tuple[int, int]]) -> float:
    """Bytes besides the model: a pass, the values of the heads' layers, and what each head moves from each key."""
    kept = {f"blocks.{layer % model.config.num_hidden_layers}.attn.v" for layer, _ in heads}
    moved = site_bytes(model, "blocks.0.attn.z") + (len(heads) + 3) * 8 * model.config.hidden_size
    return peak_bytes(model, "sources of heads", run_bytes(model, capture=sorted(kept)) + moved, length)


def target_ids(
    model: OlmoForCausalLM, token: int | str, against: int | str | None, tokenizer: Tokenizer | None
) -> list[int]:
    """The ids of a target: of one token, or of two tokens whose logit difference is measured."""
    wanted = [token] if against is None else [token, against]
    return [token_id(one, tokenizer, model.config.vocab_size) for one in wanted]


def read_out(model: OlmoForCausalLM, parts: Tensor, scale: Tensor, target: list[int]) -> Tensor:
    """What parts of the residual stream add to the target's logit, with the scale of the final norm frozen: … d_model
    -> …
    """
    rows = model.get_output_embeddings().weight[target].double()  # token d_model
    unembedding = rows[0] - rows[1] if len(rows) == 2 else rows[0]
    return divided(model.model.norm, parts.float(), scale).double() @ unembedding


def _read_from(model: OlmoForCausalLM, run: Run, layer: int, head: int, position: int) -> Tensor:
    """What a head adds to the residual stream at `position`, from each key position: key d_model."""
    block = f"blocks.{layer}."
    values = values_by_head(run[block + "attn.v"][0], model.config.num_attention_heads)  # key head d_head
    moved = run[block + "attn.pattern"][0, :, 0].T[..., None] * values
    return head_output(model, layer, moved, head, run[block + "ln1.scale"][0, position])


def _target_title(target: list[int], position: int, tokenizer: Tokenizer | None) -> str:
    names = vocabulary_labels(target, tokenizer)
    return f"Direct effect on the logit of {' over that of '.join(names)}, at position {position}"
