"""Families: features that are born at the same checkpoint and are active at the same tokens; and random groups that are
as large and as often active, to compare a family with."""

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from workbench.errors import WorkbenchError

LEAST_CORRELATION = 0.3
"""Two clusters are joined if the mean correlation of their features' activations is at least this."""
NEAREST = 10
"""The number of features that a random one is drawn from."""


def families_of(likeness: np.ndarray, born: np.ndarray, enough: np.ndarray) -> np.ndarray:
    """The number of the family of each feature, −1 for none: feature, int64. Families are numbered from the largest on.

    Args:
        likeness: the correlation of the activations of two features: feature feature.
        born: the step of birth, NaN for none; features of one family are born at the same step.
        enough: whether a feature is active at enough tokens to be in a family.
    """
    found = []
    for step in np.unique(born[np.isfinite(born)]):
        members = np.flatnonzero((born == step) & enough)
        if len(members) > 1:
            found += [members[cluster] for cluster in clusters(likeness[np.ix_(members, members)])]
    families = np.full(len(born), -1)
    for number, members in enumerate(sorted(found, key=lambda members: (-len(members), members[0]))):
        families[members] = number
    return families


def clusters(likeness: np.ndarray) -> list[np.ndarray]:
    """The clusters of two and more, of average linkage over 1 − likeness: the indices of each."""
    distance = np.clip(1 - likeness, 0, 2)
    np.fill_diagonal(distance, 0)
    labels = fcluster(linkage(squareform(distance, checks=False), "average"), 1 - LEAST_CORRELATION, "distance")
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return [group for group in groups if len(group) > 1]


def random_groups(counts: np.ndarray, group: Sequence[int], draws: int, seed: int) -> list[list[int]]:
    """Random groups of other features, as many as in a group and about as often active, to compare the group with.

    For each feature of the group, in a random order, one is drawn of the `NEAREST` features whose numbers of active
    tokens are nearest to its own. Those of the group and those drawn before are left out.

    Args:
        counts: the number of tokens at which each feature is active.
        group: the features to compare with.
        draws: the number of groups.
        seed: decides the draws.

    Errors: WorkbenchError if there are too few other features.
    """
    if 2 * len(group) > len(counts):
        raise WorkbenchError(
            f"the group has {len(group)} of {len(counts):,} features, so there is no other group of this size to "
            "compare it with; give a group of at most half of the features"
        )
    generator, found = np.random.default_rng(seed), []
    for _ in range(draws):
        taken: list[int] = []
        for feature in generator.permutation(sorted(group)):
            left = np.setdiff1d(np.arange(len(counts)), [*group, *taken])
            nearest = left[np.argsort(abs(counts[left] - counts[feature]), kind="stable")[:NEAREST]]
            taken.append(int(generator.choice(nearest)))
        found.append(taken)
    return found
