"""Where the heads of one model look and those of another do not."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.attention_maps import attention_maps
from workbench.errors import WorkbenchError
from workbench.progress import Progress
from workbench.results import Maps
from workbench.text import Tokenizer


def attention_difference(
    a: OlmoForCausalLM,
    b: OlmoForCausalLM,
    tokens: Tensor,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[int] | None = None,
    weighting: str = "probability",
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Maps:
    """Attention of the chosen heads of A less that of the same heads of B; arguments as in `attention_maps`.

    With weighting `probability` each row sums to 0, and half the sum of its magnitudes is the share of weight that
    lies elsewhere. Errors: WorkbenchError if the two models differ in layers or heads.
    """
    shapes = [(model.config.num_hidden_layers, model.config.num_attention_heads) for model in (a, b)]
    if shapes[0] != shapes[1]:
        raise WorkbenchError(f"A has {shapes[0][0]} layers of {shapes[0][1]} heads, B {shapes[1][0]} of {shapes[1][1]}")
    chosen = {"layers": layers, "heads": heads, "queries": queries, "weighting": weighting, "tokenizer": tokenizer}
    of_a, of_b = (attention_maps(model, tokens.to(model.device), **chosen) for model in (a, b))
    if progress is not None:
        progress(1.0, "attention of both")
    return Maps(
        np.subtract(of_a.values, of_b.values),
        of_a.heads,
        of_a.tokens,
        queries=of_a.queries,
        title="Attention of A less attention of B",
        value_name="A − B",
        signed=True,
    )
