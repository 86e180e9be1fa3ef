"""Learns the tuned lenses of the series: `python -m workbench.tiny_olmo.lens`.

One is for the last checkpoint, `lenses/step6000`; the other, `lenses/shared`, is shared by all checkpoints. Both learn
on rows of the last stage, some five minutes each on two cores. The divergences of their predictions from the last
layer's, on the held-out texts of two built-in sets, are printed. The training text is fetched first, if it is not at
hand.
"""

from collections.abc import Iterable

import torch

from workbench import checkpoints
from workbench.analyses.support.translators import EMBEDDED_LENSES, EMBEDDED_SERIES, SHARED_LENS, TunedLens
from workbench.analyses.tuned_lens import lens_divergence, train_tuned_lens
from workbench.texts import Texts
from workbench.tiny_olmo.data import default_cache, prepare, training_source
from workbench.tiny_olmo.recipe import RECIPE
from workbench.tiny_olmo.rows import batch

LAST = "tiny-olmo@step6000"
STEPS = range(5000, 5150)  # whose rows are read
SHARING = [f"{EMBEDDED_SERIES}@step{step}" for step in (0, 100, 200, 500, 1000, 2000, 4000, 6000)]
SHARED_STEPS = range(5000, 5040)
LEARNING_RATE = 5e-3
HELD_OUT = ("tiny-olmo/english", "tiny-olmo/code")


def main() -> None:
    last = checkpoints.load(LAST)[0]
    lens = train_tuned_lens(last, training_rows(STEPS), learning_rate=LEARNING_RATE, name=LAST)
    lens.save(EMBEDDED_LENSES / "step6000")
    print_divergences(lens, [LAST])
    make_shared()


def make_shared() -> None:
    """Learn, write and measure the lens that the checkpoints share."""
    models = [checkpoints.load(name)[0] for name in SHARING]
    lens = train_tuned_lens(models, training_rows(SHARED_STEPS), learning_rate=LEARNING_RATE, name=EMBEDDED_SERIES)
    lens.save(EMBEDDED_LENSES / SHARED_LENS)
    print_divergences(lens, [checkpoint.id for checkpoint in checkpoints.series(EMBEDDED_SERIES)])


def training_rows(of_steps: Iterable[int]) -> torch.Tensor:
    """The training rows of some steps: row pos."""
    source = training_source(prepare(default_cache()))
    drawn = [batch(RECIPE.stage(step), source, (RECIPE.seed, 1), step) for step in of_steps]
    return torch.cat([torch.from_numpy(each) for each in drawn])[:, :-1]


def print_divergences(lens: TunedLens, names: Iterable[str]) -> None:
    """Print the divergences of a lens and of the logit lens, for some checkpoints."""
    for name in names:
        model, tokenizer = checkpoints.load(name)
        for held_out in HELD_OUT:
            found = lens_divergence(model, Texts.read(held_out, tokenizer), lens)
            print(name, held_out, found.table().to_string(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
