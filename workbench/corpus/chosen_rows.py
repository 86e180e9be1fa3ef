"""Rows of a run by step and number, as texts."""

from collections.abc import Sequence

from workbench.checkpoints.names import split_id
from workbench.corpus.replay import order_of, replay_of
from workbench.errors import WorkbenchError
from workbench.texts import Texts, as_texts
from workbench.tiny_olmo.build_files import BLANK


def chosen_rows(series: str, places: Sequence[tuple[int, int]]) -> Texts:
    """The rows that a run read, given as (step, number of the row in the step), labelled `step 1,481 row 3`.

    A label ends in "with blanks" if the training text on this machine has blanks where the row has text.

    Args:
        series: name of the series, or the id of a checkpoint of a run with another data order.
        places: steps and rows, for example columns of `SuffixIndex.rows_with`.

    Errors: WorkbenchError if the training text is not at hand, or there is no such step or row.
    """
    replay, order = replay_of(split_id(series)[0]), order_of(series)
    found = []
    for step, row in places:
        rows = replay.rows(step, order)
        if not 0 <= row < len(rows):
            raise WorkbenchError(f"there is no row {row} at step {step}; it has the rows 0 to {len(rows) - 1}")
        found.append(rows[row])
    texts = as_texts(found)
    labels = (
        f"step {step:,} row {row}" + (" with blanks" if (ids == BLANK).any() else "")
        for (step, row), ids in zip(places, found, strict=True)
    )
    return Texts(texts.ids, texts.mask, tuple(labels))
