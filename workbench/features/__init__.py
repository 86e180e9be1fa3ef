"""Dictionaries of features: sparse autoencoders, transcoders, cross-layer transcoders and crosscoders.

from workbench import features
sae = features.load("tiny-olmo@step6000/blocks.2.resid_post")
firing = sae.encode(run["blocks.2.resid_post"])              # the active features
model.run(ids, edits=[features.steer(sae, 417, 8.0)])
"""

from workbench.features.attribution_graph import attribution_graph, check_nodes
from workbench.features.births import FeatureBirths, births
from workbench.features.births_on_texts import MeasuredBirths, births_on_texts
from workbench.features.card import FeatureCard, card, nearest
from workbench.features.circuit_tracer import write_circuit_tracer
from workbench.features.compare_firing import compare_firing
from workbench.features.compare_sources import compare_sources
from workbench.features.cross_layer import CrossLayerTranscoder
from workbench.features.dictionary import Dictionary
from workbench.features.editing import replace, scale, set_to, steer, switch_off, switch_off_in
from workbench.features.effects_along_run import effects_along_run
from workbench.features.explain_token import explain_token
from workbench.features.feature_table import feature_table, logit_effects
from workbench.features.files import embedded, load, load_cross_layer, save, save_cross_layer
from workbench.features.firing import Firing, Gate
from workbench.features.graph import AttributionGraph
from workbench.features.group_need import group_need
from workbench.features.names import name_feature, names_of
from workbench.features.qk_attribution import QKAttribution, qk_attribution
from workbench.features.quality import Quality, quality
from workbench.features.scan import FeatureScan, of
from workbench.features.sources import Stored, Streamed
from workbench.features.sparse_probing import SparseProbing, sparse_probing
from workbench.features.token_losses_without import token_losses_without
from workbench.features.training import TrainingSettings, train

__all__ = [
    "AttributionGraph",
    "CrossLayerTranscoder",
    "Dictionary",
    "FeatureBirths",
    "FeatureCard",
    "FeatureScan",
    "Firing",
    "Gate",
    "MeasuredBirths",
    "QKAttribution",
    "Quality",
    "SparseProbing",
    "Stored",
    "Streamed",
    "TrainingSettings",
    "attribution_graph",
    "births",
    "births_on_texts",
    "card",
    "check_nodes",
    "compare_firing",
    "compare_sources",
    "effects_along_run",
    "embedded",
    "explain_token",
    "feature_table",
    "group_need",
    "load",
    "load_cross_layer",
    "logit_effects",
    "name_feature",
    "names_of",
    "nearest",
    "of",
    "qk_attribution",
    "quality",
    "replace",
    "save",
    "save_cross_layer",
    "scale",
    "set_to",
    "sparse_probing",
    "steer",
    "switch_off",
    "switch_off_in",
    "token_losses_without",
    "train",
    "write_circuit_tracer",
]
