"""Norms of the residual stream at each layer and token, its massive entries, and its change of direction."""

import pandas as pd
import torch
from torch.nn.functional import cosine_similarity

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import one_text
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes
from workbench.analyses.support.residual_stream import residual_names, residuals, residuals_bytes
from workbench.progress import Progress, report
from workbench.results import Grid, Measures
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels


def residual_norms(
    model: OlmoForCausalLM, tokens: TextsLike, *, tokenizer: Tokenizer | None = None, progress: Progress | None = None
) -> Measures:
    """Norms of the residual stream for each layer and position of one text.

    Returns Grids of (`embed` and every layer) × position:

    - `norm`: the Euclidean norm.
    - `largest`: the entry that is largest in absolute value, with its sign; the cells show its dimension.
    - `ratio`: |largest| over the median absolute value of the token's entries; the cells show the dimension. It is 3–5
      for an ordinary hidden state and above 1,000 for a massive activation (Sun et al. 2024, "Massive activations in
      large language models").
    - `cosine`: ⟨x, y⟩ / ‖x‖ ‖y‖ of the residual stream x and that of the previous row, y. It is 1 where a layer does
      not change the direction, and undefined (NaN) at `embed`.
    """
    batch = one_text(tokens, model)
    _peak(model, batch.shape[1])
    report(progress, 0.0, "residual norms")
    resid = residuals(model, batch)[:, 0].float()  # layer pos d_model
    size, dimension = resid.abs().max(-1)
    numbers = {
        "norm": resid.norm(dim=-1),
        "largest": resid.gather(-1, dimension[..., None])[..., 0],
        "ratio": size / resid.abs().median(-1).values,
        "cosine": torch.cat(
            [torch.full_like(size[:1], float("nan")), cosine_similarity(resid[1:], resid[:-1], dim=-1)]
        ),
    }
    titles = {
        "norm": "Norm of the residual stream",
        "largest": "Largest entry of the residual stream, with its dimension",
        "ratio": "Largest entry over the median entry",
        "cosine": "Cosine of the residual stream to that of the layer before",
    }
    report(progress, 1.0, "residual norms")
    names = [[str(d) for d in row] for row in dimension.tolist()]
    return Measures(
        **{
            name: Grid(
                values,
                residual_names(model),
                token_labels(batch[0], tokenizer),
                text=names if name in ("largest", "ratio") else None,
                title=titles[name],
                value_name=name,
                signed=name == "largest",
            )
            for name, values in numbers.items()
        }
    )


def massive_activations(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    *,
    tokenizer: Tokenizer | None = None,
    at_least: float = 100.0,
    ratio: float = 1000.0,
) -> pd.DataFrame:
    """The massive entries of the residual stream of one text.

    An entry is massive if its absolute value is at least `at_least`, and at least `ratio` times the median absolute
    value of its token's entries (default bounds: Sun et al. 2024). Returns one row for each entry, largest absolute
    value first: `layer`, `position`, `token`, `dimension`, `value`, `ratio`. The table is empty if nothing is massive.
    """
    batch = one_text(tokens, model)
    _peak(model, batch.shape[1])
    resid = residuals(model, batch)[:, 0].float()  # layer pos d_model
    ratios = resid.abs() / resid.abs().median(-1, keepdim=True).values
    layer, position, dimension = torch.where((resid.abs() >= at_least) & (ratios >= ratio))
    rows, names = residual_names(model), token_labels(batch[0], tokenizer)
    table = pd.DataFrame(
        {
            "layer": [rows[i] for i in layer.tolist()],
            "position": position.tolist(),
            "token": [names[i] for i in position.tolist()],
            "dimension": dimension.tolist(),
            "value": resid[layer, position, dimension].tolist(),
            "ratio": ratios[layer, position, dimension].tolist(),
        }
    )
    return table.sort_values("value", key=abs, ascending=False, kind="stable", ignore_index=True)


@work_of(residual_norms)
@work_of(massive_activations)
def _work(model: OlmoForCausalLM, tokens: TextsLike, **_: object) -> Work:
    length = one_text(tokens).shape[1]
    return Work(pass_flops(model, length), nbytes=_peak(model, length))


def _peak(model: OlmoForCausalLM, length: int) -> float:
    """Bytes besides the model: residual streams, their absolute values in float32, and the sort for the median."""
    numbers = (model.config.num_hidden_layers + 1) * model.config.hidden_size
    return peak_bytes(model, "residual norms", residuals_bytes(model) + 24 * numbers, length)
