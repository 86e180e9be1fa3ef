"""Largest errors, per family, of the sums of parts, and of our numbers compared with transformers'.

On the tests' tiny random models: plain, GQA, MQA, biases, clipping, tied embeddings, sliding windows with YaRN; with
and without left padding.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import DynamicCache

from hooks import OlmoForCausalLM, Run, edits
from tests.fixtures import CASES, PAD, POSITIONS, VOCAB, Pair, build_pair

LENGTHS = (14, 11, 6)  # of the texts, padded on the left


def largest_errors() -> Iterator[tuple[str, ...]]:
    """For each identity and family: the largest error over variants and texts, relative to the largest number."""
    families = sorted({family for family, _ in CASES.values()})
    yield "largest error, of the largest number", *families
    worst: dict[str, dict[str, float]] = {}
    for case, (family, options) in CASES.items():
        pair = build_pair(family, **options)
        for ids, mask in texts():
            for what, error in errors(pair, ids, mask).items():
                seen = worst.setdefault(what, dict.fromkeys(families, 0.0))
                assert error == error, f"{what} of {case} is not a number"
                seen[family] = max(seen[family], error)
    for what, by_family in worst.items():
        yield what, *(f"{by_family[family]:.1e}" if by_family[family] else "0" for family in families)


def texts() -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and attention mask: a batch without padding and one with it."""
    ids = torch.randint(1, VOCAB, (len(LENGTHS), POSITIONS), generator=torch.Generator().manual_seed(3))
    real = torch.arange(POSITIONS) >= POSITIONS - torch.tensor(LENGTHS)[:, None]
    yield ids, torch.ones_like(ids)
    yield ids.where(real, PAD), real.long()


@torch.no_grad()
def errors(pair: Pair, ids: Tensor, mask: Tensor) -> dict[str, float]:
    """The error of each identity on one batch of texts, at real tokens."""
    ours, real = pair.ours, mask.bool()
    run = ours.run(ids, mask, capture="*")
    theirs = pair.eager(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    layers = range(ours.config.num_hidden_layers)
    embed, pattern = run["embed"], run.stack("attn.pattern")
    pre, mid, post = (run.stack(f"resid_{name}") for name in ("pre", "mid", "post"))  # layer batch pos d_model
    attention, mlp = run.stack("attn_out"), run.stack("mlp_out")
    heads = [run[f"blocks.{layer}.attn.result"].sum(2) + output_bias(ours, run, layer) for layer in layers]
    z = [pattern_times_values(ours, run, layer) for layer in layers]
    unchanged = ours.run(ids, mask, edits=edits.apply("blocks.*.attn.*", torch.clone))
    rest = ours.run(ids, mask, start_at_layer=2, resid=pre[2])

    def rows(x: Tensor) -> Tensor:
        return x.transpose(-2, -3)[..., real, :, :]  # layer batch head query key -> layer real head key

    return {
        "resid_pre + attn_out = resid_mid": relative(pre + attention, mid),
        "resid_mid + mlp_out = resid_post": relative(mid + mlp, post),
        "embed + Σ attn_out + Σ mlp_out = last resid_post": relative(embed + attention.sum(0) + mlp.sum(0), post[-1]),
        "Σ result (+ bias) = attn_out": relative(torch.stack(heads), attention),
        "softmax(scores) = pattern": relative(rows(run.stack("attn.scores").softmax(-1)), rows(pattern)),
        "pattern @ v = z": relative(torch.stack(z), run.stack("attn.z")),
        "edits that change nothing": relative(unchanged.logits, run.logits),
        "a run that goes on from `resid_pre`": relative(rest.logits, run.logits),
        "logits with a cache": relative(in_pieces(ours, ids, mask)[real], run.logits[real]),
        "logits, transformers'": relative(run.logits[real], theirs.logits[real]),
        "hidden states, transformers'": relative(pre[:, real], torch.stack(theirs.hidden_states[:-1])[:, real]),
        "attentions, transformers'": relative(rows(pattern), rows(torch.stack(theirs.attentions))),
    }


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference divided by the largest number."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def output_bias(model: OlmoForCausalLM, run: Run, layer: int) -> Tensor | float:
    """What the output projection's bias adds to the residual stream, with the norm's scale held fixed."""
    block = model.model.layers[layer]
    bias = block.self_attn.o_proj.bias
    if bias is None or model.config.model_type == "olmo":
        return 0.0 if bias is None else bias
    return bias * block.post_attention_layernorm.weight / run[f"blocks.{layer}.ln1.scale"]


def pattern_times_values(model: OlmoForCausalLM, run: Run, layer: int) -> Tensor:
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    values = run[f"blocks.{layer}.attn.v"].repeat_interleave(groups, dim=2)
    return torch.einsum("bhqk,bkhd->bqhd", run[f"blocks.{layer}.attn.pattern"], values)


def in_pieces(model: OlmoForCausalLM, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits computed in three calls that share a cache."""
    cache, pieces, seen = DynamicCache(config=model.config), [], 0
    for piece in ids.split([9, 1, 4], dim=1):
        seen += piece.shape[1]
        pieces.append(model(piece, attention_mask=mask[:, :seen], past_key_values=cache).logits)
    return torch.cat(pieces, dim=1)
