"""Results of analyses: frozen, labelled shapes that check their arguments and can be exported as a table.

Values are given as a tensor, an array or a list, and stored as a read-only float32 array on the CPU. NaN means "not
defined" (for example, the loss on the token after the last one). Labels are plain text; plots and pages escape them.
"""

from workbench.results.computed import change, without_errors
from workbench.results.labelled import Estimated, Labelled
from workbench.results.measures import Measures
from workbench.results.shapes import LABELS, Curves, Grid, Maps, Points, Result, Scores, Shape, same_labels
from workbench.results.values import (
    Names,
    Values,
    check_positive,
    check_shape,
    count,
    frozen_array,
    label_column,
    labels,
)

__all__ = [
    "LABELS",
    "Curves",
    "Estimated",
    "Grid",
    "Labelled",
    "Maps",
    "Measures",
    "Names",
    "Points",
    "Result",
    "Scores",
    "Shape",
    "Values",
    "change",
    "check_positive",
    "check_shape",
    "count",
    "frozen_array",
    "label_column",
    "labels",
    "same_labels",
    "without_errors",
]
