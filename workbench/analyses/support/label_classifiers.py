"""Linear classifiers of labels, tested on texts that they were not trained on.

scikit-learn is imported in the functions that use it: it would delay the start of the page by 0.3 s.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import ThreadpoolController

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Split = tuple[np.ndarray, np.ndarray]
"""The numbers of the texts to train on, and of those to test on."""


def checked_labels(
    labels: tuple[str, ...], groups: Sequence[object] | None, folds: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The label and the group of each text, after a check that each label has enough texts or groups for the folds."""
    if folds < 2:
        raise WorkbenchError(f"folds is {folds}; a probe needs at least 2: one to train on, one to test on")
    if groups is not None and len(groups) != len(labels):
        raise WorkbenchError(f"there are {len(labels)} texts and {len(groups)} groups; give one for each text")
    wanted, apart = np.array(labels), None if groups is None else np.array([str(group) for group in groups])
    names = np.unique(wanted)
    if len(names) < 2:
        raise WorkbenchError(f"all {len(labels)} texts have the label {str(names[0])!r}; a probe needs two labels")
    counts = [(wanted == name).sum() if apart is None else len(np.unique(apart[wanted == name])) for name in names]
    fewest = int(np.argmin(counts))
    if counts[fewest] < folds:
        unit = ("text" if apart is None else "group") + ("" if counts[fewest] == 1 else "s")
        raise WorkbenchError(
            f"label {str(names[fewest])!r} has {counts[fewest]} {unit}; with {folds} folds each label needs at least "
            f"{folds}: give more texts, or fewer folds (at least 2)"
        )
    return wanted, apart


def shuffled_labels(labels: np.ndarray, seed: int) -> np.ndarray:
    """The same labels, randomly assigned to the texts: a control, because they say nothing of their texts."""
    return np.random.default_rng(seed).permutation(labels)


def splits_of(target: np.ndarray, groups: np.ndarray | None, folds: int, seed: int) -> list[Split]:
    """The texts to train on and to test on, for each fold.

    Errors: WorkbenchError if groups leave only one label to train on.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splits = list(kind(folds, shuffle=True, random_state=seed).split(target, target, groups))
    if min(len(set(target[train])) for train, _ in splits) < 2:
        raise WorkbenchError("the groups leave texts of one label only to train on; give more groups of each label")
    return splits


def fitted(states: np.ndarray, target: np.ndarray) -> "Pipeline":
    """A logistic regression on standardised states: text d_model."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return trained(make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)), states, target)


def trained(classifier: "Pipeline", states: np.ndarray, target: np.ndarray) -> "Pipeline":
    """A classifier after training. One thread: several take longer for matrices of this size."""
    from sklearn.exceptions import ConvergenceWarning

    with _libraries().limit(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe near its optimum is as good as one at it
        return classifier.fit(states, target)


@cache
def _libraries() -> ThreadpoolController:
    """The thread pools of the libraries that compute the classifiers; looking for them takes a while."""
    return ThreadpoolController()
