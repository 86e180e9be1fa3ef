"""`group_need`: how much the loss rises without a group of features at each checkpoint, beside random groups."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.errors import WorkbenchError
from workbench.features.births import births
from workbench.features.dictionary import Dictionary
from workbench.features.families import random_groups
from workbench.features.reading import Models, by_source, read_by
from workbench.features.token_losses_without import token_losses_without
from workbench.progress import Progress, part, steps
from workbench.results import Curves
from workbench.texts import Texts, TextsLike

EXTREMES = {"lowest": np.min, "highest": np.max}


def group_need(
    dictionary: Dictionary,
    models: Models,
    group: Sequence[int],
    texts: TextsLike,
    *,
    last: int | None = None,
    draws: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curves:
    """The rise of the loss along the run when a group of features is removed, with the error kept.

    Returns lines over the steps, in nats a token: the `loss` of the unchanged models, its rise without the group, and
    its lowest and highest rise without one of `draws` random groups of as many features that are about as often active
    at the tokens in question (`families.random_groups`). The group is needed where its rise is above the highest.

    Args:
        dictionary: a crosscoder over checkpoints of one run, as for `births`.
        models: all of its sources by id.
        group: the features.
        texts: texts of at least two tokens.
        last: the number of tokens at the end of each text to take the mean over; None for all but the first.
        draws: the number of random groups.
        seed: decides the draws.
        progress: called after each batch.

    Errors: WorkbenchError for an empty group, unknown features, a group of more than half of all, texts that are too
    short for `last`, and those of `token_losses_without`.
    """
    chosen = list(dict.fromkeys(group))
    if not chosen:
        raise WorkbenchError("the group of features is empty; name at least one feature")
    for feature in chosen:
        dictionary.check_feature(feature)
    born, named = births(dictionary), by_source(dictionary, models)
    read = texts_for(next(iter(named.values())), texts, at_least=1 + (last or 1))
    counts = _active_counts(dictionary, named, read, last, part(progress, 0.0, 0.2))
    groups = [[], chosen, *random_groups(counts, chosen, draws, seed)]
    losses = token_losses_without(
        dictionary, models, groups, read, sources=born.checkpoints, progress=part(progress, 0.2, 1.0)
    )
    losses = losses.masked_fill(~_chosen(read, last), torch.nan)
    means = losses.double().flatten(2).nanmean(2).numpy()  # group checkpoint
    rises = means[1:] - means[0]
    lines = {"loss": means[0], "rise without the group": rises[0]}
    if draws:
        lines |= {f"rise without random ones, {name}": of(rises[1:], 0) for name, of in EXTREMES.items()}
    return Curves(
        np.stack(list(lines.values())),
        list(lines),
        born.steps,
        x_name="step",
        title=f"Loss without {len(chosen)} features",
        value_name="loss, and its rise",
        unit="nats",
        provenance={"group": ", ".join(map(str, chosen)), "draws": draws, "seed": seed},
    )


def _chosen(texts: Texts, last: int | None) -> Tensor:
    """Whether each token is one of those whose loss is averaged (the last ones of each text): text pos, boolean."""
    position, lengths = torch.arange(texts.longest), torch.tensor(texts.lengths)[:, None]
    first = 1 if last is None else lengths - last
    return (position >= first) & (position < lengths)


@torch.no_grad()
def _active_counts(
    dictionary: Dictionary,
    models: Mapping[str, OlmoForCausalLM],
    texts: Texts,
    last: int | None,
    progress: Progress | None,
) -> np.ndarray:
    """The number of tokens at which each feature is active, of those from which a token that counts is predicted."""
    counted = _chosen(texts, last).roll(-1, 1)
    found = torch.zeros(len(dictionary), dtype=torch.long)
    size = texts.longest * 16
    for rows, ids in steps(texts.padded_batches(size), progress, "active features"):
        firing = dictionary.encode(read_by(dictionary, models, ids))
        here = (firing.values > 0).cpu() & counted[rows, : ids.shape[1], None]
        found += torch.bincount(firing.indices.cpu()[here], minlength=len(dictionary))
    return found.numpy()
