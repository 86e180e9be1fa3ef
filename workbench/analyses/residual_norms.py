"""Norms of the residual stream at each layer and token, its massive entries, and its change of direction."""

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import one_text, texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.means import MeansOverTexts
from workbench.analyses.support.memory import peak_bytes, tokens_at_a_time
from workbench.analyses.support.residual_stream import residual_names, residuals, residuals_bytes
from workbench.progress import Progress, steps
from workbench.results import Grid, Measures, Scores
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels

WHAT = "residual norms"
TITLES = {
    "norm": "Norm of the residual stream",
    "largest": "Largest entry of the residual stream, with its dimension",
    "ratio": "Largest entry over the median entry",
    "cosine": "Cosine of the residual stream to that of the layer before",
}


def residual_norms(
    model: OlmoForCausalLM, tokens: TextsLike, *, tokenizer: Tokenizer | None = None, progress: Progress | None = None
) -> Measures:
    """Norms of the residual stream for each layer and position.

    Returns Grids of (`embed` and every layer) × position:

    - `norm`: the Euclidean norm.
    - `largest`: the entry that is largest in absolute value, with its sign; the cells show its dimension.
    - `ratio`: |largest| divided by the median absolute value of the token's entries; the cells show the dimension. It
      is about 4 to 6 for normally distributed entries (d_model 64 to 8,192), and 1,000 or more for a massive activation
      (Sun et al. 2024, "Massive activations in large language models").
    - `cosine`: ⟨x, y⟩ / ‖x‖ ‖y‖ of the residual stream x and that of the previous row, y. It is 1 where a layer does
      not change the direction, and undefined (NaN) at `embed`.

    For several texts, the columns are positions, counted from the first token of each text. `norm`, `ratio` and
    `cosine` are then means over the texts that are long enough to have the position, with standard errors over these
    texts. `largest` is the largest entry of all these texts, and has no standard error, because it is not a mean.
    """
    texts = texts_for(model, tokens)
    means = {name: MeansOverTexts() for name in TITLES if name != "largest"}
    largest = torch.zeros(model.config.num_hidden_layers + 1, texts.longest)
    dimension = torch.zeros(largest.shape, dtype=torch.long)
    for rows, ids in steps(texts.batches(_size(model, texts.longest)), progress, WHAT):
        numbers, which = _norm_measures(residuals(model, ids).float())
        there = torch.arange(texts.longest) < ids.shape[1]  # pos
        for name, mean in means.items():
            sums = torch.zeros(len(rows), *largest.shape)  # text layer pos
            sums[:, :, there] = numbers[name].transpose(0, 1).cpu()
            mean.add(sums, there.double())
        for text in range(len(rows)):
            entry, of = numbers["largest"][:, text].cpu(), which[:, text].cpu()
            larger = torch.zeros_like(largest, dtype=torch.bool)
            larger[:, there] = entry.abs() > largest[:, there].abs()
            largest[larger], dimension[larger] = entry[larger[:, there]], of[larger[:, there]]
    names, alone = [[str(d) for d in row] for row in dimension.tolist()], len(texts) == 1
    counts = (torch.arange(texts.longest) < torch.tensor(texts.lengths)[:, None]).sum(0)  # pos
    return Measures(
        **{
            name: Grid(
                means[name].values if name in means else largest,
                residual_names(model),
                token_labels(texts[0], tokenizer) if alone else range(texts.longest),
                text=names if name == "largest" or (name == "ratio" and alone) else None,
                title=title,
                value_name=name,
                signed=name == "largest",
                errors=means[name].errors if name in means else None,
                texts=None if alone else counts.expand(largest.shape).tolist(),
            )
            for name, title in TITLES.items()
        }
    )


def _norm_measures(resid: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The measures by name, and the dimension of the largest entry: layer text pos each.

    resid: layer text pos d_model.
    """
    size, dimension = resid.abs().max(-1)
    numbers = {
        "norm": resid.norm(dim=-1),
        "largest": resid.gather(-1, dimension[..., None])[..., 0],
        "ratio": size / resid.abs().median(-1).values,
        "cosine": torch.cat(
            [torch.full_like(size[:1], float("nan")), cosine_similarity(resid[1:], resid[:-1], dim=-1)]
        ),
    }
    return numbers, dimension


def mean_norms(model: OlmoForCausalLM, tokens: TextsLike) -> Scores:
    """The mean Euclidean norm of the residual stream at `embed` and after each layer, as Scores.

    The mean is over all tokens except the first of each text, all with the same weight. The standard errors are over
    texts.

    Errors: WorkbenchError for a text of one token.
    """
    texts, means = texts_for(model, tokens, at_least=2), MeansOverTexts()
    for _, ids in texts.batches(_size(model, texts.longest)):
        norms = residuals(model, ids).float().norm(dim=-1)[:, :, 1:]  # layer text pos-1
        means.add(norms.double().sum(-1).T, norms.shape[-1])
    return Scores(means.values, residual_names(model), errors=means.errors, texts=means.texts)


def massive_activations(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    *,
    tokenizer: Tokenizer | None = None,
    at_least: float = 100.0,
    ratio: float = 1000.0,
) -> pd.DataFrame:
    """A table of the massive entries of the residual stream of one text.

    An entry is massive if its absolute value is at least `at_least`, and at least `ratio` times the median absolute
    value of its token's entries (default bounds: Sun et al. 2024, "Massive activations in large language models"). Each
    entry has one row, `layer`, `position`, `token`, `dimension`, `value`, `ratio`; the largest absolute value comes
    first. The table is empty if no entry is massive.
    """
    batch = one_text(tokens, model)
    _size(model, batch.shape[1])
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
@work_of(mean_norms)
@work_of(massive_activations)
def _work(model: OlmoForCausalLM, tokens: TextsLike, **_: object) -> Work:
    texts = texts_for(model.config, tokens)
    peak = peak_bytes(model, WHAT, _bytes(model), texts.longest, texts.tokens)
    return Work(pass_flops(model, texts.tokens), nbytes=peak)


def _size(model: OlmoForCausalLM, length: int) -> int:
    """The number of tokens to run at a time."""
    return tokens_at_a_time(model, WHAT, _bytes(model), length)


def _bytes(model: OlmoForCausalLM) -> float:
    """Bytes for each token: residual streams, their absolute values in float32, and the sort for the median."""
    return residuals_bytes(model) + 24 * (model.config.num_hidden_layers + 1) * model.config.hidden_size
