"""`sparse_probing`: how well a label is read from the best few features of a dictionary.

scikit-learn is imported in the functions that use it: it would delay the start of the page by 0.3 s.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.label_classifiers import Split, checked_labels, shuffled_labels, splits_of, trained
from workbench.analyses.support.labels import labels_of
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.text_states import Position, text_positions
from workbench.analyses.support.undefined import refuse_undefined
from workbench.errors import WorkbenchError
from workbench.features.dictionary import Dictionary
from workbench.features.reading import Models, by_source, read_by
from workbench.progress import Progress, part, steps
from workbench.results import Curves
from workbench.texts import Texts, TextsLike

WHAT = "sparse probing"
KS = (1, 2, 5)
LINES = ("features", "coordinates", "principal directions", "whole state", "features, shuffled labels")


@dataclass(frozen=True, eq=False, repr=False)
class SparseProbing:
    """How well labels are read from a few features.

    Attributes:
        accuracy: lines over k, the number of features: the balanced accuracy on held-out texts, 0 to 1, where 0.5 is
            chance; with standard errors over texts.
        best: a row for each label and each of its features of the largest F, best first: `label`, `feature`, `F`, and
            `with`, `without`: the mean activation in texts that have the label and in those that have another one.
    """

    accuracy: Curves
    best: pd.DataFrame

    def __repr__(self) -> str:
        return f"<SparseProbing of {self.accuracy.texts} texts>"


def sparse_probing(
    dictionary: Dictionary,
    models: Models,
    tokens: TextsLike,
    labels: Sequence[object] | None = None,
    *,
    ks: Sequence[int] = KS,
    position: Position = -1,
    groups: Sequence[object] | None = None,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> SparseProbing:
    """How well a label of a text is read from the k best features, compared with k numbers of the state itself.

    Each label is told from all others by a logistic regression on the k features of the largest F, the ratio of the
    variance of the activations between the two groups to that within them. Features are chosen and classifiers trained
    on the texts of the other folds only. The balanced accuracy is the mean of the shares of texts with and without the
    label that are read correctly, then the mean over labels. (Gurnee et al. 2023, "Finding Neurons in a Haystack";
    Karvonen et al. 2025, "SAEBench", which chooses by the difference of means.)

    The lines of `accuracy`:

    - `features`: from the k best features.
    - `coordinates`: from the k best coordinates of the state that the dictionary reads, which are its neurons.
    - `principal directions`: from the k best of the state's principal directions.
    - `whole state`: from all coordinates, the same for each k.
    - `features, shuffled labels`: from the k best features for randomly permuted labels: a control.

    Args:
        dictionary: any of the three kinds. The state of a crosscoder is that of all its sources, side by side.
        models: the model; for a crosscoder all of its sources by id.
        tokens: the texts.
        labels: one for each text; those of the `Texts` if not given.
        ks: numbers of features.
        position: the token whose activations are read: a number for all texts (−1 is the last token), one for each, or
            "mean" for the mean over the tokens of a text.
        groups: a name for each text; texts of one group are in one fold, as in `linear_probe`.
        folds: of the cross-validation.
        seed: decides the folds and the shuffled labels.
        progress: called after each batch, and each line.

    Errors: those of `linear_probe`, and WorkbenchError for a k below 1 or above the number of features, of coordinates
    or of texts to train on, or models that do not fit.
    """
    named = by_source(dictionary, models)
    first = next(iter(named.values()))
    texts, dictionary = texts_for(first, tokens), dictionary.to(first.device)
    wanted, apart = checked_labels(labels_of(texts, labels), groups, folds)
    splits, mixed = splits_of(wanted, apart, folds, seed), shuffled_labels(wanted, seed)
    most = min(len(dictionary), len(dictionary.encoder), *(len(train) for train, _ in splits))
    if not ks or not all(1 <= k <= most for k in ks):
        raise WorkbenchError(
            f"k is {', '.join(map(str, ks)) or 'empty'}; give numbers from 1 to {most}, the fewest of the features, of "
            "the coordinates of the state and of the texts to train on"
        )
    state, active = text_activations(dictionary, named, texts, position, part(progress, 0.0, 0.5))
    kinds = {
        "features": partial(_score, active, wanted, splits),
        "coordinates": partial(_score, state, wanted, splits),
        "principal directions": partial(_score, state, wanted, splits, rotated=True),
        "whole state": partial(_score, state, wanted, splits),
        "features, shuffled labels": partial(_score, active, mixed, splits_of(mixed, apart, folds, seed)),
    }
    found = []
    for name in steps(LINES, part(progress, 0.5, 1.0), "training probes"):
        found.append([kinds[name](len(state[0]))] * len(ks) if name == "whole state" else [kinds[name](k) for k in ks])
    values = np.array(found)  # line k 2
    accuracy = Curves(
        values[..., 0],
        LINES,
        list(ks),
        x_name="features",
        errors=values[..., 1],
        texts=len(wanted),
        title=f"Sparse probing: {len(wanted)} texts, {len(np.unique(wanted))} labels",
        value_name="balanced accuracy",
    )
    return SparseProbing(accuracy, _best_features(active, wanted, max(ks)))


@torch.no_grad()
def text_activations(
    dictionary: Dictionary,
    models: Mapping[str, OlmoForCausalLM],
    texts: Texts,
    position: Position,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(the state that a dictionary reads, text d_read; the activations of its features, text feature) of each text, at
    a position or the mean over its tokens; float32.

    Errors: WorkbenchError for a position outside a text, or a state that is NaN or infinite.
    """
    places = text_positions(texts, position)
    state = torch.empty(len(texts), len(dictionary.encoder))
    active = torch.empty(len(texts), len(dictionary))
    per_token = sum(run_bytes(model, capture=[dictionary.reads]) for model in models.values()) + 12 * len(dictionary)
    size = tokens_at_a_time(next(iter(models.values())), WHAT, per_token, texts.longest)
    for rows, ids in steps(texts.batches(size), progress, "reading features"):
        x = read_by(dictionary, models, ids)
        if places is not None:
            x = x[torch.arange(len(rows)), places[rows]][:, None]
        fired = dictionary.encode(x).dense()  # batch pos feature
        state[rows], active[rows] = x.flatten(2).mean(1).cpu(), fired.mean(1).cpu()
    refuse_undefined(state, "hidden state", texts)
    return state.numpy(), active.numpy()


def _score(
    numbers: np.ndarray, labels: np.ndarray, splits: Sequence[Split], k: int, *, rotated: bool = False
) -> tuple[float, float]:
    """(the balanced accuracy of k numbers of each text, its standard error over texts). numbers: text feature."""
    names = np.unique(labels)
    names = names[1:] if len(names) == 2 else names  # to tell a from b is to tell b from a
    share, spread = np.zeros(len(names)), np.zeros(len(labels))
    for row, name in enumerate(names):
        target = labels == name
        right = _predicted_labels(numbers, target, splits, k, rotated) == target
        for group in (target, ~target):
            mean, weight = right[group].mean(), 0.5 / group.sum() / len(names)
            share[row] += 0.5 * mean
            spread[group] += weight * (right[group] - mean)
    return float(share.mean()), float(np.sqrt(np.square(spread).sum()))


def _predicted_labels(
    numbers: np.ndarray, target: np.ndarray, splits: Sequence[Split], k: int, rotated: bool
) -> np.ndarray:
    """The label of each text, boolean, as a classifier reads it that was trained without the text's fold."""
    from sklearn.decomposition import PCA
    from sklearn.feature_selection import SelectKBest
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = np.empty_like(target)
    for train, test in splits:
        classifier = make_pipeline(
            *([PCA(svd_solver="full")] if rotated else []),
            SelectKBest(_variance_ratio, k=k),
            StandardScaler(),
            LogisticRegression(max_iter=200, class_weight="balanced"),
        )
        found[test] = trained(classifier, numbers[train], target[train]).predict(numbers[test])
    return found


def _variance_ratio(numbers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """F of each column: infinite for one that is the same within both groups, NaN for one that is the same in all."""
    from sklearn.feature_selection import f_classif

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", UserWarning)  # about constant columns, as of features that are never active
        return f_classif(numbers.astype(np.float64), target)[0]


def _best_features(active: np.ndarray, labels: np.ndarray, k: int) -> pd.DataFrame:
    """The k features of the largest F for each label, over all texts."""
    rows = []
    for name in np.unique(labels):
        target = labels == name
        ratio = np.nan_to_num(_variance_ratio(active, target), nan=-1.0, posinf=np.inf)
        for feature in np.argsort(-ratio, kind="stable")[:k]:
            there, elsewhere = (float(active[group, feature].mean()) for group in (target, ~target))
            rows.append([str(name), int(feature), float(ratio[feature]), there, elsewhere])
    return pd.DataFrame(rows, columns=["label", "feature", "F", "with", "without"])
