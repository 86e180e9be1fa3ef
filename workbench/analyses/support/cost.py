"""What an analysis will compute: its floating-point operations and its memory, stated before it runs.

Each analysis has a function of the same arguments next to it that returns its `Work`:

    @work_of(ablation)
    def _work(model, tokens, token=None, *, method="mean", **_):
        ...

    planned(ablation, model, tokens, method="zero").flops

The model of a plan may be a model on the meta device (`checkpoints.outline`), so a plan needs no weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from workbench.analyses.support.memory import Reader, block_products, reader_config

SPEED = 4e10
"""Floating-point operations a second that a machine is assumed to make, before any were measured."""
ALONE = 16
"""A pass of one token takes about as long as one of this many, because the weights are read from memory for each."""


@dataclass(frozen=True)
class Work:
    """The work of one analysis.

    Attributes:
        flops: floating-point operations; a multiplication and an addition are two. Only matrix products are counted.
        at_most: the same in the worst case, where the work depends on numbers that are not known before.
        nbytes: peak memory besides the model, in bytes.
        read: bytes of checkpoint files to read.
    """

    flops: float
    at_most: float = 0.0
    nbytes: float = 0.0
    read: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_most", max(self.flops, self.at_most))

    def __add__(self, other: "Work") -> "Work":
        """The work of both, one after the other: sums, and the larger of the two memories."""
        flops, at_most = self.flops + other.flops, self.at_most + other.at_most
        return Work(flops, at_most, max(self.nbytes, other.nbytes), self.read + other.read)

    def times(self, count: int) -> "Work":
        """This work, `count` times in sequence."""
        return replace(self, flops=count * self.flops, at_most=count * self.at_most, read=count * self.read)


Planned = TypeVar("Planned", bound=Callable[..., Work])


def work_of(analysis: Callable[..., object]) -> Callable[[Planned], Planned]:
    """A decorator of the function that returns the `Work` of an analysis. It takes the arguments of the analysis."""

    def state(plan: Planned) -> Planned:
        analysis.__dict__["work"] = plan
        return plan

    return state


def is_planned(function: Callable[..., object]) -> bool:
    """Whether a function states its work."""
    return hasattr(function, "work")


def planned(analysis: Callable[..., object], *arguments: object, **options: object) -> Work:
    """The work of a call of an analysis.

    Errors: WorkbenchError if it does not fit into memory, with both numbers, or if the arguments are no texts.
    """
    return analysis.work(*arguments, **options)  # type: ignore[attr-defined]  # see `work_of`


def pass_flops(model: Reader, tokens: float, blocks: float | None = None, *, logits: float = 0) -> float:
    """Floating-point operations of a forward pass: `tokens` tokens through `blocks` blocks (all if None), and the
    logits of `logits` tokens.

    A backward pass that gives gradients of activations, and none of weights, takes as many. Attention scores are not
    counted; they are few as long as a text has fewer tokens than the model has dimensions.
    """
    config = reader_config(model)
    blocks = config.num_hidden_layers if blocks is None else blocks
    return 2 * (tokens * blocks * block_products(config) + logits * config.hidden_size * config.vocab_size)


def duration(seconds: float) -> str:
    """A time with one or two digits: 0.1 s (or less), 0.4 s, 15 s, 3 min, 2 h."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{_rough(seconds / unit)} {name}"
    return f"{_rough(seconds)} s"


def _rough(number: float) -> str:
    return f"{max(number, 0.1):.1f}" if number < 1 else f"{float(f'{number:.2g}'):.0f}"
