"""Ready-made metrics for `trajectory`: functions that return a `Metric`, and their helpers."""

from workbench.analyses.support.mean_loss import mean_loss
from workbench.analyses.trajectory import Metric
from workbench.metrics.of_circuits import circuit_effect, edge_scores
from workbench.metrics.of_features import feature_density, feature_need
from workbench.metrics.of_heads import SCORES, composition, head_needed, head_scores
from workbench.metrics.of_states import effective_rank, probe_accuracy, residual_norms
from workbench.metrics.of_steering import steering_effect
from workbench.metrics.of_texts import continuation_log_prob, held_out_loss, kl_to_last, log_probs
from workbench.metrics.of_weights import weight_change
from workbench.metrics.reading import LEAST_EFFECT, circuit_shares, needed_from, strongest_lines
from workbench.metrics.with_changes import intervened

__all__ = [
    "LEAST_EFFECT",
    "SCORES",
    "Metric",
    "circuit_effect",
    "circuit_shares",
    "composition",
    "continuation_log_prob",
    "edge_scores",
    "effective_rank",
    "feature_density",
    "feature_need",
    "head_needed",
    "head_scores",
    "held_out_loss",
    "intervened",
    "kl_to_last",
    "log_probs",
    "mean_loss",
    "needed_from",
    "probe_accuracy",
    "residual_norms",
    "steering_effect",
    "strongest_lines",
    "weight_change",
]
