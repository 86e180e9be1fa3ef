"""Metrics of hidden states: their norm, their rank, and what a probe reads from them."""

from collections.abc import Sequence

from hooks import OlmoForCausalLM
from workbench.analyses.effective_rank import effective_rank as rank_of
from workbench.analyses.linear_probe import probe_accuracies
from workbench.analyses.residual_norms import mean_norms
from workbench.analyses.support.cost import Work, planned, work_of
from workbench.analyses.support.labels import labels_of
from workbench.analyses.support.text_states import Position
from workbench.analyses.trajectory import Metric
from workbench.metrics.text_lengths import long_enough
from workbench.results import Curves
from workbench.texts import TextsLike, as_texts


def residual_norms(tokens: TextsLike) -> Metric:
    """The mean norm of the residual stream after each layer, without the first token of each text (often a sink)."""
    note = "Mean ‖x‖ after each layer, without the first token of each text."
    return Metric(
        "norm of the residual stream", mean_norms, {"tokens": long_enough(tokens, 2)}, ordered=True, note=note
    )


def effective_rank(tokens: TextsLike) -> Metric:
    """RankMe of the hidden states of each layer (Garrido et al. 2023; its phases in OLMo: arXiv 2509.23024)."""
    note = "Number of directions that the tokens' hidden states use after each layer (RankMe)."
    return Metric("effective rank", _rank, {"tokens": long_enough(tokens)}, unit="directions", ordered=True, note=note)


def probe_accuracy(
    tokens: TextsLike,
    labels: Sequence[object] | None = None,
    *,
    shuffled: bool = False,
    position: Position = -1,
    groups: Sequence[object] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Metric:
    """Accuracy of a linear probe for the label of a text, after each layer: the held-out texts of `linear_probe`, or
    with `shuffled` its control.

    `trajectory(series, probe_accuracy(texts)).grid("layer")` is a heat map of layer × step.
    """
    arguments = {
        "tokens": tokens,
        "labels": labels_of(as_texts(tokens), labels),
        "shuffled": shuffled,
        "position": position,
        "groups": None if groups is None else [str(group) for group in groups],
        "folds": folds,
        "seed": seed,
    }
    note = "Share of texts whose label a linear classifier reads after each layer, trained on other texts."
    name = "accuracy of a probe" + (" for shuffled labels" if shuffled else "")
    return Metric(name, probe_accuracies, arguments, ordered=True, note=note)


def _rank(model: OlmoForCausalLM, tokens: TextsLike) -> Curves:
    return rank_of(model, tokens)


@work_of(_rank)
def _work_of_rank(model: OlmoForCausalLM, tokens: TextsLike) -> Work:
    return planned(rank_of, model, tokens)
