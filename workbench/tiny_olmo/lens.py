"""Learns the tuned lens of the last checkpoint, on rows of its last stage: `python -m workbench.tiny_olmo.lens`.

The lens is written to `lenses/step6000`, some five minutes later on two cores. The divergences of its predictions from
the last layer's, on the held-out texts of two built-in sets, are printed. The training text is fetched first, if it is
not at hand.
"""

import torch

from workbench import checkpoints
from workbench.analyses.support.translators import EMBEDDED_LENSES
from workbench.analyses.tuned_lens import lens_divergence, train_tuned_lens
from workbench.texts import Texts
from workbench.tiny_olmo.data import default_cache, prepare, training_source
from workbench.tiny_olmo.recipe import RECIPE
from workbench.tiny_olmo.rows import batch

CHECKPOINT = "tiny-olmo@step6000"
STEPS = range(5000, 5150)  # whose rows are read
LEARNING_RATE = 5e-3
HELD_OUT = ("tiny-olmo/english", "tiny-olmo/code")


def main() -> None:
    model, tokenizer = checkpoints.load(CHECKPOINT)
    recipe, source = RECIPE, training_source(prepare(default_cache()))
    drawn = [torch.from_numpy(batch(recipe.stage(step), source, (recipe.seed, 1), step)) for step in STEPS]
    rows = torch.cat(drawn)[:, :-1]
    lens = train_tuned_lens(model, rows, learning_rate=LEARNING_RATE, name=CHECKPOINT)
    lens.save(EMBEDDED_LENSES / "step6000")
    for name in HELD_OUT:
        print(name, lens_divergence(model, Texts.read(name, tokenizer), lens).table().to_string(), sep="\n")


if __name__ == "__main__":
    main()
