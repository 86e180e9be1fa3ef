"""`token_losses_without`: the loss of each token without groups of features, in each model of a dictionary."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM
from hooks.products import fast_products
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import next_token_statistics
from workbench.errors import WorkbenchError
from workbench.features.dictionary import Dictionary
from workbench.features.editing import add_flat
from workbench.features.firing import Firing
from workbench.features.reading import Models, by_source, captured
from workbench.progress import Progress, steps
from workbench.texts import TextsLike

WHAT = "losses without features"


@torch.no_grad()
def token_losses_without(
    dictionary: Dictionary,
    models: Models,
    groups: Sequence[Sequence[int]],
    texts: TextsLike,
    *,
    sources: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """−log p of each token when what a group of features writes is removed, and the error kept.

    Returns a tensor of the shape group source text pos, float32, in nats: one model at a time is changed, and all
    features of a group at once. NaN at the first token of a text and after its end. An empty group changes nothing.
    What a feature writes is computed from the unchanged models: its activation times its direction in that source.

    Args:
        dictionary: any of the three kinds.
        models: the model; for a crosscoder all of its sources by id, in any order.
        groups: numbers of features.
        texts: texts of at least two tokens.
        sources: for a crosscoder, the sources whose models are changed; None for all.
        progress: called after each batch.

    Errors: WorkbenchError for an unknown feature or source, or models that are not those of the dictionary.
    """
    named = by_source(dictionary, models)
    first = next(iter(named.values()))
    texts, dictionary = texts_for(first, texts, at_least=2), dictionary.to(first.device)
    for feature in [one for group in groups for one in group]:
        dictionary.check_feature(feature)
    numbers = _source_numbers(dictionary, sources)
    per_token = run_bytes(first, capture=[dictionary.reads], logits=3) * len(named) + 12 * len(dictionary)
    size = tokens_at_a_time(first, WHAT, per_token, texts.longest)
    found = torch.full((len(groups), len(numbers), len(texts), texts.longest), torch.nan)
    for rows, ids in steps(texts.padded_batches(size), progress, WHAT):
        read = captured(named, dictionary.reads, ids)
        given = read if dictionary.sources else read[:, :, 0]
        firing = dictionary.encode(given)
        losses = torch.full((len(groups), len(numbers), *ids.shape), torch.nan)
        for place, number in enumerate(numbers):
            model = list(named.values())[number]
            plain = losses_with_added(model, ids)
            for index, group in enumerate(groups):
                losses[index, place] = plain
                written = what_is_written(dictionary, firing, given, group, number)
                if (active := written.ne(0).flatten(1).any(1)).any():
                    losses[index, place, active.cpu()] = losses_with_added(
                        model, ids[active], dictionary.writes, -written[active]
                    )
        beyond = ~texts.mask[rows, : ids.shape[1]].cpu()
        found[:, :, rows, : ids.shape[1]] = losses.masked_fill(beyond, torch.nan)
    return found


def what_is_written(dictionary: Dictionary, firing: Firing, x: Tensor, group: Sequence[int], source: int) -> Tensor:
    """What a group of features writes in one source of a dictionary: batch pos d_model, float32.

    Args:
        dictionary: any of the three kinds.
        firing: the active features: batch pos slot.
        x: the activations that were encoded.
        group: the features.
        source: the number of the source; 0 if the dictionary is not a crosscoder.
    """
    if not dictionary.sources:
        parts = [dictionary.added(x, firing.of(feature), feature) for feature in group]
        return torch.stack(parts).sum(0) if parts else x.new_zeros(*x.shape[:-1], dictionary.decoder.shape[1])
    chosen = torch.zeros(len(dictionary), dtype=torch.bool, device=firing.indices.device)
    chosen[list(group)] = True
    amounts = firing.values * chosen[firing.indices]
    directions = dictionary.directions[:, source] / dictionary.scale
    slots = amounts.shape[-1]
    flat = firing.indices.reshape(-1, slots), amounts.reshape(-1, slots)
    summed = F.embedding_bag(flat[0], directions, per_sample_weights=flat[1], mode="sum")
    return summed.view(*amounts.shape[:-1], -1)


def _source_numbers(dictionary: Dictionary, sources: Sequence[str] | None) -> list[int]:
    """The numbers of the sources whose models are changed."""
    if sources is None:
        return list(range(max(1, len(dictionary.sources))))
    if not dictionary.sources:
        raise WorkbenchError(f"a {dictionary.kind} has no sources to choose from; it reads one model")
    return [dictionary.source(name) for name in sources]


@fast_products()
def losses_with_added(model: OlmoForCausalLM, ids: Tensor, site: str = "", change: Tensor | None = None) -> Tensor:
    """−log p of each token, with something added at a site: batch pos, NaN at the first."""
    ids = ids.to(model.device)
    change_of = () if change is None else (add_flat(model, site, change.to(model.device)),)
    losses = next_token_statistics(model.run(ids, edits=change_of).logits[:, :-1], ids[:, 1:])["loss"]
    return F.pad(losses.float(), (1, 0), value=torch.nan).cpu()
