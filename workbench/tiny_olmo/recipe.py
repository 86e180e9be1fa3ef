"""The recipe of tiny-olmo: the shape of the model, the stages of training and the settings of the optimiser."""

import math
from dataclasses import dataclass

from hooks import OlmoConfig
from workbench.tiny_olmo.rows import Stage
from workbench.tiny_olmo.tokenizer import CONTEXT, VOCAB


@dataclass(frozen=True)
class Recipe:
    """Stages and optimiser settings of a run.

    `branch` is the step of the main run where runs with another data order start.
    """

    stages: tuple[Stage, ...]
    seed: int = 0
    learning_rate: float = 3e-3
    final_share: float = 0.05  # learning rate at the last step, as a share of the peak
    warmup: int = 150
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    branch: int = 4500

    @property
    def steps(self) -> int:
        """The last step."""
        return self.stages[-1].until

    def stage(self, step: int) -> Stage:
        """The stage of a step."""
        return next(stage for stage in self.stages if step < stage.until)

    def tokens(self, step: int) -> int:
        """Tokens seen after `step` steps."""
        seen, begin = 0, 0
        for stage in self.stages:
            seen += max(0, min(step, stage.until) - begin) * stage.rows * stage.length
            begin = stage.until
        return seen

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then a cosine decay to `final_share`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.steps - self.warmup)
        share = self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * share


RECIPE = Recipe(
    stages=(
        Stage(until=2000, length=128, rows=32, repeats=16, random=4),  # until induction heads have formed
        Stage(until=4500, length=128, rows=32, repeats=5, random=2),
        Stage(until=6000, length=512, rows=8, repeats=0.4, random=0.1),
    )
)


def config(vocab: int = VOCAB) -> OlmoConfig:
    """The configuration of tiny-olmo: 2.56 million parameters."""
    return OlmoConfig(
        vocab_size=vocab,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
