"""Every analysis as a function of two models and its texts, for tests of how analyses treat texts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from hooks import OlmoForCausalLM
from workbench import metrics
from workbench.analyses.ablation import ablation
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.attention_difference import attention_difference
from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.attribution_patching import attribution_patching
from workbench.analyses.circuit import Circuit, circuit
from workbench.analyses.compare_attention import compare_attention, match_heads
from workbench.analyses.compare_behaviour import compare_behaviour
from workbench.analyses.direct_logit_attribution import direct_logit_attribution, head_sources, mean_attribution
from workbench.analyses.directions import head_direction, label_direction
from workbench.analyses.effective_rank import effective_rank
from workbench.analyses.faithfulness import faithfulness
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.hidden_state_pca import hidden_state_pca
from workbench.analyses.linear_probe import linear_probe
from workbench.analyses.logit_lens import logit_lens, mean_lens
from workbench.analyses.patchscope import patchscope
from workbench.analyses.path_patching import path_patching
from workbench.analyses.representation_similarity import representation_similarity
from workbench.analyses.residual_norms import massive_activations, residual_norms
from workbench.analyses.steering import steering, steering_effect
from workbench.analyses.support.direction import Direction
from workbench.analyses.support.edge_graph import Graph
from workbench.analyses.support.part_swap import Part
from workbench.analyses.support.translators import TunedLens
from workbench.analyses.text_overview import text_overview
from workbench.analyses.token_inspection import token_inspection
from workbench.analyses.token_losses import token_losses
from workbench.analyses.token_saliency import token_saliency
from workbench.analyses.transplant import transplant, transplant_parts
from workbench.analyses.tuned_lens import lens_divergence, tuned_lens
from workbench.features import Dictionary, Gate, attribution_graph, qk_attribution
from workbench.texts import Texts, as_texts

Model = OlmoForCausalLM
OfTexts = Callable[[Model, Model, Any, Any], Any]


def no_lens(model: Model) -> TunedLens:
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    return TunedLens(torch.zeros(layers, width, width), torch.zeros(layers, width))


def unscored(model: Model) -> Circuit:
    """A circuit whose edges have scores in descending order."""
    names = Graph.of(model).edges()
    scores = torch.arange(len(names), 0, -1.0)
    known = {"effect": 1.0, "scale_error": 0.0, "measure": "logit", "replacement": "counterfactual"}
    return Circuit(scores, names, exact=scores, **known)


def ones(model: Model) -> Direction:
    return Direction("blocks.1.resid_post", torch.ones(model.config.hidden_size))


def transcoders(model: Model) -> dict[str, Dictionary]:
    """Random transcoders of the first two MLPs, with 3 of 12 features active at a token."""
    width = model.config.hidden_size
    parts = [torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((width, 12), (12, width))]
    whole = parts[0], torch.ones(12), parts[1], torch.zeros(width), Gate("topk", 3)
    return {at: Dictionary(*whole, f"{at}.mlp_in", f"{at}.mlp_out") for at in ("blocks.0", "blocks.1")}


SETS: dict[str, OfTexts] = {
    "ablation by zeros": lambda a, b, texts, others: ablation(a, texts, 5, method="zero"),
    "ablation by means": lambda a, b, texts, others: ablation(a, texts, 5, reference=others),
    "activation_patching": lambda a, b, texts, others: activation_patching(
        a, texts, others, 5, site="attn.z", by="head"
    ),
    "attribution_patching": lambda a, b, texts, others: attribution_patching(
        a, texts, others, 5, 6, site="attn.z", by="head"
    ),
    "circuit": lambda a, b, texts, others: circuit(a, texts, others, 5, 6, steps=2, exact=3, neurons=[(0, 1), (1, 3)]),
    "faithfulness": lambda a, b, texts, others: faithfulness(a, unscored(a), texts, others, 5, sizes=[9, 90], draws=2),
    "path_patching": lambda a, b, texts, others: path_patching(a, texts, others, 5, position=-2),
    "compare_attention": lambda a, b, texts, others: compare_attention(a, b, texts),
    "match_heads": lambda a, b, texts, others: match_heads(a, b, texts),
    "compare_behaviour": lambda a, b, texts, others: compare_behaviour(a, b, texts, window=5),
    "lens_divergence": lambda a, b, texts, others: lens_divergence(a, texts, no_lens(a)),
    "effective_rank": lambda a, b, texts, others: effective_rank(a, texts),
    "head_atlas": lambda a, b, texts, others: head_atlas(a, texts, samples=0),
    "hidden_state_pca": lambda a, b, texts, others: hidden_state_pca(a, texts, 1, skip=1),
    "head_direction": lambda a, b, texts, others: head_direction(a, texts, 1, 2, position="mean"),
    "label_direction": lambda a, b, texts, others: label_direction(
        a, texts, 0, layer=1, labels=[n % 2 for n in range(len(as_texts(texts)))]
    ),
    "linear_probe": lambda a, b, texts, others: linear_probe(a, texts, [0, 1] * 4, folds=2, position="mean"),
    "representation_similarity": lambda a, b, texts, others: representation_similarity(a, texts, skip=1),
    "representation_similarity of two": lambda a, b, texts, others: representation_similarity(a, texts, b),
    "residual_norms": lambda a, b, texts, others: residual_norms(a, texts),
    "steering": lambda a, b, texts, others: steering(
        a, texts, ones(a), [5], [6, 7], strengths=(0, 1), controls=1, unrelated=others
    ),
    "steering_effect": lambda a, b, texts, others: steering_effect(a, texts, ones(a), [5], controls=1),
    "mean_lens": lambda a, b, texts, others: mean_lens(a, texts),
    "mean_attribution": lambda a, b, texts, others: mean_attribution(a, texts, 5, 6),
    "text_overview": lambda a, b, texts, others: text_overview(a, texts),
    "token_losses": lambda a, b, texts, others: token_losses(a, texts),
    "transplant of weights": lambda a, b, texts, others: transplant(a, b, texts, Part("mlp", 1), target=5),
    "transplant of activations": lambda a, b, texts, others: transplant(
        a, b, texts, Part("head", 1, (2,)), using="activations"
    ),
    "transplant_parts": lambda a, b, texts, others: transplant_parts(
        a, b, texts, kinds=("head", "residual"), using="activations", target=5
    ),
}
"""Analyses of sets of texts, of any lengths."""

SINGLE: dict[str, OfTexts] = {
    "attention_difference": lambda a, b, text, other: attention_difference(a, b, text),
    "attribution_graph": lambda a, b, text, other: attribution_graph(a, text, transcoders(a), 5),
    "attention_maps": lambda a, b, text, other: attention_maps(a, text),
    "attention_maps by value norm": lambda a, b, text, other: attention_maps(a, text, weighting="value-norm"),
    "direct_logit_attribution": lambda a, b, text, other: direct_logit_attribution(a, text, 5),
    "head_sources": lambda a, b, text, other: head_sources(a, text, 5, heads=[(1, 2)]),
    "logit_lens": lambda a, b, text, other: logit_lens(a, text),
    "massive_activations": lambda a, b, text, other: massive_activations(a, text, at_least=0.1, ratio=1),
    "patchscope": lambda a, b, text, other: patchscope(a, text, other),
    "qk_attribution": lambda a, b, text, other: qk_attribution(a, text, 1, 2, transcoders(a)),
    "token_inspection": lambda a, b, text, other: token_inspection(a, text, 3),
    "token_saliency": lambda a, b, text, other: token_saliency(a, text, 5, points=64),
    "tuned_lens": lambda a, b, text, other: tuned_lens(a, text, no_lens(a)),
}
"""Analyses that draw one text."""

ONE_LENGTH: dict[str, OfTexts] = {
    "ablation by resampling": lambda a, b, texts, others: ablation(a, texts, method="resample", draws=2),
    "activation_patching by position": lambda a, b, texts, others: activation_patching(a, texts, others, 5),
}
"""Analyses whose texts have positions in common, and so one length."""


def along(make: Callable[[Any], metrics.Metric]) -> OfTexts:
    """A metric of `trajectory` as a function of one model."""

    def measured(a: Model, b: Model, texts: Any, others: Any) -> Any:
        metric = make(texts)
        given = {} if metric.reference is None else {"reference": metric.reference(b, **metric.arguments)}
        return metric.function(a, **metric.arguments, **given)

    return measured


METRICS: dict[str, OfTexts] = {
    "held_out_loss": along(metrics.held_out_loss),
    "head_scores": along(partial(metrics.head_scores, score="previous")),
    "residual_norms along a run": along(metrics.residual_norms),
    "effective_rank along a run": along(metrics.effective_rank),
    "kl_to_last": along(metrics.kl_to_last),
    "steering_effect along a run": along(
        lambda texts: metrics.steering_effect(
            Texts(as_texts(texts).ids, as_texts(texts).mask, tuple("ab" * 9)[: len(as_texts(texts))]),
            *("a", "b", ([5], [6])),
            layer=0,
            prompts=texts,
            controls=1,
        )
    ),
    "probe_accuracy": along(lambda texts: metrics.probe_accuracy(texts, [0, 1] * 4, folds=2, position="mean")),
    "head_needed": along(partial(metrics.head_needed, layer=1, head=2)),
}
"""Metrics of `trajectory` over sets of texts."""
