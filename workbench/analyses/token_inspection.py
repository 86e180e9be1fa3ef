"""One token of a text: how its prediction formed, where its heads look, and who looks at it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pandas as pd
import torch
from torch import Tensor
from transformers import DynamicCache

from hooks import Capture, Edit, OlmoForCausalLM, Run
from workbench.analyses.logit_lens import unembed
from workbench.analyses.support.arguments import chosen, one_text
from workbench.analyses.support.heads import head_name
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import next_token_statistics
from workbench.analyses.support.residual_stream import residual_names
from workbench.progress import Progress, report
from workbench.results import Grid, Maps
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels, vocabulary_labels


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a model makes of one token of a text.

    `expected`: the likeliest tokens in its place (`token`, `id`, `probability`). `lens`: one row for the embedding and
    one a layer, with the `likeliest` token it would put there and that one's probability, and with the `probability`
    and `rank` (1 is likeliest) of the token that stands there. Both are empty at the first token, which nothing
    predicts. `looks`: the weights of each head's query at the token. `looked_at`: heads × later tokens, the weight that
    each of those puts on it.
    """

    position: int
    expected: pd.DataFrame
    lens: pd.DataFrame
    looks: Maps
    looked_at: Grid
    title: str = "One token"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def with_provenance(self, provenance: Mapping[str, Any]) -> Self:
        """The same result that also says where it comes from."""
        return dataclasses.replace(self, provenance={**self.provenance, **provenance})

    def table(self) -> pd.DataFrame:
        """All numbers; `part` says of what."""
        parts = {"expected": self.expected, "lens": self.lens}
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
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Look at the token at one position of one text, with `edits` in force.

    The lens is that of `logit_lens` at the position before, where the token was predicted; the weights are those of
    `attention_maps`. The text is run once, cut after the token, so that only its own rows and the later tokens' weights
    on it are kept: no whole map is held.
    """
    batch = one_text(tokens, model)
    (position,) = chosen([position], batch.shape[1], "position")
    _fits(model, batch.shape[1])
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
        _expected(run.logits[0, -2:-1], top_k, tokenizer),
        _lens(model, run, batch[0, position : position + 1] if position else batch[0, :0], tokenizer),
        Maps(run.stack("attn.pattern")[:, 0].flatten(0, 1), names, labels[: position + 1], queries=[position]),
        Grid(looked_at, names, labels[position + 1 :], row_name="head", value_name="attention"),
    )


def _fits(model: OlmoForCausalLM, length: int) -> None:
    """Check that a text fits: its pass, its cache, and the weights on one token of it; a row of logits a layer."""
    config, cached = model.config, ("blocks.*.attn.rot_k", "blocks.*.attn.v")
    heads = config.num_hidden_layers * config.num_attention_heads
    per_token = run_bytes(model, capture=2 * cached) + 16 * heads
    lens = (config.num_hidden_layers + 1) * config.vocab_size * (model.dtype.itemsize + 4 * 4)
    tokens_at_a_time(model, "token inspection", per_token, length, fixed=lens)


def _expected(logits: Tensor, top_k: int, tokenizer: Tokenizer | None) -> pd.DataFrame:
    """The likeliest tokens (logits: 1 vocab; of none there are none)."""
    likely = logits.float().softmax(-1).topk(min(top_k, logits.shape[-1]))
    ids = likely.indices.flatten().tolist()
    table = {"token": vocabulary_labels(ids, tokenizer), "id": ids, "probability": likely.values.flatten().tolist()}
    return pd.DataFrame(table)


def _lens(model: OlmoForCausalLM, run: Run, target: Tensor, tokenizer: Tokenizer | None) -> pd.DataFrame:
    """What each layer would put in the place of a token (pos: one, or none where nothing predicts it)."""
    resid = torch.cat([run["embed"], run.stack("resid_post")[:, 0]])  # layer 1 d_model
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
    """The weight that each token after a position puts on it, in every head: (layer head) query."""
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    if not after.shape[1]:
        return torch.empty(layers * heads, 0)

    def on_it(pattern: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        return pattern[..., keys == position].sum(-1)[None]  # 0 where it lies outside of the window

    capture = Capture("blocks.*.attn.pattern", reduce=on_it)
    run = model.run(after, capture=capture, captures_only=True, **seen)
    return run.stack("attn.pattern")[:, 0, 0].flatten(0, 1)
