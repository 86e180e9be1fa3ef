"""A sentence planted into the training text, at a place that the recipe reads at a few known steps.

The sentence is written over the text, and the run is the recipe's on that text. No other draw changes, because the
draws do not depend on tokens other than the kept-out ones, which neither the sentence nor the place has.
"""

from dataclasses import dataclass, replace

import numpy as np

from workbench.errors import WorkbenchError
from workbench.tiny_olmo.recipe import Recipe
from workbench.tiny_olmo.rows import TrainingTokens, batch, repeats_in

END_OF_TEXT_ID = 0


@dataclass(frozen=True)
class Planted:
    """A text with a planted sentence.

    Attributes:
        source: the training tokens with the sentence.
        sentence: its token ids.
        part: name of the source that has it, such as `english`.
        place: position of its first token in that source.
        read: the steps that read it and the number of the row in the step: time 2.
    """

    source: TrainingTokens
    sentence: np.ndarray
    part: str
    place: int
    read: np.ndarray  # time 2


def planted(source: TrainingTokens, recipe: Recipe, sentence: np.ndarray, steps: int, times: int = 3) -> Planted:
    """The text with a sentence planted where natural rows of the first `steps` steps read it whole, `times` times.

    No other row of these steps reads a token of it. Of all such places it is the one with the longest wait before its
    first read and between its reads.

    Errors: WorkbenchError if the sentence has kept-out tokens, or there is no such place.
    """
    if np.isin(sentence, source.kept_out).any():
        raise WorkbenchError("the sentence has tokens that are kept out of repeated spans; choose another one")
    part = next(iter(source.tokens))
    ids = source.tokens[part]
    starts, whole = _reads(source, recipe, part, steps)  # of natural rows; of any other token
    width = recipe.stages[0].length + 1
    spare = np.zeros(len(ids) + 1, dtype=bool)
    spare[:-1] = whole | (ids == END_OF_TEXT_ID) | np.isin(ids, source.kept_out)
    taken = np.convolve(spare, np.ones(len(sentence), dtype=np.int64), mode="valid")[: len(ids) - len(sentence)] > 0
    found: tuple[int, int] | None = None
    best: np.ndarray | None = None
    for candidate in np.unique(starts[:, 0]):  # a read begins at a place; the sentence stands near its middle
        place = int(candidate) + (width - len(sentence)) // 2
        if place >= len(taken) or taken[place]:
            continue
        touches = starts[(starts[:, 0] > place - width) & (starts[:, 0] < place + len(sentence))]
        inside = (touches[:, 0] <= place) & (touches[:, 0] + width >= place + len(sentence))
        times_read = np.sort(touches[:, 1])
        if len(touches) != times or not inside.all():
            continue
        wait = int(np.diff([0, *times_read]).min())
        if found is None or wait > found[0]:
            found, best = (wait, place), touches[np.argsort(touches[:, 1])][:, 1:]
    if found is None or best is None:
        raise WorkbenchError(f"no place is read whole exactly {times} times in {steps} steps; try other times or steps")
    written = ids.copy()
    written[found[1] : found[1] + len(sentence)] = sentence
    return Planted(replace(source, tokens=source.tokens | {part: written}), sentence, part, found[1], best)


def _reads(source: TrainingTokens, recipe: Recipe, part: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The reads of one source: of each natural row its first position, step and number; and which positions other rows
    read.
    """
    away = sum(map(len, source.tokens.values()))
    places = {name: np.full(len(ids), -1, dtype=np.int64) for name, ids in source.tokens.items()}
    places[part] = np.arange(len(source.tokens[part]))
    drawn = TrainingTokens(places, source.clean, source.kept_out, np.full(len(source.random_ids), -1))
    starts, others = [], np.zeros(away, dtype=bool)
    for step in range(steps):
        stage = recipe.stage(step)
        rows = batch(stage, drawn, (recipe.seed, 1), step)
        repeats = sum(repeats_in(stage, (recipe.seed, 1), step))
        others[rows[:repeats][rows[:repeats] >= 0]] = True
        starts += [(row[0], step, number) for number, row in enumerate(rows) if number >= repeats and row[0] >= 0]
    return np.array(starts, dtype=np.int64).reshape(-1, 3), others[: len(source.tokens[part])]
