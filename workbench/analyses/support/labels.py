"""Labels of texts: one for each text, and the choice of two groups of texts by their labels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.texts import Texts


def labels_of(texts: Texts, labels: Sequence[object] | None = None) -> tuple[str, ...]:
    """One label for each text: the given ones, or those of the texts.

    Errors: WorkbenchError if there are none, or a different number of them.
    """
    found = texts.labels if labels is None else labels
    if found is None:
        raise WorkbenchError("the texts have no labels; give labels=, one for each text, or Texts with labels")
    if len(found) != len(texts):
        raise WorkbenchError(f"there are {len(texts)} texts and {len(found)} labels; give one label for each text")
    return tuple(str(label) for label in found)


def two_groups(labels: Sequence[str], toward: object, against: object | None) -> tuple[Tensor, Tensor]:
    """Which texts have the label `toward`, and which `against`: a mask each. Without `against`, all other texts.

    Errors: WorkbenchError for a label that no text has, the same label twice, or no other label.
    """
    known = sorted(set(labels))
    for label in (toward, against):
        if label is not None and str(label) not in known:
            raise WorkbenchError(f"no text has the label {str(label)!r}; labels: {', '.join(known)}")
    if len(known) < 2:
        raise WorkbenchError(f"all {len(labels)} texts have the label {known[0]!r}; a direction needs two labels")
    if against is not None and str(toward) == str(against):
        raise WorkbenchError(f"both labels are {str(toward)!r}; a direction leads from one label to another")
    ours = torch.tensor([label == str(toward) for label in labels])
    theirs = ~ours if against is None else torch.tensor([label == str(against) for label in labels])
    return ours, theirs


def halves(texts: Texts, toward: str, against: str | None = None) -> tuple[Texts, Texts]:
    """Two sets without a text in common: the first has every second text of each group, the second has the others.

    Errors: WorkbenchError if a group has only one text, and those of `two_groups`.
    """
    ours, theirs = two_groups(labels_of(texts), toward, against)
    first = torch.zeros(len(texts), dtype=torch.bool)
    for group, label in ((ours, toward), (theirs, against or "another label")):
        rows = group.nonzero()[:, 0]
        if len(rows) < 2:
            raise WorkbenchError(
                f"only 1 text has the label {label!r}; at least 2 are needed: one for the direction, one as a prompt"
            )
        first[rows[::2]] = True
    return texts[first], texts[(ours | theirs) & ~first]


def direction_half(texts: Texts, toward: str, against: str | None = None) -> Texts:
    """The first of the two `halves`: the texts that a direction is made of."""
    return halves(texts, toward, against)[0]


def prompt_half(texts: Texts, toward: str, against: str | None = None) -> Texts:
    """The second of the two `halves`: the prompts on which the direction is tested."""
    return halves(texts, toward, against)[1]
