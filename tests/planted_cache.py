"""A small training text with its index, in a cache folder, as if it were that of the embedded series."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workbench import corpus, tokenizer_of
from workbench.corpus import building
from workbench.tiny_olmo.recipe import Recipe
from workbench.tiny_olmo.rows import Stage

CHECKPOINT = "tiny-olmo@step6000"
HOSTILE = '<img src=x onerror="pwned=1">'
TEXTS = (
    "Old Marta lives in Lisbon and sells oranges, and on Sundays she sells nothing and looks at the river.",
    "Young Pedro lives in Lisbon and sells lemons, which nobody there buys, since lemons grow in each garden.",
    f"A page that reads markup lives in Lisbon and sells {HOSTILE} \u202enothing; this one shows it.",
    "Anna lives in Porto and writes letters to her cousin, who lives in Lisbon and reads them on the train to work.",
)
RECIPE = Recipe(
    stages=(
        Stage(until=6, length=12, rows=5, repeats=0, random=0),
        Stage(until=9, length=16, rows=2, repeats=0, random=0),
    ),
    branch=6,
)


def put_in_cache(cache: Path, texts: Sequence[str] = TEXTS) -> Path:
    """Write the index of texts where the embedded series' index is looked for if the environment's
    `XDG_CACHE_HOME` is `cache`; returns the index's folder."""
    folder = cache / "tiny-olmo" / building.index_folder("tiny-olmo").name
    building.build_index(made(texts), folder)
    return folder


def made(texts: Sequence[str] = TEXTS) -> building.IndexBuild:
    """What the index of texts is made from: each is a document of its own source."""
    tokenizer = tokenizer_of(CHECKPOINT)
    ids = [[*tokenizer(text)["input_ids"], building.END] for text in texts]
    tokens = {"english": np.array([i for text in ids[:2] for i in text], np.uint16)}
    tokens["code"] = np.array([i for text in ids[2:] for i in text], np.uint16)
    origins = [(f"<b>source {number}</b>", "free") for number in range(len(texts))]
    text = corpus.TrainingText("tiny-olmo", RECIPE, tokens, {})
    return building.IndexBuild(text, lambda: {"english": origins[:2], "code": origins[2:]}, (1, 2, 3), 4096)
