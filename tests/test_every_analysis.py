"""What holds for all analyses: progress rises to one, cancellation leaves no trace, invalid texts are refused."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from texts_of_analyses import no_lens, ones, transcoders, unscored
from torch import Tensor

import workbench.analyses
from hooks import OlmoForCausalLM
from workbench import checkpoints, metrics
from workbench.analyses.ablation import ablation
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.attention_difference import attention_difference
from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.attribution_patching import attribution_patching
from workbench.analyses.circuit import circuit
from workbench.analyses.compare_attention import compare_attention, match_heads
from workbench.analyses.compare_behaviour import compare_behaviour
from workbench.analyses.compare_weights import compare_weights, weight_table
from workbench.analyses.direct_logit_attribution import direct_logit_attribution, mean_attribution
from workbench.analyses.directions import head_direction, label_direction
from workbench.analyses.effective_rank import effective_rank
from workbench.analyses.faithfulness import faithfulness
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.head_circuits import copying_scores, head_circuits
from workbench.analyses.head_composition import head_composition
from workbench.analyses.hidden_state_pca import hidden_state_pca
from workbench.analyses.linear_probe import linear_probe, probe_layer
from workbench.analyses.logit_lens import logit_lens, mean_lens
from workbench.analyses.noise_floor import noise_floor
from workbench.analyses.patchscope import patchscope
from workbench.analyses.path_patching import path_patching
from workbench.analyses.representation_similarity import representation_similarity
from workbench.analyses.residual_norms import residual_norms
from workbench.analyses.steering import steering, steering_effect
from workbench.analyses.support.part_swap import Part
from workbench.analyses.text_overview import text_overview
from workbench.analyses.token_inspection import token_inspection
from workbench.analyses.token_losses import token_losses
from workbench.analyses.token_saliency import token_saliency
from workbench.analyses.trajectory import trajectory
from workbench.analyses.transplant import transplant, transplant_parts
from workbench.analyses.tuned_lens import lens_divergence, train_tuned_lens, tuned_lens
from workbench.errors import WorkbenchError
from workbench.features.attribution_graph import attribution_graph, check_nodes
from workbench.features.qk_attribution import qk_attribution
from workbench.progress import Progress


@dataclass(frozen=True)
class Given:
    """The inputs of the analyses: two models, the second also in a folder, and two batches of two texts."""

    model: OlmoForCausalLM
    other: OlmoForCausalLM
    folder: str
    ids: Tensor
    others: Tensor


Analysis = Callable[[Given, Progress], Any]
ANALYSES: dict[str, Analysis] = {
    "ablation": lambda g, p: ablation(g.model, g.ids, method="resample", draws=2, progress=p),
    "activation_patching": lambda g, p: activation_patching(g.model, g.ids, g.others, 5, progress=p),
    "attention_difference": lambda g, p: attention_difference(g.model, g.other, g.ids[0], progress=p),
    "attribution_graph": lambda g, p: attribution_graph(g.model, g.ids[0], transcoders(g.model), 5, progress=p),
    "attention_maps": lambda g, p: attention_maps(g.model, g.ids[0], progress=p),
    "attribution_patching": lambda g, p: attribution_patching(g.model, g.ids, g.others, 5, progress=p),
    "check_nodes": lambda g, p: check_nodes(
        g.model,
        g.ids[0],
        transcoders(g.model),
        attribution_graph(g.model, g.ids[0], transcoders(g.model), 5, checks=0),
        3,
        progress=p,
    ),
    "circuit": lambda g, p: circuit(g.model, g.ids, g.others, 5, steps=2, exact=3, neurons=2, progress=p),
    "compare_attention": lambda g, p: compare_attention(g.model, g.other, g.ids, progress=p),
    "compare_attention, one after the other": lambda g, p: compare_attention(g.model, g.folder, g.ids, progress=p),
    "match_heads": lambda g, p: match_heads(g.folder, g.model, g.ids, progress=p),
    "compare_behaviour": lambda g, p: compare_behaviour(g.model, g.other, g.ids, window=5, progress=p),
    "compare_behaviour, one after the other": lambda g, p: compare_behaviour(g.folder, g.folder, g.ids, progress=p),
    "compare_weights": lambda g, p: compare_weights(g.model, g.folder, progress=p),
    "compare_weights of heads": lambda g, p: compare_weights(g.model, g.folder, heads_of="o", progress=p),
    "weight_table": lambda g, p: weight_table(g.folder, g.model, progress=p),
    "mean_attribution": lambda g, p: mean_attribution(g.model, g.ids, progress=p),
    "mean_lens": lambda g, p: mean_lens(g.model, g.ids, progress=p),
    "text_overview": lambda g, p: text_overview(g.model, g.ids, progress=p),
    "direct_logit_attribution": lambda g, p: direct_logit_attribution(g.model, g.ids[0], 5, progress=p),
    "effective_rank": lambda g, p: effective_rank(g.model, g.ids, progress=p),
    "faithfulness": lambda g, p: faithfulness(
        g.model, unscored(g.model), g.ids, g.others, 5, sizes=[9], draws=2, progress=p
    ),
    "head_atlas": lambda g, p: head_atlas(g.model, g.ids, samples=2, progress=p),
    "copying_scores": lambda g, p: copying_scores(g.model, progress=p),
    "head_circuits": lambda g, p: head_circuits(g.model, 1, 2, 5, progress=p),
    "head_composition": lambda g, p: head_composition(g.model, progress=p),
    "hidden_state_pca": lambda g, p: hidden_state_pca(g.model, g.ids, 1, progress=p),
    "head_direction": lambda g, p: head_direction(g.model, g.ids, 1, 2, progress=p),
    "label_direction": lambda g, p: label_direction(g.model, g.ids, "a", layer=1, labels="ab", progress=p),
    "linear_probe": lambda g, p: linear_probe(g.model, torch.cat([g.ids] * 4), [0, 1] * 4, folds=2, progress=p),
    "patchscope": lambda g, p: patchscope(g.model, g.ids[0], g.others[0], progress=p),
    "probe_layer": lambda g, p: probe_layer(g.model, torch.cat([g.ids] * 4), [0, 1] * 4, layer=1, folds=2, progress=p),
    "logit_lens": lambda g, p: logit_lens(g.model, g.ids[0], progress=p),
    "noise_floor": lambda g, p: noise_floor(checkpoints.series(g.folder) * 2, compare_weights, progress=p),
    "path_patching": lambda g, p: path_patching(g.model, g.ids, g.others, 5, progress=p),
    "qk_attribution": lambda g, p: qk_attribution(g.model, g.ids[0], 1, 2, transcoders(g.model), progress=p),
    "representation_similarity": lambda g, p: representation_similarity(g.model, g.ids, progress=p),
    "representation_similarity of a folder": lambda g, p: representation_similarity(g.folder, g.ids, progress=p),
    "representation_similarity of two": lambda g, p: representation_similarity(g.model, g.ids, g.folder, progress=p),
    "residual_norms": lambda g, p: residual_norms(g.model, g.ids[0], progress=p),
    "steering": lambda g, p: steering(
        g.model, g.ids, ones(g.model), [5], [6], strengths=(0, 1), controls=1, progress=p
    ),
    "steering_effect": lambda g, p: steering_effect(g.model, g.ids, ones(g.model), [5], controls=1, progress=p),
    "token_inspection": lambda g, p: token_inspection(g.model, g.ids[0], 3, progress=p),
    "token_losses": lambda g, p: token_losses(g.model, g.ids, progress=p),
    "token_saliency": lambda g, p: token_saliency(g.model, g.ids[0], 5, points=64, progress=p),
    "trajectory": lambda g, p: trajectory(
        checkpoints.series(g.folder), metrics.held_out_loss(g.ids), cache=None, progress=p
    ),
    "tuned_lens": lambda g, p: tuned_lens(g.model, g.ids[0], no_lens(g.model), progress=p),
    "lens_divergence": lambda g, p: lens_divergence(g.model, g.ids, no_lens(g.model), progress=p),
    "train_tuned_lens": lambda g, p: train_tuned_lens(g.model, g.ids, progress=p),
    "transplant": lambda g, p: transplant(g.folder, g.model, g.ids, Part("mlp", 1), progress=p),
    "transplant_parts": lambda g, p: transplant_parts(g.folder, g.model, g.ids, using="activations", progress=p),
}


@pytest.fixture(scope="module")
def given(
    tmp_path_factory: pytest.TempPathFactory,
    make_model: Callable[..., OlmoForCausalLM],
    tokenizer: Any,
    tokens: Tensor,
    other_tokens: Tensor,
) -> Given:
    folder = tmp_path_factory.mktemp("series") / "step5"
    model, other = make_model("olmo2", seed=0), make_model("olmo2", seed=1)
    other.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Given(model, other, str(folder), tokens, other_tokens)


def test_every_analysis_is_among_these() -> None:
    there = {path.stem for path in Path(workbench.analyses.__file__).parent.glob("[a-z]*.py")} - {"contrast"}
    analyses = {name for name in there if hasattr(import_module(f"workbench.analyses.{name}"), name)}
    assert analyses <= {name.split(",")[0].split(" ")[0] for name in ANALYSES}


@pytest.mark.parametrize("name", ANALYSES)
def test_progress_rises_to_one_and_never_falls(given: Given, name: str) -> None:
    heard: list[float] = []
    ANALYSES[name](given, lambda fraction, text: heard.append(fraction))
    assert heard == sorted(heard)
    assert 0 <= heard[0] < heard[-1] == 1


@pytest.mark.parametrize("name", ANALYSES)
def test_cancelling_reaches_the_caller_and_leaves_the_model_as_it_was(given: Given, name: str) -> None:
    before, threads = given.model.run(given.ids).logits, torch.get_num_threads()
    for moment in (0.0, 0.5):

        def cancel(fraction: float, text: str, moment: float = moment) -> None:
            if fraction >= moment:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ANALYSES[name](given, cancel)
        assert torch.is_grad_enabled() and torch.get_num_threads() == threads and not given.model.training
        assert all(weight.grad is None and weight.requires_grad for weight in given.model.parameters())
        assert torch.equal(given.model.run(given.ids).logits, before)


WITHOUT_TEXT = ("compare_weights", "weight_table", "noise_floor", "copying_scores", "head_circuits", "head_composition")
NO_TEXT = {
    "no tokens": lambda ids: ids[:, :0],
    "fractions": lambda ids: ids + 0.5,
    "too many dimensions": lambda ids: ids[None, None],
    "an unknown id": lambda ids: torch.where(ids == ids[0, 1], 99, ids),
    "a negative id": lambda ids: torch.where(ids == ids[0, 1], -1, ids),
}


@pytest.mark.parametrize("what", NO_TEXT)
@pytest.mark.parametrize("name", [name for name in ANALYSES if not name.startswith(WITHOUT_TEXT)])
def test_what_is_no_text_is_refused_in_words(given: Given, name: str, what: str) -> None:
    wrong = replace(given, ids=NO_TEXT[what](given.ids))
    with pytest.raises((WorkbenchError, ValueError), match=r"token|text"):
        ANALYSES[name](wrong, lambda fraction, text: None)


@pytest.mark.parametrize("name", ANALYSES)
def test_models_in_half_precision_can_be_asked(given: Given, name: str) -> None:
    half = [copy.deepcopy(model).to(torch.bfloat16) for model in (given.model, given.other)]
    ANALYSES[name](replace(given, model=half[0], other=half[1]), lambda fraction, text: None)
