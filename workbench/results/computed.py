"""Results that are computed from results."""

import dataclasses
from typing import Any, cast

from workbench.results.labelled import Estimated
from workbench.results.shapes import Curves, Grid, Points, Scores, Shape, same_labels


def change(after: Shape, before: Shape) -> Shape:
    """The change of a result, after − before, cell by cell: for example of an edited model from the unedited one.

    Texts of cells are those of `after`. A value is NaN where either is undefined. Totals are subtracted too; standard
    errors are left out.

    Errors: ValueError if the two differ in shape or labels, or are Points, whose axes are not comparable.
    """
    if not same_labels(after, before) or isinstance(after, Points):
        raise ValueError(f"{after!r} and {before!r} cannot be subtracted: they differ in shape or labels")
    others: dict[str, Any] = {"log": False} if isinstance(after, Grid) else {}
    others |= {"log_y": False, "surprisal": False} if isinstance(after, Curves) else {}
    others |= {"errors": None} if isinstance(after, Estimated) else {}
    if isinstance(after, Scores) and isinstance(before, Scores) and None not in (after.total, before.total):
        others["total"] = float(after.total or 0) - float(before.total or 0)
    return dataclasses.replace(
        after,
        values=after.values - before.values,
        title=f"{after.title} (change)",
        value_name=f"change of {after.value_name}",
        signed=True,
        as_percent=False,
        value_when_equal=0.0,
        **others,
    )


def without_errors(result: Shape) -> Shape:
    """A copy without standard errors and numbers of texts, for values that are computed from those of the result."""
    if isinstance(result, Estimated):
        return cast(Shape, dataclasses.replace(result, errors=None, texts=None))
    return result
