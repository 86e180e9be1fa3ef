"""Errors of the identities that each analysis must satisfy, on each family: `python -m tests.benchmarks.invariants`.

Random models with grouped queries, sliding windows in OLMo 3 and weights so large that attention is far from uniform,
in float32. Each identity is written out; its error is the largest of all cells.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import Olmo2Config, Olmo3Config, OlmoConfig, OlmoForCausalLM, edits
from workbench.analyses.ablation import ablation
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.attribution_patching import attribution_patching
from workbench.analyses.direct_logit_attribution import direct_logit_attribution, head_sources
from workbench.analyses.effective_rank import effective_rank
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.hidden_state_pca import hidden_state_pca
from workbench.analyses.linear_probe import linear_probe
from workbench.analyses.logit_lens import logit_lens
from workbench.analyses.path_patching import path_patching
from workbench.analyses.representation_similarity import representation_similarity
from workbench.analyses.residual_norms import residual_norms
from workbench.analyses.token_losses import token_losses
from workbench.analyses.token_saliency import token_saliency

Invariant = Callable[[OlmoForCausalLM, Tensor, Tensor], float]
LAYERS, HEADS, LENGTH, TOKEN, OTHER = 4, 4, 24, 5, 7
SIZES = {
    "vocab_size": 211, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": LAYERS, "eos_token_id": None,
    "num_attention_heads": HEADS, "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": None,
}  # fmt: skip
WINDOWS: dict[str, Any] = {
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}
CONFIGS = {
    "OLMo": OlmoConfig(**SIZES, attention_bias=True, clip_qkv=3.0),
    "OLMo 2": Olmo2Config(**SIZES),
    "OLMo 3": Olmo3Config(**SIZES, **WINDOWS),
}


def random_model(config: OlmoConfig | Olmo2Config | Olmo3Config) -> OlmoForCausalLM:
    """Every weight random: norm weights around one, biases around zero, matrices at 1.5 / √(fan in)."""
    generator = torch.Generator().manual_seed(0)
    model = OlmoForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            scale = 0.3 if weight.ndim == 1 else 1.0 if "embed" in name else 1.5 * weight.shape[1] ** -0.5
            weight.copy_(scale * noise + (1.0 if "norm" in name else 0.0))
    return model


def worst(found: Any, expected: Any) -> float:
    """The largest error, relative where the numbers are larger than one; undefined where both are."""
    found, expected = (np.asarray(x.detach() if isinstance(x, Tensor) else x, np.float64) for x in (found, expected))
    assert (np.isnan(found) == np.isnan(expected)).all()
    return float(np.nanmax(np.abs(found - expected) / np.maximum(1.0, np.abs(expected))))


def difference(logits: Tensor) -> float:
    return float(logits[0, -1, TOKEN].double() - logits[0, -1, OTHER].double())


def last_lens_row(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    lens, p = logit_lens(model, ids), model.run(ids).logits[0].softmax(-1)
    return max(worst(lens["probability"].values[-1], p.max(-1).values), worst(lens["kl"].values[-1], np.zeros(LENGTH)))


def rows_of_maps(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    sums = attention_maps(model, ids).values.sum(-1)
    return worst(sums, np.ones_like(sums))


def streamed_statistics(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    atlas = head_atlas(model, ids, samples=0)
    pattern = model.run(ids, capture="blocks.*.attn.pattern").stack("attn.pattern")[:, 0, :, 1:]  # layer head query key
    previous = pattern.diagonal(dim1=-2, dim2=-1).mean(-1)
    entropy = torch.special.entr(pattern).sum(-1).mean(-1)
    return max(worst(atlas["previous"].values, previous), worst(atlas["entropy"].values, entropy))


def sum_of_parts(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    parts = direct_logit_attribution(model, ids, TOKEN, OTHER)
    return worst(parts.values.sum(dtype=np.float64), parts.total)


def sum_of_sources(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    parts, heads = direct_logit_attribution(model, ids, TOKEN, OTHER), [(3, head) for head in range(HEADS)]
    sources = head_sources(model, ids, TOKEN, OTHER, heads=heads)
    return worst(sources.values.sum(1), [parts.values[parts.names.index(name)] for name in sources.rows])


def patched_cells(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    grid = activation_patching(model, ids, other, TOKEN, OTHER)["logit_difference"]
    clean, zero = model.run(ids, capture="blocks.*.resid_pre"), difference(model.run(other).logits)
    one, expected = difference(clean.logits), np.empty((LAYERS, LENGTH))
    for layer in range(LAYERS):
        site = f"blocks.{layer}.resid_pre"
        for position in range(LENGTH):
            edit = edits.replace(site, clean[site][:, [position]], positions=[position])
            expected[layer, position] = (difference(model.run(other, edits=edit).logits) - zero) / (one - zero)
    return worst(grid.values, expected)


def sums_of_attributions(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    by_position, by_head = (
        attribution_patching(model, ids, other, TOKEN, OTHER, site="attn.z", by=by)["logit_difference"].values.sum(1)
        for by in ("position", "head")
    )
    return worst(by_position, by_head)


def paths_from_the_last_layer(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    paths = path_patching(model, ids, other, TOKEN, OTHER, mlps="recomputed")["logit_difference"]
    whole = activation_patching(model, other, ids, TOKEN, OTHER, site="attn.z", by="head")["logit_difference"]
    return worst(paths.values[-1, :-1], whole.values[-1])


def ablated_cells(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    grid = ablation(model, ids, method="zero")["loss"]
    edit = [[edits.zero(f"blocks.{n}.attn.z", heads=[head]) for head in range(HEADS)] for n in range(LAYERS)]
    edit = [[*row, edits.zero(f"blocks.{n}.mlp_out")] for n, row in enumerate(edit)]
    losses = [[cross_entropy(model.run(ids, edits=one).logits, ids) for one in row] for row in edit]
    return worst(grid.values, np.array(losses) - cross_entropy(model.run(ids).logits, ids))


def cross_entropy(logits: Tensor, ids: Tensor) -> float:
    return float(F.cross_entropy(logits[0, :-1].double(), ids[0, 1:]))


def mean_loss(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    losses = token_losses(model, ids)["loss"].values
    return worst(np.nanmean(losses), cross_entropy(model.run(ids).logits, ids))


def states(model: OlmoForCausalLM, ids: Tensor, layer: int) -> Tensor:
    """The residual stream after a layer: sample d_model, float64."""
    return model.run(ids, capture=f"blocks.{layer}.resid_post")[f"blocks.{layer}.resid_post"].double().flatten(0, 1)


def norms(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    return worst(residual_norms(model, ids)["norm"].values[-1], states(model, ids, LAYERS - 1).norm(dim=-1))


def rank_by_svd(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    singular = torch.linalg.svdvals(states(model, torch.cat([ids, other]), 2))
    rank = torch.special.entr(singular / singular.sum()).sum().exp()
    return worst(effective_rank(model, torch.cat([ids, other])).values[0, 3], rank)


def variance_of_points(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    largest = torch.linalg.eigvalsh(states(model, ids, 2).T.cov()).flip(0)[:2]
    return worst(np.cov(hidden_state_pca(model, ids, 2).values.T), torch.diag(largest))


def self_similarity(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    return worst(np.diag(representation_similarity(model, torch.cat([ids, other])).values), np.ones(LAYERS + 1))


def completeness(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    scores = token_saliency(model, ids, TOKEN, OTHER, tolerance=0.0)["integrated_gradients"]
    return worst(scores.values.sum(dtype=np.float64), scores.total)


def completeness_where_nothing_clips(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    config = type(model.config).from_dict(model.config.to_dict() | {"clip_qkv": None})
    return completeness(random_model(config), ids, other)


def last_tokens_read_off(model: OlmoForCausalLM, ids: Tensor, other: Tensor) -> float:
    texts = torch.randint(1, 3, (40, 6), generator=torch.Generator().manual_seed(2))
    return 1 - float(linear_probe(model, texts, texts[:, -1].tolist()).values[0, 0])


INVARIANTS: dict[str, Invariant] = {
    "logit_lens: the last row is the model": last_lens_row,
    "attention_maps: rows sum to 1": rows_of_maps,
    "head_atlas: streamed statistics are those of whole patterns": streamed_statistics,
    "direct_logit_attribution: parts sum to the logit difference": sum_of_parts,
    "head_sources: a head's sources sum to its part": sum_of_sources,
    "activation_patching: cells are whole forward passes": patched_cells,
    "attribution_patching: positions and heads sum to the same": sums_of_attributions,
    "path_patching: from the last layer it is activation patching": paths_from_the_last_layer,
    "ablation: cells are whole forward passes": ablated_cells,
    "residual_norms: of the captured residual stream": norms,
    "effective_rank: of its singular values": rank_by_svd,
    "hidden_state_pca: variances are the covariance's eigenvalues": variance_of_points,
    "representation_similarity: of a layer with itself, 1": self_similarity,
    "token_saliency: integrated gradients sum to the difference": completeness,
    "the same where `clip_qkv` makes no gradient jump": completeness_where_nothing_clips,
    "linear_probe: the last token is read off its embedding": last_tokens_read_off,
    "token_losses: their mean is the cross-entropy": mean_loss,
}


def table() -> str:
    """The errors in Markdown, a column a family."""
    ids, other = torch.randint(1, 211, (2, 1, LENGTH), generator=torch.Generator().manual_seed(1))
    models = [random_model(config) for config in CONFIGS.values()]
    lines = [f"| error | {' | '.join(CONFIGS)} |", "|---" * (len(CONFIGS) + 1) + "|"]
    for name, invariant in INVARIANTS.items():
        lines.append(f"| {name} | {' | '.join(f'{invariant(model, ids, other):.1e}' for model in models)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
