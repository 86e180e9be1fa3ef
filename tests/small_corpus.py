"""A small training text of given documents, its index, and what a naive scan finds in it."""

from pathlib import Path

import numpy as np

from workbench import corpus
from workbench.corpus import building
from workbench.tiny_olmo.recipe import Recipe
from workbench.tiny_olmo.rows import Stage

END = building.END
ORDERS = (1, 2)
RECIPE = Recipe(
    stages=(
        Stage(until=6, length=12, rows=5, repeats=2, random=1),
        Stage(until=9, length=30, rows=2, repeats=1, random=0),
    ),
    branch=6,
)


def joined(documents: list[list[int]]) -> np.ndarray:
    return np.array([token for document in documents for token in [*document, END]], np.uint16)


def naive_places(documents: list[list[int]], ids: list[int], end: int = END) -> list[int]:
    """The places of an n-gram by looking at each place of each document."""
    found, begin = [], 0
    for document in documents:
        ended = [*document, end]
        found += [begin + at for at in range(len(ended)) if ended[at : at + len(ids)] == ids]
        begin += len(ended)
    return found


def naive_followers(documents: list[list[int]], ids: list[int], end: int = END) -> dict[int, int]:
    counts: dict[int, int] = {}
    for document in documents:
        ended = [*document, end]
        for at in range(len(ended) - len(ids)):
            if ended[at : at + len(ids)] == ids:
                counts[ended[at + len(ids)]] = counts.get(ended[at + len(ids)], 0) + 1
    return counts


def index_of(documents: list[list[int]], folder: Path) -> corpus.SuffixIndex:
    _, made = text_of(documents)
    building.build_index(made, folder)
    return building.open_folder(folder)


def text_of(documents: list[list[int]]):
    first = 9
    tokens = {"english": joined(documents[:first]), "code": joined(documents[first:])}
    text = corpus.TrainingText("tiny", RECIPE, tokens, {})
    english, code = [("A", "free")] * first, [(f"B, {number}", "none") for number in range(len(documents) - first)]
    return text, building.IndexBuild(text, lambda: {"english": english, "code": code}, ORDERS, 4096)
