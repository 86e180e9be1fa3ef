from . import checkpoints, corpus, features, interventions, metrics
from .activations import Activations, record
from .analyses.ablation import ablation
from .analyses.activation_patching import activation_patching
from .analyses.attention_difference import attention_difference
from .analyses.attention_maps import attention_maps
from .analyses.attribution_patching import attribution_patching
from .analyses.circuit import circuit
from .analyses.compare_attention import compare_attention
from .analyses.compare_behaviour import behaviour_summary, compare_behaviour
from .analyses.compare_weights import compare_weights, singular_directions
from .analyses.direct_logit_attribution import direct_logit_attribution, mean_attribution
from .analyses.directions import head_direction, label_direction, token_direction
from .analyses.effective_rank import effective_rank
from .analyses.faithfulness import faithfulness
from .analyses.head_atlas import head_atlas
from .analyses.head_circuits import copying_scores, head_circuits
from .analyses.head_composition import head_composition
from .analyses.hidden_state_pca import hidden_state_pca
from .analyses.linear_probe import linear_probe, probe_layer
from .analyses.logit_lens import logit_lens, mean_lens
from .analyses.noise_floor import noise_floor
from .analyses.patchscope import patchscope
from .analyses.path_patching import path_patching
from .analyses.representation_similarity import representation_similarity
from .analyses.residual_norms import residual_norms
from .analyses.steering import steering, steering_effect
from .analyses.support.by_label import by_label
from .analyses.support.direction import Direction
from .analyses.support.sample_text import SAMPLE_TEXT
from .analyses.support.translators import TunedLens
from .analyses.text_overview import mean_losses, text_overview
from .analyses.token_inspection import token_inspection
from .analyses.token_losses import token_losses
from .analyses.token_saliency import token_saliency
from .analyses.trajectory import trajectory
from .analyses.transplant import transplant, transplant_parts
from .analyses.tuned_lens import lens_divergence, train_tuned_lens, tuned_lens
from .chat import Conversation, Turn, turns_of
from .checkpoints import (
    Checkpoint,
    Series,
    Weights,
    check,
    estimate,
    finals,
    load,
    main_run,
    open_weights,
    series,
    tokenizer_of,
)
from .embedded_texts import text_sets
from .errors import WorkbenchError
from .generation import generate, steered_texts
from .plots import plot
from .result_files import load_result, save_results
from .results import Curves, Grid, Maps, Measures, Points, Scores
from .text_pairs import TextPairs
from .texts import Texts

__version__: str
__all__ = [
    "SAMPLE_TEXT",
    "Activations",
    "Checkpoint",
    "Conversation",
    "Curves",
    "Direction",
    "Grid",
    "Maps",
    "Measures",
    "Points",
    "Scores",
    "Series",
    "TextPairs",
    "Texts",
    "TunedLens",
    "Turn",
    "Weights",
    "WorkbenchError",
    "ablation",
    "activation_patching",
    "attention_difference",
    "attention_maps",
    "attribution_patching",
    "behaviour_summary",
    "by_label",
    "check",
    "checkpoints",
    "circuit",
    "compare_attention",
    "compare_behaviour",
    "compare_weights",
    "copying_scores",
    "corpus",
    "direct_logit_attribution",
    "effective_rank",
    "estimate",
    "faithfulness",
    "features",
    "finals",
    "generate",
    "head_atlas",
    "head_circuits",
    "head_composition",
    "head_direction",
    "hidden_state_pca",
    "interventions",
    "label_direction",
    "lens_divergence",
    "linear_probe",
    "load",
    "load_result",
    "logit_lens",
    "main_run",
    "mean_attribution",
    "mean_lens",
    "mean_losses",
    "metrics",
    "noise_floor",
    "open_weights",
    "patchscope",
    "path_patching",
    "plot",
    "probe_layer",
    "record",
    "representation_similarity",
    "residual_norms",
    "save_results",
    "series",
    "singular_directions",
    "steered_texts",
    "steering",
    "steering_effect",
    "text_overview",
    "text_sets",
    "token_direction",
    "token_inspection",
    "token_losses",
    "token_saliency",
    "tokenizer_of",
    "train_tuned_lens",
    "trajectory",
    "transplant",
    "transplant_parts",
    "tuned_lens",
    "turns_of",
]
