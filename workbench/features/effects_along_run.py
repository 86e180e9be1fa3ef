"""`effects_along_run`: what each feature of a crosscoder does for one prediction, at each checkpoint.

There is no graph of features along a training run. The edges of an attribution graph join features of different layers,
and its transcoders are those of one checkpoint: number 417 of another checkpoint's dictionary is another feature. Only
the features of a crosscoder are the same in all of its checkpoints; they are all of one site, so no edge joins two of
them. What is defined along a run is the effect of each on the prediction.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import chosen, one_text
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.errors import WorkbenchError
from workbench.features.births import FeatureBirths, births, revision_of
from workbench.features.dictionary import Dictionary
from workbench.features.editing import add_flat
from workbench.features.reading import by_source, read_by
from workbench.progress import Progress, steps
from workbench.results import Curves, Grid
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_id, vocabulary_labels

WHAT = "effects along a run"
LOGIT = "logit"
ACTIVE_AT_MOST = 64
"""The number of features that a plan takes to be active at a token for a gate without a k."""


class EffectsAlongRun(NamedTuple):
    """Effects of features on one prediction.

    Attributes:
        effect: lines over the steps of the run, in logits: the `logit` of the unchanged models, and how much it falls
            without each feature, those of the largest effect at any checkpoint first.
        ends: feature × final checkpoint: the same at the end of the run and in the sources that differ from it in data
            order only. How far the columns differ is the noise of these effects. None for fewer than two finals.
    """

    effect: Curves
    ends: Grid | None


class _Question(NamedTuple):
    """The logit that effects are on: that of a token less the mean over the vocabulary, or less that of another one."""

    token: int
    against: int | None

    def of(self, logits: Tensor) -> Tensor:
        """logits: … vocab; returns …, float64."""
        logits = logits.double()
        return logits[..., self.token] - (logits.mean(-1) if self.against is None else logits[..., self.against])

    def said(self, tokenizer: Tokenizer | None) -> str:
        """The tokens of the logit in words."""
        token, against = vocabulary_labels([self.token, self.against or 0], tokenizer)
        return token if self.against is None else f"{token} minus {against}"


@torch.no_grad()
def effects_along_run(
    dictionary: Dictionary,
    models: Mapping[str, OlmoForCausalLM],
    tokens: TextsLike,
    token: int | str | None = None,
    against: int | str | None = None,
    *,
    position: int = -1,
    most: int = 12,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> EffectsAlongRun:
    """How much the prediction after a prompt falls without each feature of a crosscoder, at each checkpoint of a run.

    At each checkpoint, what a feature writes at all tokens of the prompt (its activation times its direction in the
    checkpoint) is subtracted, and the error is kept. Everything after it responds, so the effects of features do not
    add up. The activation is the same at all checkpoints, because a crosscoder has one activation for all of them.

    Args:
        dictionary: a crosscoder over checkpoints of one run, as for `births`.
        models: all of its sources by id.
        tokens: one text.
        token: the token whose logit is explained, an id or with a `tokenizer` its text; the likeliest one of the last
            checkpoint if not given.
        against: a token whose logit is subtracted; the mean logit if not given.
        position: the position of the prediction; negative ones count from the end.
        most: the largest number of features in the result.
        tokenizer: for tokens as text.
        progress: called after each checkpoint.

    Cost: a forward pass of each source over the prompt for each feature that is active in it.

    Errors: those of `births`, and WorkbenchError for several texts, a position outside the text, an unknown token,
    `most` below 1, a prompt at which no feature is active, or models that are missing or do not fit.
    """
    if most < 1:
        raise WorkbenchError(f"most is {most}; it should be at least 1")
    born, named = births(dictionary), by_source(dictionary, models)
    last = named[born.checkpoints[-1]]
    batch = one_text(tokens, last)
    (position,) = chosen([position], batch.shape[1], "position")
    ids = batch[:, : position + 1]
    question = _question(last, ids, token, against, tokenizer)
    dictionary = dictionary.to(last.device)
    firing = dictionary.encode(read_by(dictionary, named, ids))
    active = firing.indices[firing.values > 0].unique().tolist()
    if not active:
        raise WorkbenchError("no feature of this crosscoder is active in the prompt")
    amounts = torch.stack([firing.of(feature)[0] for feature in active])  # feature pos
    found = np.empty((len(active) + 1, len(born.sources)))
    for place, name in enumerate(steps(born.sources, progress, WHAT)):
        directions = dictionary.directions[active, dictionary.source(name)] / dictionary.scale  # feature d_model
        found[:, place] = _falls(named[name], dictionary.writes, ids, question, amounts, directions)
    order = np.abs(found[1:]).max(1).argsort(kind="stable")[::-1][:most]
    rows, labels = found[[0, *(order + 1)]], [f"feature {active[row]}" for row in order]
    what, about = question.said(tokenizer), {"active features": len(active), "position": position}
    return EffectsAlongRun(_along_run(rows, labels, born, what, about), _at_the_ends(rows[1:], labels, born, what))


def _along_run(
    rows: np.ndarray, labels: Sequence[str], born: FeatureBirths, what: str, provenance: Mapping[str, object]
) -> Curves:
    """The logit and its falls (1 + feature source) as lines over the run; `what` the logit is of, in words."""
    return Curves(
        rows[:, : len(born.checkpoints)],
        [LOGIT, *labels],
        born.steps,
        x_name="step",
        title=f"Effects of features on the logit of {what}",
        value_name="logit, and its fall without a feature",
        provenance=provenance,
    )


def _at_the_ends(falls: np.ndarray, labels: Sequence[str], born: FeatureBirths, what: str) -> Grid | None:
    """The falls (feature source) in the final checkpoints; None for fewer than two of them."""
    if len(born.ends) < 2:
        return None
    return Grid(
        falls[:, [born.sources.index(name) for name in born.ends]],
        labels,
        [revision_of(name) for name in born.ends],
        row_name="feature",
        column_name="final checkpoint",
        title=f"Effects on the logit of {what}, in finals that differ in data order",
        value_name="fall of the logit",
        signed=True,
    )


@work_of(effects_along_run)
def _work(
    dictionary: Dictionary, models: Mapping[str, OlmoForCausalLM], tokens: TextsLike, *_: object, **__: object
) -> Work:
    """At most k features are active at each token, and some at several tokens."""
    named = by_source(dictionary, models)
    length = one_text(tokens, next(iter(named.values()))).shape[1]
    k = min(len(dictionary), dictionary.gate.k or ACTIVE_AT_MOST)
    passes = [sum(pass_flops(model, n * length, logits=n) for model in named.values()) for n in (k, k * length)]
    return Work(passes[0], at_most=passes[1])


def _question(
    model: OlmoForCausalLM, ids: Tensor, token: int | str | None, against: int | str | None, tokenizer: Tokenizer | None
) -> _Question:
    size = model.config.vocab_size
    token = int(model.run(ids, logits_to_keep=1).logits.argmax()) if token is None else token
    target = token_id(token, tokenizer, size)
    return _Question(target, None if against is None else token_id(against, tokenizer, size))


def _falls(
    model: OlmoForCausalLM, site: str, ids: Tensor, question: _Question, amounts: Tensor, directions: Tensor
) -> np.ndarray:
    """The logit of the unchanged model, and how much it falls without each feature: 1 + feature.

    amounts: feature pos; directions: feature d_model.
    """
    plain = question.of(model.run(ids, logits_to_keep=1).logits[0, -1])
    size = max(1, tokens_at_a_time(model, WHAT, run_bytes(model, logits=4), ids.shape[1]) // ids.shape[1])
    falls = []
    for rows in torch.arange(len(amounts)).split(size):
        written = amounts[rows][..., None] * directions[rows][:, None]  # feature pos d_model
        edit = add_flat(model, site, -written.to(model.device))
        logits = model.run(ids.expand(len(rows), -1), edits=edit, logits_to_keep=1).logits[:, -1]
        falls.append((plain - question.of(logits)).where(written.flatten(1).any(1).to(plain.device), 0.0))
    return torch.cat([plain[None], *falls]).cpu().numpy()
