"""Measures of one feature at one checkpoint of a run, for `trajectory`: how often it fires, and how much the loss rises
without it.
"""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.activations.recording import weights_digest
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.errors import WorkbenchError
from workbench.features.births import SHARE, sizes_of
from workbench.features.dictionary import Dictionary
from workbench.features.reading import captured
from workbench.features.scan import FeatureScan
from workbench.features.token_losses_without import losses_with_added
from workbench.texts import Texts, TextsLike

DTYPES = (None, torch.bfloat16, torch.float16, torch.float32)
"""Dtypes in which the weights of a checkpoint may have been when a crosscoder was trained; None for its own."""


@torch.no_grad()
def density_at(model: OlmoForCausalLM, dictionary: Dictionary, feature: int, tokens: TextsLike | FeatureScan) -> float:
    """The share of tokens at which a feature fires at one checkpoint.

    A sparse autoencoder or transcoder encodes the activations of the checkpoint. A crosscoder reads several models at
    once, so `tokens` must be a scan of it, and the model one of its sources, which is known by its weights: the feature
    fires where it is active and the source has at least half of its amount (see `MeasuredBirths`).

    Errors: WorkbenchError for an unknown feature, texts in place of a scan, or a model that is no source.
    """
    dictionary = dictionary.to(model.device)
    dictionary.check_feature(feature)
    if not dictionary.sources:
        texts = _texts_of(model, tokens)
        return float((_amounts(model, dictionary, feature, texts) > 0).sum() / texts.tokens)
    scan, number = _scan(dictionary, tokens), source_with_weights_of(dictionary, model)
    return float(_fires(model, dictionary, feature, scan, number).sum() / scan.texts.tokens)


@torch.no_grad()
def need_at(model: OlmoForCausalLM, dictionary: Dictionary, feature: int, tokens: TextsLike | FeatureScan) -> float:
    """The rise of the summed loss when a feature is removed at one checkpoint and the error kept, for each token at
    which it is active, in nats; 0 for one that is never active.

    For a crosscoder, `tokens` must be a scan of it, and the model one of its sources, as for `density_at`.

    Errors: those of `density_at`.
    """
    dictionary = dictionary.to(model.device)
    dictionary.check_feature(feature)
    if dictionary.sources:
        scan, number = _scan(dictionary, tokens), source_with_weights_of(dictionary, model)
        texts = scan.texts.to(model.device)
        amounts = _amounts_of(scan, feature).to(model.device)
    else:
        texts, number = _texts_of(model, tokens), 0
        amounts = _amounts(model, dictionary, feature, texts)
    active = int((amounts > 0).sum())
    if not active:
        return 0.0
    rise = 0.0
    for rows, ids in texts.padded_batches(_at_a_time(model, dictionary, texts)):
        here = amounts[rows, : ids.shape[1]]
        read = here if dictionary.sources else captured({"": model}, dictionary.reads, ids)[:, :, 0]
        written = dictionary.added(read, here, feature, number)
        losses = losses_with_added(model, ids, dictionary.writes, -written) - losses_with_added(model, ids)
        rise += float(losses[texts.mask[rows, : ids.shape[1]].cpu()].double().nansum())
    return rise / active


def source_with_weights_of(dictionary: Dictionary, model: OlmoForCausalLM) -> int:
    """The number of the source of a crosscoder whose weights a model has.

    Errors: WorkbenchError if it has those of none, or the crosscoder does not know the weights of its sources.
    """
    known = list(dictionary.provenance.get("weights", ()))
    if len(known) != len(dictionary.sources):
        raise WorkbenchError(
            "this crosscoder does not know the weights of its sources; features.train writes them down"
        )
    found = next((digest for dtype in DTYPES if (digest := weights_digest(model, dtype)) in known), None)
    if found is None:
        raise WorkbenchError(
            f"this checkpoint is not one of those that the crosscoder reads: {', '.join(dictionary.sources)}"
        )
    return known.index(found)


def _texts_of(model: OlmoForCausalLM, tokens: TextsLike | FeatureScan) -> Texts:
    return texts_for(model, tokens.texts if isinstance(tokens, FeatureScan) else tokens, at_least=2)


def _scan(dictionary: Dictionary, tokens: TextsLike | FeatureScan) -> FeatureScan:
    if not isinstance(tokens, FeatureScan):
        raise WorkbenchError("a crosscoder reads several models at once; give a scan of the texts, features.of(...)")
    if len(tokens) != len(dictionary):
        raise WorkbenchError(f"the scan is of {len(tokens):,} features, and the dictionary has {len(dictionary):,}")
    return tokens


def _at_a_time(model: OlmoForCausalLM, dictionary: Dictionary, texts: Texts) -> int:
    per_token = run_bytes(model, capture=[dictionary.reads, dictionary.writes], logits=4) + 8 * len(dictionary)
    return tokens_at_a_time(model, "a feature along a run", per_token, texts.longest)


def _amounts(model: OlmoForCausalLM, dictionary: Dictionary, feature: int, texts: Texts) -> Tensor:
    """The activation of a feature of a dictionary of one model: text pos, 0 after the end of a text."""
    found = torch.zeros(texts.ids.shape, device=model.device)
    for rows, ids in texts.padded_batches(_at_a_time(model, dictionary, texts)):
        read = captured({"": model}, dictionary.reads, ids)[:, :, 0]
        found[rows, : ids.shape[1]] = dictionary.encode(read).of(feature).to(found.device)
    return found.where(texts.mask.to(found.device), 0.0)


def _amounts_of(scan: FeatureScan, feature: int) -> Tensor:
    """The activation of a feature in a scan: text pos."""
    text, position, value = scan.places(feature)
    found = torch.zeros(scan.texts.ids.shape)
    found[text, position] = value
    return found


def _fires(model: OlmoForCausalLM, dictionary: Dictionary, feature: int, scan: FeatureScan, number: int) -> Tensor:
    """Whether a source fires at each place where a feature of a crosscoder is active: place, boolean."""
    text, position, value = scan.places(feature)
    size = sizes_of(dictionary)
    directions = dictionary.directions / dictionary.scale
    norms = (directions[feature] / size[:, None]).norm(dim=-1)
    unit = directions[feature, number] / size[number] / norms[number].clamp_min(1e-12)
    longest = scan.texts.longest
    index_of = torch.full((len(scan.texts) * longest,), -1)
    index_of[text * longest + position] = torch.arange(len(text))
    here = index_of[scan.text.long() * longest + scan.position]  # the number of the place of each entry, or −1
    feature_of = torch.arange(len(scan)).repeat_interleave(scan.counts)[here >= 0].to(directions.device)
    bias = dictionary.decoder_bias.unflatten(0, (len(size), -1))[number] / dictionary.scale
    made = bias.cpu().repeat(len(text), 1)  # place d_model
    made.index_add_(0, here[here >= 0], scan.value[here >= 0, None] * directions[feature_of, number].cpu())
    x = torch.zeros_like(made)
    for rows, ids in scan.texts.padded_batches(_at_a_time(model, dictionary, scan.texts)):
        found = captured({"": model}, dictionary.writes, ids)[:, :, 0].cpu()
        for index, row in enumerate(rows):
            of_row = text == row
            x[of_row] = found[index, position[of_row]]
    amount = value * norms[number].cpu() + ((x - made) / size[number].cpu()) @ unit.cpu()
    return amount >= SHARE * value * norms.max().cpu()
