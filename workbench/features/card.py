"""`card`: a description of one feature of a dictionary: where it is active, and its effect on logits, loss and text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM
from workbench.analyses.logit_lens import unembed
from workbench.errors import WorkbenchError
from workbench.features.dictionary import Dictionary
from workbench.features.editing import steer, written_in
from workbench.features.reading import Models, by_source
from workbench.features.scan import FeatureScan, of
from workbench.features.token_losses_without import losses_with_added
from workbench.progress import Progress, part
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels, vocabulary_labels

RESIDUAL_SITES = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Sites of the residual stream, or whose activations are added to it: their directions reach the logits directly."""


@dataclass(frozen=True)
class Example:
    """A place where a feature is active, and the tokens around it.

    Attributes:
        text, position: the number of the text, and the position in it.
        value: the activation of the feature there.
        start: the position of the first token that is shown.
        tokens: labels of the tokens that are shown.
        values: the activation of the feature at each of them.
    """

    text: int
    position: int
    value: float
    start: int
    tokens: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Neighbour:
    """A feature of another dictionary whose direction is near: the cosine of the angle between them."""

    dictionary: str
    feature: int
    cosine: float


@dataclass(frozen=True)
class Steered:
    """A text that was written with a feature steered by a strength."""

    strength: float
    text: str


@dataclass(frozen=True, eq=False, repr=False)
class FeatureCard:
    """A description of a feature.

    Attributes:
        dictionary: the dictionary in words.
        feature: its number.
        count, density: the number and the share of tokens at which it is active.
        peak, mean: its largest activation, and its mean where it is active.
        top: the places of its largest activations, one for each text, largest first.
        quantiles: places spread evenly over the ranks of its activations, largest first.
        histogram: (the edges of the bins, the number of places in each), over the places where it is active.
        raised, lowered: (label, effect) of the tokens whose logits it raises and lowers most: the change of the logit
            when what the feature writes is added at the last layer, through the final norm, less the mean change over
            the vocabulary; mean over the places of `top`. Empty for a site outside the residual stream.
        neighbours: the nearest features of other dictionaries.
        loss_change: the change of the loss when the feature is removed, in nats, mean over all tokens (but the
            first) of the texts of `top`; None if it is never active.
        loss_change_next: the same over the tokens that follow a place where it is active.
        steered: texts written with the feature steered.
    """

    dictionary: str
    feature: int
    count: int
    density: float
    peak: float
    mean: float
    top: tuple[Example, ...]
    quantiles: tuple[Example, ...]
    histogram: tuple[np.ndarray, np.ndarray]
    raised: tuple[tuple[str, float], ...]
    lowered: tuple[tuple[str, float], ...]
    neighbours: tuple[Neighbour, ...]
    loss_change: float | None
    loss_change_next: float | None
    steered: tuple[Steered, ...]

    def __repr__(self) -> str:
        return f"<FeatureCard of feature {self.feature} of {self.dictionary}: active at {self.density:.3%} of tokens>"

    def table(self) -> pd.DataFrame:
        """The examples: a row for each, with its text before, at and after the place."""
        rows = []
        for kind, examples in (("top", self.top), ("quantile", self.quantiles)):
            for one in examples:
                here = one.position - one.start
                pieces = (one.tokens[:here], one.tokens[here : here + 1], one.tokens[here + 1 :])
                before, token, after = ("".join(piece) for piece in pieces)
                rows.append([kind, one.text, one.position, one.value, before, token, after])
        return pd.DataFrame(rows, columns=["kind", "text", "position", "value", "before", "token", "after"])


@torch.no_grad()
def card(
    models: Models,
    dictionary: Dictionary,
    feature: int,
    texts: TextsLike | FeatureScan,
    *,
    source: str | None = None,
    others: Mapping[str, Dictionary] | None = None,
    prompt: Tensor | None = None,
    strengths: Sequence[float] = (),
    examples: int = 10,
    around: int = 12,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> FeatureCard:
    """A description of a feature: where it is active, and its effect on logits, loss and generated text.

    Args:
        models: the model; for a crosscoder all of its sources by id.
        dictionary: where the feature is from.
        feature: its number.
        texts: the texts in which examples are searched, or a scan of them, with which a card takes less time.
        source: for a crosscoder, the source whose model gives logits and losses; the last if not given.
        others: dictionaries in which near features are searched, by name; those of another width are left out.
        prompt: token ids, 1 pos, that the steered texts continue.
        strengths: the strengths to steer with, as multiples of the feature's peak.
        examples: the number of examples of each kind.
        around: the number of tokens to show before and after a place.
        tokenizer: for readable tokens; token ids without it.
        progress: called during a scan.

    Errors: WorkbenchError for an unknown feature or source; those of `features.of`.
    """
    dictionary.check_feature(feature)
    named = by_source(dictionary, models)
    dictionary = dictionary.to(next(iter(named.values())).device)
    scan = texts if isinstance(texts, FeatureScan) else of(named, texts, dictionary, progress=part(progress, 0.0, 0.9))
    if len(scan) != len(dictionary):
        raise WorkbenchError(f"the scan is of {len(scan):,} features, and the dictionary has {len(dictionary):,}")
    number = dictionary.source(source) if source is not None else max(0, len(dictionary.sources) - 1)
    asked = _Asked(named, dictionary, feature, number, list(named.values())[number])
    text, _, value = scan.places(feature)
    top = _first_of_each(text)[:examples]
    spread = torch.linspace(0, max(0, len(text) - 1), min(examples, len(text))).round().long().unique()
    shown = _Shown(scan, feature, around, tokenizer)
    raised, lowered = asked.logit_effects(scan, top, tokenizer, examples) if len(top) else ((), ())
    losses = asked.loss_changes(scan, text[top].tolist()) if len(top) else (None, None)
    counts, edges = np.histogram(value.numpy(), bins=20) if len(value) else (np.zeros(0, dtype=int), np.zeros(0))
    return FeatureCard(
        dictionary=repr(dictionary),
        feature=feature,
        count=len(text),
        density=len(text) / scan.texts.tokens,
        peak=float(value[0]) if len(value) else 0.0,
        mean=float(value.mean()) if len(value) else 0.0,
        top=tuple(shown.example(int(index)) for index in top),
        quantiles=tuple(shown.example(int(index)) for index in spread),
        histogram=(edges, counts),
        raised=raised,
        lowered=lowered,
        neighbours=nearest(dictionary, feature, others or {}, source=source),
        loss_change=losses[0],
        loss_change_next=losses[1],
        steered=asked.steered(prompt, strengths, float(value[0]) if len(value) else 1.0, tokenizer),
    )


def nearest(
    dictionary: Dictionary,
    feature: int,
    others: Mapping[str, Dictionary],
    *,
    source: str | None = None,
    most: int = 10,
) -> tuple[Neighbour, ...]:
    """The features of other dictionaries whose directions have the largest cosine with that of a feature.

    Of a crosscoder, the directions of its `source` are taken, and of others each source is a dictionary of its own.
    Those of another width are left out.
    """
    dictionary.check_feature(feature)
    own = dictionary.directions[feature]
    if dictionary.sources:
        own = own[dictionary.source(source) if source is not None else -1]
    found = []
    for name, other in others.items():
        parts = {f"{name} at {one}": other.directions[:, n] for n, one in enumerate(other.sources)}
        for label, directions in (parts or {name: other.directions}).items():
            if directions.shape[1] == len(own):
                cosines = F.cosine_similarity(directions, own[None])
                top = cosines.topk(min(most, len(cosines)))
                pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
                found += [Neighbour(label, index, cosine) for index, cosine in pairs]
    return tuple(sorted(found, key=lambda one: -one.cosine)[:most])


def _first_of_each(text: Tensor) -> Tensor:
    """The entries that are the first of their text, in order."""
    first = {one: index for index, one in reversed(list(enumerate(text.tolist())))}
    return torch.tensor(sorted(first.values())).long()


class _Shown:
    """The examples of a feature, with their neighbouring tokens."""

    def __init__(self, scan: FeatureScan, feature: int, around: int, tokenizer: Tokenizer | None) -> None:
        self.scan, self.around, self.tokenizer = scan, around, tokenizer
        self.text, self.position, self.value = scan.places(feature)

    def example(self, index: int) -> Example:
        """The place of an entry."""
        text, position = int(self.text[index]), int(self.position[index])
        ids = self.scan.texts[text].tolist()
        start, end = max(0, position - self.around), min(len(ids), position + self.around + 1)
        values = torch.zeros(len(ids))
        here = self.text == text
        values[self.position[here]] = self.value[here]
        labels = token_labels(ids, self.tokenizer)[start:end]
        return Example(text, position, float(self.value[index]), start, labels, tuple(values[start:end].tolist()))


@dataclass(frozen=True, eq=False)
class _Asked:
    """The inputs of a card of one feature.

    `model` is the model that the feature acts in. A crosscoder has several; `number` says which of its sources it is.
    """

    models: Mapping[str, OlmoForCausalLM]
    dictionary: Dictionary
    feature: int
    number: int
    model: OlmoForCausalLM

    def ids(self, scan: FeatureScan, text: int) -> Tensor:
        """The token ids of a text of the scan, 1 pos."""
        return scan.texts[text][None].to(self.model.device)

    def written(self, ids: Tensor) -> Tensor:
        """What the feature writes in each text: batch pos d_model, float32."""
        return written_in(self.dictionary, self.feature, self.models, ids, self.number)

    def logit_effects(
        self, scan: FeatureScan, top: Tensor, tokenizer: Tokenizer | None, most: int
    ) -> tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]:
        """The tokens that the feature raises and lowers most."""
        if self.dictionary.writes.rpartition(".")[2] not in RESIDUAL_SITES:
            return (), ()
        text, position, _ = scan.places(self.feature)
        total = torch.zeros(self.model.config.vocab_size)
        last = f"blocks.{self.model.config.num_hidden_layers - 1}.resid_post"
        for index in top.tolist():
            ids, here = self.ids(scan, int(text[index])), int(position[index])
            stream = self.model.run(ids, capture=last)[last][0, here]
            written = self.written(ids)[0, here].to(stream.dtype)
            change = (unembed(self.model, stream) - unembed(self.model, stream - written)).float()
            total += (change - change.mean()).cpu()
        mean = total / len(top)
        found = []
        for sign in (1, -1):
            ids_of = (sign * mean).topk(min(most, len(mean))).indices
            labels = vocabulary_labels(ids_of.tolist(), tokenizer)
            found.append(tuple(zip(labels, mean[ids_of].tolist(), strict=True)))
        return found[0], found[1]

    def loss_changes(self, scan: FeatureScan, texts: Sequence[int]) -> tuple[float | None, float | None]:
        """(the mean change of the loss without the feature, the same at the tokens after a place where it is active)"""
        changes, active = [], []
        for text in texts:
            ids = self.ids(scan, text)
            if ids.shape[1] < 2:
                continue
            written = self.written(ids)
            without = losses_with_added(self.model, ids, self.dictionary.writes, -written)
            changes.append((without - losses_with_added(self.model, ids))[0, 1:])
            active.append(written[0, :-1].ne(0).any(-1).cpu())
        if not changes:
            return None, None
        change, at = torch.cat(changes).double(), torch.cat(active)
        return float(change.mean()), float(change[at].mean()) if at.any() else None

    def steered(
        self, prompt: Tensor | None, strengths: Sequence[float], peak: float, tokenizer: Tokenizer | None
    ) -> tuple[Steered, ...]:
        """The texts that the steered model generates after the prompt, with the likeliest token at each step."""
        if prompt is None:
            return ()
        source = self.dictionary.sources[self.number] if self.dictionary.sources else None
        how: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False}
        found = []
        for strength in strengths:
            edit = steer(self.dictionary, self.feature, strength * peak, source=source)
            new = self.model.generate(prompt, attention_mask=torch.ones_like(prompt), edits=[edit], **how)
            ids = new[0, prompt.shape[1] :].tolist()
            found.append(Steered(float(strength), ("" if tokenizer else " ").join(token_labels(ids, tokenizer))))
        return tuple(found)
