"""Metrics of a feature: how often it fires, and what the model loses without it."""

from typing import Any

from workbench import features
from workbench.analyses.trajectory import Metric
from workbench.errors import WorkbenchError
from workbench.features.along_run import density_at, need_at
from workbench.texts import TextsLike


def feature_density(dictionary: features.Dictionary, feature: int, texts: TextsLike | features.FeatureScan) -> Metric:
    """The share of tokens at which a feature of a dictionary fires.

    A sparse autoencoder or transcoder reads the activations of each checkpoint, though it was trained on those of one.
    For a crosscoder, give a scan of the texts, and the checkpoints that it reads:

        scan = features.of(models, texts, crosscoder)
        run = [one for one in series if one.id in crosscoder.sources]
        trajectory(run, metrics.feature_density(crosscoder, 469, scan))

    There the feature fires in a checkpoint where it is active and the checkpoint has at least half of its amount (see
    `features.MeasuredBirths`).
    """
    note = "Share of the tokens of the texts at which the feature fires."
    return Metric(f"density of feature {feature}", density_at, _of_feature(dictionary, feature, texts), note=note)


def feature_need(dictionary: features.Dictionary, feature: int, texts: TextsLike | features.FeatureScan) -> Metric:
    """The rise of the summed loss when a feature is taken away and the error kept, in nats for each token at which it
    is active. `texts` as for `feature_density`.
    """
    note = "Rise of the loss without the feature, summed over all later tokens, for each token at which it is active."
    arguments = _of_feature(dictionary, feature, texts)
    return Metric(f"need of feature {feature}", need_at, arguments, unit="nats", note=note)


def _of_feature(
    dictionary: features.Dictionary, feature: int, texts: TextsLike | features.FeatureScan
) -> dict[str, Any]:
    """The arguments of a measure of a feature, checked."""
    dictionary.check_feature(feature)
    if dictionary.sources and not isinstance(texts, features.FeatureScan):
        raise WorkbenchError("a crosscoder reads several models at once; give a scan of the texts, features.of(...)")
    return {"dictionary": dictionary, "feature": feature, "tokens": texts}
