"""One token of a text: how its prediction formed, what it attends to, and which later tokens attend to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import DynamicCache

from hooks import Capture, Edit, OlmoForCausalLM, Run
from workbench.analyses.logit_lens import unembed
from workbench.analyses.support.arguments import chosen, one_text
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.heads import head_name
from workbench.analyses.support.memory import peak_bytes, run_bytes
from workbench.analyses.support.next_tokens import next_token_statistics
from workbench.analyses.support.residual_stream import residual_names
from workbench.analyses.support.translators import TunedLens
from workbench.progress import Progress, report
from workbench.result_files import Storable
from workbench.results import Grid, Maps
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels, vocabulary_labels


@dataclass(frozen=True, eq=False)
class Inspection(Storable):
    """The prediction of one token of a text, and the attention from it and to it.

    Attributes:
        position: the position of the token in the text.
        expected: table of the likeliest tokens at this position (`token`, `id`, `probability`). Empty at the first
            token of a text, which nothing predicts.
        lens: table with one row for the embedding and one for each layer: the `likeliest` token according to that layer
            with its probability, and the `probability` and `rank` (1 is the likeliest) of the actual token. Empty at
            the first token.
        looks: the attention weights of each head with this token as the query.
        looked_at: head × later token: the attention weight of each later token on this token.
        following: table of the likeliest tokens after this one, with the columns of `expected`.
    """

    position: int
    expected: pd.DataFrame
    lens: pd.DataFrame
    looks: Maps
    looked_at: Grid
    following: pd.DataFrame = field(default_factory=pd.DataFrame)
    title: str = "One token"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """All numbers in one table; the column `part` names the attribute that a row comes from."""
        parts = {"expected": self.expected, "lens": self.lens, "following": self.following}
        parts |= {"looks": self.looks.table(), "looked_at": self.looked_at.table()}
        return pd.concat([table.assign(part=name) for name, table in parts.items()], ignore_index=True)


@torch.no_grad()
def token_inspection(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    position: int,
    *,
    edits: Sequence[Edit] = (),
    top_k: int = 10,
    lens: TunedLens | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """The prediction of the token at one position of one text, and the attention from it and to it, with `edits`
    applied.

    The attribute `lens` of the result holds the `logit_lens` at the position before, where the token is predicted; if
    the argument `lens` is given, it holds the `tuned_lens`. Attention weights are those of `attention_maps`. The text
    is run once, in two parts that are split after the token. Only the token's own rows and the later tokens' weights on
    it are kept, so no complete attention map is held in memory.

    Errors: WorkbenchError for several texts, a position outside the text, or a lens for a model of other sizes.
    """
    if lens is not None:
        lens.check_fits(model)
    batch = one_text(tokens, model)
    (position,) = chosen([position], batch.shape[1], "position")
    _peak(model, batch.shape[1])
    report(progress, 0.0, "one token")
    seen = {"past_key_values": DynamicCache(config=model.config), "edits": edits}
    capture = [Capture(site, positions=[max(position - 1, 0)]) for site in ("embed", "blocks.*.resid_post")]
    capture.append(Capture("blocks.*.attn.pattern", queries=[position]))
    run = model.run(batch[:, : position + 1], capture=capture, logits_to_keep=2, **seen)
    looked_at = _weights_on(model, position, batch[:, position + 1 :], seen)
    report(progress, 1.0, "one token")
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    names = [head_name(layer, head) for layer in range(layers) for head in range(heads)]
    labels = token_labels(batch[0], tokenizer)
    return Inspection(
        position,
        _likeliest(run.logits[0, -2:-1], top_k, tokenizer),
        _lens_table(model, run, lens, batch[0, position : position + 1] if position else batch[0, :0], tokenizer),
        Maps(run.stack("attn.pattern")[:, 0].flatten(0, 1), names, labels[: position + 1], queries=[position]),
        Grid(looked_at, names, labels[position + 1 :], row_name="head", value_name="attention"),
        _likeliest(run.logits[0, -1:], top_k, tokenizer),
    )


@work_of(token_inspection)
def _work(model: OlmoForCausalLM, tokens: TextsLike, *_: object, **__: object) -> Work:
    length, rows = one_text(tokens).shape[1], model.config.num_hidden_layers + 1
    return Work(pass_flops(model, length, logits=2 + rows), nbytes=_peak(model, length))


def _peak(model: OlmoForCausalLM, length: int) -> float:
    """Bytes besides the model: a pass, the key-value cache, the attention weights on one token, and one row of logits
    for each layer.
    """
    config, cached = model.config, ("blocks.*.attn.rot_k", "blocks.*.attn.v")
    heads = config.num_hidden_layers * config.num_attention_heads
    per_token = run_bytes(model, capture=2 * cached) + 16 * heads
    lens = (config.num_hidden_layers + 1) * config.vocab_size * (model.dtype.itemsize + 4 * 4)
    return peak_bytes(model, "token inspection", per_token, length, fixed=lens)


def _likeliest(logits: Tensor, top_k: int, tokenizer: Tokenizer | None) -> pd.DataFrame:
    """The `top_k` likeliest tokens. logits: 1 vocab, or 0 vocab, which gives an empty table."""
    likely = logits.float().softmax(-1).topk(min(top_k, logits.shape[-1]))
    ids = likely.indices.flatten().tolist()
    table = {"token": vocabulary_labels(ids, tokenizer), "id": ids, "probability": likely.values.flatten().tolist()}
    return pd.DataFrame(table)


def _lens_table(
    model: OlmoForCausalLM, run: Run, lens: TunedLens | None, target: Tensor, tokenizer: Tokenizer | None
) -> pd.DataFrame:
    """The prediction of each layer for one token. target: pos, of length 1, or 0 where nothing predicts the token."""
    resid = torch.cat([run["embed"], run.stack("resid_post")[:, 0]])  # layer 1 d_model
    if lens is not None:
        resid = torch.stack([lens.translated(state, row) for row, state in enumerate(resid)])
    logits = unembed(model, resid)[:, : len(target)].float()  # layer pos vocab
    statistics = next_token_statistics(logits, target.to(logits.device).expand(logits.shape[:2]))
    best = logits.softmax(-1).max(-1)
    ids = best.indices.flatten().tolist()
    return pd.DataFrame(
        {
            "layer": residual_names(model)[: len(ids)],
            "likeliest": vocabulary_labels(ids, tokenizer),
            "likeliest_id": ids,
            "likeliest_probability": best.values.flatten().tolist(),
            "probability": statistics["loss"].neg().exp().flatten().tolist(),
            "rank": statistics["rank"].int().flatten().tolist(),
        }
    )


def _weights_on(model: OlmoForCausalLM, position: int, after: Tensor, seen: Mapping[str, Any]) -> Tensor:
    """The attention weight of each token after `position` on that position, in every head: (layer head) query."""
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    if not after.shape[1]:
        return torch.empty(layers * heads, 0)

    def on_it(pattern: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        return pattern[..., keys == position].sum(-1)[None]  # 0 where the position is outside the attention window

    capture = Capture("blocks.*.attn.pattern", reduce=on_it)
    run = model.run(after, capture=capture, captures_only=True, **seen)
    return run.stack("attn.pattern")[:, 0, 0].flatten(0, 1)
