"""The layers from which a label of a text can be read by a linear classifier."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.memory import tokens_at_a_time
from workbench.analyses.support.residual_stream import residual_names, residuals, residuals_bytes
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Curves
from workbench.texts import Texts, TextsLike

POOLS = ("last", "mean")
LINES = ("held-out texts", "shuffled labels", "most frequent label")


def linear_probe(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    labels: Sequence[object] | None = None,
    *,
    pool: str = "last",
    held_out: float = 0.25,
    splits: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curves:
    """Accuracy, for each layer, of a linear classifier that predicts a text's label from the residual stream.

    `labels` holds one label for each text; if not given, the labels of the `Texts` are used. `pool` decides the input
    of the classifier: the hidden state at the `last` token, or the `mean` over tokens. The classifier is a logistic
    regression on standardised states (scikit-learn, default penalty). In each of `splits` stratified splits it is
    trained on one part of the texts and tested on the rest, the share `held_out`.

    Returns Curves over layers (`embed` and every layer), accuracy from 0 to 1:

    - `held-out texts`: the mean over the splits; the errors are the standard errors over the splits.
    - `shuffled labels`: a control, the same with randomly permuted labels (Hewitt and Liang 2019). It shows how much
      the classifier can memorise.
    - `most frequent label`: the accuracy of always guessing the most frequent label.

    Errors: WorkbenchError if labels are missing or of another number than the texts, there are fewer than two different
    labels, or too few texts to split.
    """
    texts = texts_for(model, tokens)
    classes, wanted = _classes(_labels(texts, labels), splits, held_out)
    states = _pooled(model, texts, pool, part(progress, 0.0, 0.3))  # layer text d_model
    splitter = StratifiedShuffleSplit(splits, test_size=held_out, random_state=seed)
    targets = (wanted, np.random.default_rng(seed).permutation(wanted))
    accuracies = np.empty((len(targets), len(states), splits))
    for layer in steps(range(len(states)), part(progress, 0.3, 1.0), "training probes"):
        for line, target in enumerate(targets):
            for split, (train, test) in enumerate(splitter.split(states[layer], target)):
                accuracies[line, layer, split] = _accuracy(states[layer], target, train, test)
    constant = np.full(len(states), max(np.mean(wanted == c) for c in range(len(classes))))
    names = residual_names(model)
    return Curves(
        np.stack([*accuracies.mean(-1), constant]),
        LINES,
        range(len(names)),
        x_name="layer",
        x_labels=names,
        errors=np.stack([*accuracies.std(-1, ddof=1) / np.sqrt(splits), np.zeros(len(states))]),
        title=f"Linear probe: {len(wanted)} texts, {len(classes)} labels",
        value_name="accuracy",
    )


def _classes(labels: Sequence[object], splits: int, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """The different labels, and for each text the index of its label. Checks that there are enough texts of each label
    to split.
    """
    if splits < 2:
        raise WorkbenchError(f"splits is {splits}; a standard error needs at least 2")
    if not 0 < held_out < 1:
        raise WorkbenchError(f"held_out is {held_out}; it should be between 0 and 1: the share of texts to test on")
    classes, wanted, counts = np.unique([str(label) for label in labels], return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise WorkbenchError(
            f"all {len(labels)} texts have the label {str(classes[0])!r}; a probe needs at least two labels"
        )
    if counts.min() < 2:
        raise WorkbenchError(
            f"label {str(classes[counts.argmin()])!r} has {counts.min()} text; each label needs at least 2"
        )
    tested = int(np.ceil(held_out * len(labels)))
    if min(tested, len(labels) - tested) < len(classes):
        raise WorkbenchError(
            f"{len(labels)} texts are too few to train and test a probe of {len(classes)} labels; give more"
        )
    return classes, wanted


def _labels(texts: Texts, labels: Sequence[object] | None) -> Sequence[object]:
    """One label for each text. Errors: WorkbenchError if there are none, or a different number of them."""
    found = texts.labels if labels is None else labels
    if found is None:
        raise WorkbenchError("the texts have no labels; give labels=, one for each text, or Texts with labels")
    if len(found) != len(texts):
        raise WorkbenchError(f"there are {len(texts)} texts and {len(found)} labels; give one label for each text")
    return found


def _pooled(model: OlmoForCausalLM, texts: Texts, pool: str, progress: Progress | None) -> np.ndarray:
    """The input of the classifier for each text: layer text d_model, float32."""
    if pool not in POOLS:
        raise WorkbenchError(f"pool is {pool!r}; choose 'last' or 'mean'")
    layers, width = model.config.num_hidden_layers + 1, model.config.hidden_size
    pooled = torch.empty(layers, len(texts), width)
    per_token = residuals_bytes(model) + 4 * layers * width
    size = tokens_at_a_time(model, "linear probe", per_token, texts.longest, fixed=3 * pooled.nbytes)
    for rows, ids in steps(texts.batches(size), progress, "reading hidden states"):
        resid = residuals(model, ids)  # layer batch pos d_model
        pooled[:, rows] = (resid[:, :, -1] if pool == "last" else resid.float().mean(2)).float().cpu()
    return pooled.numpy()


def _accuracy(states: np.ndarray, target: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """The share of the held-out texts whose label is predicted correctly."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe near its optimum is as good as one at it
        probe.fit(states[train], target[train])
    return float(probe.score(states[test], target[test]))
