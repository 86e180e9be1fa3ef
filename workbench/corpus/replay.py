"""The rows of each training step, drawn again from the recipe without a model.

The recipe draws positions of the text at random, and the draws do not depend on the tokens. So the recipe's own code
also runs on a text whose "tokens" are its positions; each token of a row is then its position in the text.

    rows("tiny-olmo", 3950)                      # row pos: what the main run read at step 3,950
    rows("tiny-olmo@step6000-order2", 5000)      # of the run with the second data order
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from workbench.checkpoints.names import parse, split_id
from workbench.corpus.training_text import prepared_text
from workbench.errors import WorkbenchError
from workbench.tiny_olmo.recipe import Recipe
from workbench.tiny_olmo.rows import TrainingTokens, batch

MAIN = 1  # the data order of the main run


@dataclass(frozen=True)
class Replay:
    """The rows of a training run by step.

    Attributes:
        recipe: stages, seed, and the step where runs with another data order start.
        tokens: token ids of the whole text, its sources one after another.
        places: the same text for drawing rows, with places instead of token ids. The place of a token is its position
            in `tokens`. A random token, which has no place, is stored as `-1 - id`.
    """

    recipe: Recipe
    tokens: np.ndarray
    places: TrainingTokens

    @classmethod
    def of(cls, source: TrainingTokens, recipe: Recipe) -> "Replay":
        """The replay of a recipe on a prepared text."""
        return cls(recipe, np.concatenate(list(source.tokens.values())), _as_places(source))

    def place_rows(self, step: int, order: int = MAIN) -> np.ndarray:
        """Where the tokens of a step's rows stand in the text: row pos, int64; `-1 - id` for a random token.

        A row has one token more than the stage's length: the last one is only predicted.

        Errors: WorkbenchError for a step or a data order that is not in the recipe.
        """
        if not 0 <= step < self.recipe.steps:
            raise WorkbenchError(f"step={step}; the run has the steps 0 to {self.recipe.steps - 1}")
        if order < MAIN:
            raise WorkbenchError(f"order={order}; the data orders are 1 (the main run), 2, 3, …")
        own = order if step >= self.recipe.branch else MAIN  # other orders start from the main run's state
        return batch(self.recipe.stage(step), self.places, (self.recipe.seed, own), step)

    def rows(self, step: int, order: int = MAIN) -> Tensor:
        """Token ids of the rows that the run read at a step: LongTensor, row pos. Errors: those of `place_rows`."""
        return torch.from_numpy(self.ids(self.place_rows(step, order)))

    def ids(self, places: np.ndarray) -> np.ndarray:
        """The token ids at places as `place_rows` gives them, in the same shape, int64."""
        return np.where(places >= 0, self.tokens[np.maximum(places, 0)], -1 - places)


def rows(series: str, step: int) -> Tensor:
    """The rows that a run read at a step, as the training program got them: LongTensor, row pos.

    Step `s` takes the weights of checkpoint `step{s}` to those of `step{s + 1}`. A row has one token more than the
    stage's length: all but the last token are read, all but the first are predicted. Padding tokens stand for text that
    this machine does not have; see `TrainingText`.

    Args:
        series: name of the series, or the id of a checkpoint of a run with another data order.
        step: from 0 to the last step less one.

    Errors: WorkbenchError if the training text is not at hand, or for a step that the run does not have.
    """
    return replay_of(split_id(series)[0]).rows(step, order_of(series))


@lru_cache(maxsize=1)
def replay_of(name: str) -> Replay:
    """The replay of a series. Errors: WorkbenchError if its training text is not at hand."""
    text = prepared_text(name)
    return Replay.of(text.source(), text.recipe)


def order_of(series: str) -> int:
    """The data order of the run that a checkpoint belongs to; 1 for a series or a checkpoint of the main run."""
    revision = split_id(series)[1]
    parsed = parse(revision) if revision else None
    return (parsed.order if parsed else None) or MAIN


def _as_places(source: TrainingTokens) -> TrainingTokens:
    starts = np.cumsum([0, *map(len, source.tokens.values())])
    places = {
        name: np.arange(start, start + len(ids), dtype=np.int32)
        for (name, ids), start in zip(source.tokens.items(), starts, strict=False)
    }
    return TrainingTokens(places, source.clean, source.kept_out, -1 - source.random_ids.astype(np.int32))
