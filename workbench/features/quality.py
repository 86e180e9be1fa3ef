"""Measures of a dictionary: explained variance, sparsity, and the loss of the model with its reconstruction."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import Tensor

from hooks import OlmoForCausalLM, edits
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import next_token_statistics
from workbench.features.dictionary import Dictionary
from workbench.features.reading import Models, by_source, captured, in_shape
from workbench.progress import Progress, steps
from workbench.texts import Batch, TextsLike


@dataclass(frozen=True)
class Quality:
    """Measures of a dictionary on texts.

    Attributes:
        explained: 1 − Σ‖y − ŷ‖² / Σ‖y − mean‖², the share of the variance that it explains.
        l0: the mean number of active features of a token.
        dead: the number of features that are active at no token.
        loss: the loss of the model, the mean −log p of each token except the first of a text, in nats.
        replaced: the loss with the reconstruction in place of the activations.
        ablated: the loss with the mean activation in place of the activations.
        recovered: (ablated − replaced) / (ablated − loss): 1 if nothing is lost, 0 if the reconstruction is as bad as
            the mean.
        tokens: the number of tokens of the texts.
    """

    explained: float
    l0: float
    dead: int
    loss: float
    replaced: float
    ablated: float
    recovered: float
    tokens: int

    def table(self) -> pd.DataFrame:
        """One row."""
        return pd.DataFrame([asdict(self)])


@torch.no_grad()
def quality(
    dictionary: Dictionary,
    models: Models,
    tokens: TextsLike,
    *,
    progress: Progress | None = None,
) -> dict[str, Quality]:
    """The measures of a dictionary on texts, for each model that it reads: one, or the sources of a crosscoder.

    Args:
        dictionary: any of the three kinds.
        models: the model; for a crosscoder all of its sources by id, in any order.
        tokens: held-out texts of at least two tokens.

    Errors: WorkbenchError if the models are not those of the crosscoder, or the dictionary does not fit them.
    """
    named = by_source(dictionary, models)
    first = next(iter(named.values()))
    texts, dictionary = texts_for(first, tokens, at_least=2), dictionary.to(first.device)
    per_token = run_bytes(first, capture=[dictionary.reads, dictionary.writes], logits=4) + 8 * len(dictionary)
    size = tokens_at_a_time(first, "measures of a dictionary", per_token, texts.longest)
    batches = list(texts.batches(size))
    mean, variance = _mean_and_variance(dictionary, named, batches, texts.tokens)
    wrong, active = torch.zeros(len(named), dtype=torch.double), torch.zeros(len(dictionary), dtype=torch.long)
    losses = torch.zeros(len(named), 3, dtype=torch.double)
    for batch in steps(batches, progress, "measures of a dictionary"):
        read, written = (captured(named, site, batch.ids) for site in (dictionary.reads, dictionary.writes))
        given = read if dictionary.sources else read[:, :, 0]
        firing = dictionary.encode(given)
        made = dictionary.decode(firing, given)
        made = made if dictionary.sources else made[:, :, None]  # batch pos source d_model
        wrong += (written - made).double().square().sum((0, 1, 3)).cpu()
        active += torch.bincount(firing.indices[firing.values > 0].cpu(), minlength=len(dictionary))
        for number, model in enumerate(named.values()):
            losses[number] += _summed_losses(model, batch.ids, dictionary.writes, made[:, :, number], mean[number])
    losses /= texts.tokens - len(texts)
    return {
        name: Quality(
            explained=1 - float(wrong[number] / variance[number]),
            l0=int(active.sum()) / texts.tokens,
            dead=int((active == 0).sum()),
            loss=loss,
            replaced=replaced,
            ablated=ablated,
            recovered=(ablated - replaced) / (ablated - loss),
            tokens=texts.tokens,
        )
        for number, (name, (loss, replaced, ablated)) in enumerate(zip(named, losses.tolist(), strict=True))
    }


def _mean_and_variance(
    dictionary: Dictionary, models: Mapping[str, OlmoForCausalLM], batches: Sequence[Batch], count: int
) -> tuple[Tensor, Tensor]:
    """Of what the dictionary should write at `count` tokens: (mean: source d_model; Σ‖y − mean‖²: source), float64."""
    total, squares = torch.zeros(1), torch.zeros(1)
    for batch in batches:
        written = captured(models, dictionary.writes, batch.ids).double().cpu()
        total, squares = total + written.sum((0, 1)), squares + written.square().sum((0, 1, 3))
    mean = total / count
    return mean, squares - count * mean.square().sum(-1)


def _summed_losses(model: OlmoForCausalLM, ids: Tensor, site: str, made: Tensor, mean: Tensor) -> Tensor:
    """Three summed losses of a batch, float64: of the unchanged model, with the reconstruction `made` (batch pos d) in
    place of the activation at the site, and with its mean (d)."""
    losses = []
    for other in (None, made, mean.float().expand(made.shape)):
        change = () if other is None else edits.replace(site, in_shape(model, site, other))
        logits = model.run(ids, edits=change).logits[:, :-1]
        losses.append(next_token_statistics(logits, ids[:, 1:])["loss"].double().sum().cpu())
    return torch.stack(losses)
