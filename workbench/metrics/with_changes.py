"""A metric of the model with changes made in it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hooks import OlmoForCausalLM
from workbench import features
from workbench.activations.shards import digest
from workbench.analyses.support.cost import Work, is_planned, planned, work_of
from workbench.analyses.support.named_values import Value
from workbench.analyses.trajectory import Metric
from workbench.errors import WorkbenchError
from workbench.interventions import Intervention, edits_of


def intervened(metric: Metric, changes: Sequence[Intervention]) -> Metric:
    """A metric of each checkpoint with the same changes made in it (see `workbench.interventions`).

    If the metric has a reference, such as the last checkpoint, the changes are made in the reference too.

        changes = interventions.read("L2H5 off")
        trajectory(series, metrics.intervened(metrics.held_out_loss(tokens), changes))

    Errors: WorkbenchError for a metric of weights, which no change of activations affects.
    """
    if metric.reads != "model":
        raise WorkbenchError(f"{metric.name} is computed from weights; changes of activations do not affect it")
    arguments: dict[str, Any] = {"metric": metric, "changes": tuple(changes)}
    if marks := _dictionaries_of(changes):  # so that a result is not kept for another dictionary of the same name
        arguments["dictionaries"] = marks
    return replace(
        metric,
        name=f"{metric.name} with {', '.join(map(str, changes))}",
        function=_with_changes,
        arguments=arguments,
        reference=None if metric.reference is None else _reference_with_changes,
    )


def _dictionaries_of(changes: Sequence[Intervention]) -> tuple[str, ...]:
    """Digests of the dictionaries whose features are changed."""
    found = [features.load(change.target.site) for change in changes if change.target.feature is not None]
    return tuple(
        digest({"encoder": one.encoder, "bias": one.encoder_bias, "decoder": one.decoder, "rest": one.decoder_bias})
        for one in found
    )


def _with_changes(
    model: OlmoForCausalLM,
    metric: Metric,
    changes: Sequence[Intervention],
    dictionaries: tuple[str, ...] = (),
    **reference: object,
) -> Value:
    with model.tapped(edits=edits_of(model, changes)):
        return metric.function(model, **metric.arguments, **reference)


@work_of(_with_changes)
def _work_with_changes(model: OlmoForCausalLM, metric: Metric, **_: object) -> Work:
    return planned(metric.function, model, **metric.arguments) if is_planned(metric.function) else Work(0)


def _reference_with_changes(
    model: OlmoForCausalLM, metric: Metric, changes: Sequence[Intervention], dictionaries: tuple[str, ...] = ()
) -> object:
    assert metric.reference is not None
    with model.tapped(edits=edits_of(model, changes)):
        return metric.reference(model, **metric.arguments)
