"""Trains the embedded dictionaries: `python -m workbench.tiny_olmo.train_dictionaries [NAME …]`.

An SAE of each `resid_post` and a transcoder of each MLP of the last checkpoint, and one crosscoder over the run and the
two other finals, on rows of the second and of the last stage of the recipe. They are written to `dictionaries/` in
float16, with their measures on held-out rows of English and code in `scores.json` and in the card `DICTIONARIES.md`.
The training text is fetched first, if it is not at hand. A training that was stopped goes on from the folder of
`--work`.
"""

import argparse
import json
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import torch

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.activations import Activations, record
from workbench.errors import WorkbenchError
from workbench.features import Dictionary, Stored, Streamed, TrainingSettings, load, quality, save, train
from workbench.features.files import EMBEDDED_DICTIONARIES
from workbench.features.sources import ActivationSource
from workbench.tiny_olmo.build_files import SERIES
from workbench.tiny_olmo.card import dictionary_table, put_between
from workbench.tiny_olmo.data import CORPUS_PARTS, default_cache, prepare, rows_source, token_files
from workbench.tiny_olmo.data import SOURCES as SOURCES_OF_TEXT
from workbench.tiny_olmo.recipe import RECIPE
from workbench.tiny_olmo.rows import batch
from workbench.tiny_olmo.tokenizer import VOCAB

LAST = "tiny-olmo@step6000"
RUN = (0, 200, 500, 600, 700, 1000, 2000, 6000)
SOURCES = (*(f"tiny-olmo@step{step}" for step in RUN), f"{LAST}-order2", f"{LAST}-order3")
STEPS = (*range(4000, 4120), *range(5000, 5120))  # whose rows are read
HELD_OUT_ROWS, ROW = {"english": 64, "code": 16}, 128
SCORES = EMBEDDED_DICTIONARIES / "scores.json"
CARD = Path(__file__).with_name("DICTIONARIES.md")
MAIN = TrainingSettings(features=2048, k=16, batches=700, half=True)
SMALLER = TrainingSettings(features=1024, k=16, batches=700, half=True)
CROSS = TrainingSettings(features=1024, k=32, batches=1000, half=True)
CROSS_ROWS = 4000  # of the training rows, about
SITES = ("blocks.*.resid_post", "blocks.*.mlp_in", "blocks.*.mlp_out")  # that are recorded of the last checkpoint
CROSSCODER = "step6000/crosscoder.blocks.2.resid_post"
PLANS: dict[str, tuple[tuple[str, ...], str, str | None, TrainingSettings]] = {
    # folder -> checkpoints, the site that is read, the one that is written, settings
    "step6000/blocks.2.resid_post": ((LAST,), "blocks.2.resid_post", None, MAIN),
    CROSSCODER: (SOURCES, "blocks.2.resid_post", None, CROSS),
    **{f"step6000/blocks.{n}.resid_post": ((LAST,), f"blocks.{n}.resid_post", None, SMALLER) for n in (0, 1, 3)},
    **{f"step6000/blocks.{n}.mlp": ((LAST,), f"blocks.{n}.mlp_in", f"blocks.{n}.mlp_out", SMALLER) for n in range(4)},
}


@cache
def rows_of_text() -> tuple[list[torch.Tensor], torch.Tensor]:
    """(rows of training tokens, of two lengths; held-out rows: row pos, four in five of English and the rest code)."""
    files, (train_on, held) = token_files(default_cache(), SERIES), CORPUS_PARTS
    if not all(path.is_file() for path in files.values()):
        prepare(default_cache(), SERIES)
    source = rows_source({name: np.load(files[train_on, name]) for name in SOURCES_OF_TEXT}, VOCAB)
    drawn = [torch.from_numpy(batch(RECIPE.stage(step), source, (RECIPE.seed, 1), step)).long() for step in STEPS]
    kept = [
        torch.from_numpy(np.load(files[held, name])[: count * ROW].astype(np.int64)).view(count, ROW)
        for name, count in HELD_OUT_ROWS.items()
    ]
    return [row[:-1] for rows in drawn for row in rows], torch.cat(kept)


@cache
def recording(work: Path) -> Activations:
    """The activations of the last checkpoint, on disk."""
    with suppress(WorkbenchError):  # it is not complete
        return Activations.open(work)
    return record(checkpoints.load(LAST)[0], rows_of_text()[0], SITES, work, dtype=torch.float16, checkpoint=LAST)


def made(name: str, work: Path) -> Dictionary:
    """Train one dictionary, write it, and write its scores."""
    ids, reads, writes, settings = PLANS[name]
    rows, held_out = rows_of_text()
    models: dict[str, OlmoForCausalLM] = {one: checkpoints.load(one)[0] for one in ids}
    source: ActivationSource
    if len(ids) == 1:
        source = Stored(recording(work / "activations"), reads, writes, family=models[LAST].config.model_type)
    else:
        running = {one: checkpoints.load(one, dtype="bfloat16")[0] for one in ids}
        source = Streamed(running, rows[:: len(rows) // CROSS_ROWS], reads, writes, keep=True)
    trained = train(source, settings, work / name.replace("/", "-"))
    save(trained, EMBEDDED_DICTIONARIES / name, dtype=torch.float16)
    dictionary = load(EMBEDDED_DICTIONARIES / name)  # as it is stored, in float16
    found = quality(dictionary, models, held_out[:: 1 if len(ids) == 1 else 4])
    scores = json.loads(SCORES.read_text(encoding="utf-8")) if SCORES.exists() else {}
    scores[name] = {one: {key: round(value, 4) for key, value in asdict(of).items()} for one, of in found.items()}
    SCORES.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    CARD.write_text(put_between(CARD.read_text(encoding="utf-8"), "scores", dictionary_table(scores)), encoding="utf-8")
    return dictionary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(PLANS)} (default: all)")
    parser.add_argument(
        "--work", type=Path, default=default_cache() / "dictionaries", help="folder of unfinished states"
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.names or PLANS:
        print(name, made(name, args.work), flush=True)


if __name__ == "__main__":
    main()
