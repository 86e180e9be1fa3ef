"""Measures of a dictionary: explained variance, sparsity, and the loss of the model with its reconstruction."""

from dataclasses import asdict, dataclass

import pandas as pd
import torch

from hooks import edits
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import next_token_statistics
from workbench.features.dictionary import Dictionary
from workbench.features.reading import Models, by_source, captured
from workbench.progress import Progress, steps
from workbench.texts import TextsLike


@dataclass(frozen=True)
class Quality:
    """Measures of a dictionary on texts.

    Attributes:
        explained: 1 − Σ‖y − ŷ‖² / Σ‖y − mean‖², the share of the variance that it explains.
        l0: mean number of active features of a token.
        dead: number of features that are active at no token.
        loss: of the model, mean −log p of each token but the first of a text, in nats.
        replaced: with the reconstruction in place of the activations.
        ablated: with their mean in place of the activations.
        recovered: (ablated − replaced) / (ablated − loss), 1 if nothing is lost.
        tokens: of the texts.
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
    count = texts.tokens
    total, squares = torch.zeros(1), torch.zeros(1)
    for batch in batches:
        written = captured(named, dictionary.writes, batch.ids).double().cpu()
        total, squares = total + written.sum((0, 1)), squares + written.square().sum((0, 1, 3))
    mean = total / count  # source d_model
    variance = squares - count * mean.square().sum(-1)
    wrong, active = torch.zeros(len(named), dtype=torch.double), torch.zeros(len(dictionary), dtype=torch.long)
    losses, fired = torch.zeros(3, len(named), dtype=torch.double), 0
    for batch in steps(batches, progress, "measures of a dictionary"):
        read, written = (captured(named, site, batch.ids) for site in (dictionary.reads, dictionary.writes))
        given = read if dictionary.sources else read[:, :, 0]
        firing = dictionary.encode(given)
        made = dictionary.decode(firing, given)
        made = made if dictionary.sources else made[:, :, None]  # batch pos source d_model
        wrong += (written - made).double().square().sum((0, 1, 3)).cpu()
        ids = firing.indices[firing.values > 0].cpu()
        active += torch.bincount(ids, minlength=len(dictionary))
        fired += len(ids)
        for number, model in enumerate(named.values()):
            shape = model.run(batch.ids[:1, :1], capture=dictionary.writes)[dictionary.writes].shape[2:]
            others = (None, made[:, :, number], mean[number].float().expand(made[:, :, number].shape))
            for row, other in enumerate(others):
                change = () if other is None else edits.replace(dictionary.writes, other.unflatten(-1, shape))
                logits = model.run(batch.ids, edits=change).logits[:, :-1]
                losses[row, number] += next_token_statistics(logits, batch.ids[:, 1:])["loss"].double().sum().cpu()
    losses /= count - len(texts)
    found = {}
    for number, name in enumerate(named):
        loss, replaced, ablated = losses[:, number].tolist()
        found[name] = Quality(
            explained=1 - float(wrong[number] / variance[number]),
            l0=fired / count,
            dead=int((active == 0).sum()),
            loss=loss,
            replaced=replaced,
            ablated=ablated,
            recovered=(ablated - replaced) / (ablated - loss),
            tokens=count,
        )
    return found
