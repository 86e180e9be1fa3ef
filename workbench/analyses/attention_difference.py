"""The difference between the attention patterns of two models."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from hooks import OlmoForCausalLM
from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.support.cost import Work, planned, work_of
from workbench.analyses.support.two_models import shared_layers
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part
from workbench.results import Maps
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer


def attention_difference(
    a: OlmoForCausalLM,
    b: OlmoForCausalLM,
    tokens: TextsLike,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[int] | None = None,
    weighting: str = "probability",
    combine: str | None = None,
    minus: str = "b",
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Maps:
    """The attention of the chosen heads of A minus that of the same heads of B, as Maps; B − A with `minus="a"`.

    The other arguments are those of `attention_maps`. With weighting `probability`, values are between −1 and 1, each
    row sums to 0, and half the sum of the absolute values of a row is the share of attention that A and B place on
    different keys. The default is A − B; all other comparisons of two checkpoints, and the maps of the page, are B − A.

    Errors: WorkbenchError if the two models differ in the number of layers or heads, or for another `minus`.
    """
    if minus not in ("a", "b"):
        raise WorkbenchError(f"minus is {minus!r}; choose from 'a' and 'b'")
    shared_layers(a, b)
    maps = partial(attention_maps, layers=layers, heads=heads, queries=queries, weighting=weighting, combine=combine)
    of_a = maps(a, tokens, tokenizer=tokenizer, progress=part(progress, 0.0, 0.5))
    of_b = maps(b, tokens, progress=part(progress, 0.5, 1.0))
    (first, one), (second, other) = (("A", of_a), ("B", of_b)) if minus == "b" else (("B", of_b), ("A", of_a))
    return Maps(
        np.subtract(one.values, other.values),
        of_a.heads,
        of_a.tokens,
        queries=of_a.queries,
        title=f"{of_a.title}: {first} − {second}",
        value_name=f"{first} − {second}",
        signed=True,
    )


@work_of(attention_difference)
def _work(a: OlmoForCausalLM, b: OlmoForCausalLM, tokens: TextsLike, **options: object) -> Work:
    return planned(attention_maps, a, tokens, **options) + planned(attention_maps, b, tokens, **options)
