"""The accuracy with which a linear classifier reads the label of a text from each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from hooks import Capture, OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, work_of
from workbench.analyses.support.direction import Direction
from workbench.analyses.support.label_classifiers import Split, checked_labels, fitted, shuffled_labels, splits_of
from workbench.analyses.support.labels import labels_of, two_groups
from workbench.analyses.support.residual_stream import residual_names, residual_site, residual_sites
from workbench.analyses.support.text_states import Position, states_work, text_states
from workbench.progress import Progress, part, steps
from workbench.results import Curves, Grid, Scores
from workbench.texts import TextsLike

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

LINES = ("held-out texts", "shuffled labels", "most frequent label")


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear probe of one layer. Each text is predicted by a classifier that was trained without it.

    Attributes:
        site: the site whose states the classifier reads.
        accuracy: the share of texts whose label is predicted correctly, 0 to 1.
        error: the standard error of the accuracy over texts.
        confusion: Grid of true label × predicted label: the share of the texts of a label, with their number in the
            cell; each row sums to 1.
        texts: a table with a row for each text: its number (`text`), `label`, `predicted`, `probability` (of its own
            label) and `wrong`.
        states: the states, text d_model.
        classifier: a classifier trained on all states.
    """

    site: str
    accuracy: float
    error: float
    confusion: Grid
    texts: pd.DataFrame
    states: np.ndarray
    classifier: "Pipeline"

    @property
    def wrong(self) -> list[int]:
        """The numbers of the texts whose label is predicted wrongly."""
        return self.texts["text"][self.texts["wrong"]].tolist()

    def direction(self, toward: object, against: object | None = None) -> Direction:
        """The direction in which the classifier reads one label rather than another, as a steering direction.

        It is the gradient of log p(toward) − log p(against) of the classifier that is trained on all texts. Its norm is
        the distance between the mean states of the two groups along it: strength 1 moves the mean state of `against` to
        where the classifier reads it as that of `toward`. Without `against`, the gradient is that of `toward` against
        the mean of all other labels, and the distance is that to the mean state of all other texts.

        Errors: WorkbenchError for a label that no text has.
        """
        labels = self.texts["label"].tolist()
        toward, against = str(toward), None if against is None else str(against)
        ours, theirs = two_groups(labels, toward, against)
        weights = _odds_gradients(self.classifier)  # label d_model
        others = [name for name in weights if name != toward and against in (None, name)]
        gradient = weights[toward] - np.mean([weights[name] for name in others], axis=0)
        unit = gradient / np.linalg.norm(gradient)
        means = [self.states[group.numpy()].mean(0) for group in (ours, theirs)]
        vector = torch.from_numpy(unit * float((means[0] - means[1]) @ unit))
        other = "all other labels" if against is None else repr(against)
        made = f"probe of {self.site}: {toward!r} against {other}"
        return Direction(self.site, vector, made, {"texts": len(labels), "accuracy": self.accuracy})


def linear_probe(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    labels: Sequence[object] | None = None,
    *,
    position: Position = -1,
    groups: Sequence[object] | None = None,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curves:
    """Accuracy, for each layer, of a linear classifier that predicts a text's label from the residual stream.

    `labels` holds one label for each text; if not given, the labels of the `Texts` are used. `position` is the token
    whose state is read: one number for all texts (−1 is the last token), one for each text, or "mean" for the mean over
    tokens. The classifier is a logistic regression on standardised states (scikit-learn, default penalty). The texts
    are split into `folds` folds with about equal shares of the labels; the label of each text is predicted by a
    classifier that is trained on the other folds. `groups` holds a name for each text (a template, a noun, a source):
    texts of one group are in one fold, so that no text is predicted by a classifier trained on an almost equal text.

    Returns Curves over layers (`embed` and every layer), accuracy from 0 to 1, with standard errors over texts for the
    first two lines:

    - `held-out texts`: the share of texts whose label is predicted correctly (Alain and Bengio 2016, "Understanding
      intermediate layers using linear classifier probes").
    - `shuffled labels`: a control, the same with randomly permuted labels, which are unrelated to the texts. The
      difference between the two lines is the probe's selectivity (Hewitt and Liang 2019, "Designing and interpreting
      probes with control tasks", with labels permuted over texts instead of words).
    - `most frequent label`: the accuracy of always guessing the most frequent label.

    `probe_layer` returns the predictions for each text, the confusion of labels and a direction for one layer.

    Errors: WorkbenchError if labels are missing or of another number than the texts, there are fewer than two different
    labels, a label has fewer texts (or groups) than there are folds, or a position is outside a text.
    """
    states, wanted, apart = _read_states(model, tokens, labels, position, groups, folds, part(progress, 0.0, 0.3))
    right = np.stack(  # line layer text
        [
            _right(states, wanted, apart, folds, seed, part(progress, 0.3, 0.65)),
            _right(states, shuffled_labels(wanted, seed), apart, folds, seed, part(progress, 0.65, 1.0)),
        ]
    )
    _, counts = np.unique(wanted, return_counts=True)
    constant = np.full(len(states), counts.max() / len(wanted))
    names = residual_names(model)
    return Curves(
        np.stack([*right.mean(-1), constant]),
        LINES,
        range(len(names)),
        x_name="layer",
        x_labels=names,
        errors=np.stack([*_error(right), np.full(len(states), np.nan)]),
        texts=len(wanted),
        title=f"Linear probe: {len(wanted)} texts, {len(counts)} labels",
        value_name="accuracy",
    )


def probe_accuracies(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    labels: Sequence[object] | None = None,
    *,
    shuffled: bool = False,
    position: Position = -1,
    groups: Sequence[object] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Scores:
    """The accuracy at each layer, as Scores: one line of `linear_probe`, for the labels or for shuffled labels."""
    states, wanted, apart = _read_states(model, tokens, labels, position, groups, folds, None)
    target = shuffled_labels(wanted, seed) if shuffled else wanted
    right = _right(states, target, apart, folds, seed, None)  # layer text
    return Scores(right.mean(-1), residual_names(model), errors=_error(right), texts=len(wanted))


def probe_layer(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    labels: Sequence[object] | None = None,
    *,
    layer: int | str,
    position: Position = -1,
    groups: Sequence[object] | None = None,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Probe:
    """The `Probe` of one layer: its accuracy, the confusion of labels, and the prediction for each text.

    The arguments and the accuracy are those of `linear_probe`. `layer` is the number of a block, whose output is read,
    or "embed".

    Errors: those of `linear_probe`, and WorkbenchError for a layer that the model does not have.
    """
    texts, site = texts_for(model, tokens), residual_site(model, layer)
    wanted, apart = checked_labels(labels_of(texts, labels), groups, folds)
    states = text_states(model, texts, [Capture(site)], position, "linear probe", progress)[0].numpy()
    predicted, probability = _held_out_labels(states, wanted, splits_of(wanted, apart, folds, seed))
    right = predicted == wanted
    table = pd.DataFrame({"text": range(len(wanted)), "label": wanted, "predicted": predicted})
    table["probability"], table["wrong"] = probability, ~right
    names = np.unique(wanted)
    counts = np.array([(predicted[wanted == name][:, None] == names).sum(0) for name in names])  # label label
    totals = counts.sum(1, keepdims=True)
    confusion = Grid(
        counts / totals,
        names,
        names,
        row_name="label",
        column_name="predicted",
        text=[[f"{n} of {total}" for n in row] for row, (total,) in zip(counts, totals, strict=True)],
        title=f"Confusion of labels at {site}",
        value_name="share of the label's texts",
    )
    return Probe(site, float(right.mean()), float(_error(right)), confusion, table, states, fitted(states, wanted))


@work_of(linear_probe)
@work_of(probe_accuracies)
def _work(model: OlmoForCausalLM, tokens: TextsLike, *_: object, **__: object) -> Work:
    captures = [Capture(site) for site in residual_sites(model)]  # without the training of the classifiers
    return states_work(model, texts_for(model.config, tokens), captures, "linear probe")


@work_of(probe_layer)
def _work_of_layer(model: OlmoForCausalLM, tokens: TextsLike, *_: object, layer: int | str, **__: object) -> Work:
    return states_work(model, texts_for(model.config, tokens), [Capture(residual_site(model, layer))], "linear probe")


def _read_states(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    labels: Sequence[object] | None,
    position: Position,
    groups: Sequence[object] | None,
    folds: int,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The states (layer text d_model), labels and groups of the texts, checked."""
    texts = texts_for(model, tokens)
    wanted, apart = checked_labels(labels_of(texts, labels), groups, folds)
    captures = [Capture(site) for site in residual_sites(model)]
    return text_states(model, texts, captures, position, "linear probe", progress).numpy(), wanted, apart


def _right(
    states: np.ndarray,
    target: np.ndarray,
    groups: np.ndarray | None,
    folds: int,
    seed: int,
    progress: Progress | None,
) -> np.ndarray:
    """Whether the label of each text is predicted correctly, for each layer: layer text."""
    splits, found = splits_of(target, groups, folds, seed), []
    for layer in steps(range(len(states)), progress, "training probes"):
        found.append(_held_out_labels(states[layer], target, splits)[0] == target)
    return np.stack(found)


def _error(right: np.ndarray) -> np.ndarray:
    """The standard error of accuracies over texts: … text -> …"""
    return right.std(-1, ddof=1) / np.sqrt(right.shape[-1])


def _held_out_labels(states: np.ndarray, target: np.ndarray, splits: list[Split]) -> tuple[np.ndarray, np.ndarray]:
    """The predicted label of each text, and the probability of its own label; each from a classifier trained without
    the text's fold. states: text d_model.
    """
    predicted, probability = np.empty_like(target), np.zeros(len(target))
    for train, test in splits:
        probe = fitted(states[train], target[train])
        chances = probe.predict_proba(states[test])  # text label
        predicted[test] = probe.classes_[chances.argmax(1)]
        for column, name in enumerate(probe.classes_):
            own = target[test] == name
            probability[test[own]] = chances[own, column]
    return predicted, probability


def misread(probe: Probe) -> pd.DataFrame:
    """The rows of `probe.texts` whose label is predicted wrongly: `text` (its number), `label`, `predicted`, and
    `probability` (of its own label).
    """
    return probe.texts[probe.texts["wrong"]].drop(columns="wrong")


def _odds_gradients(probe: "Pipeline") -> dict[str, np.ndarray]:
    """The gradient of each label's log-odds with respect to the states, by label: d_model each."""
    scaler, regression = probe[0], probe[-1]
    coefficients = regression.coef_
    if len(regression.classes_) == 2:  # only the second label has a row
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
    return {str(name): row / scaler.scale_ for name, row in zip(regression.classes_, coefficients, strict=True)}
