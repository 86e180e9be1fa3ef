"""Metrics of heads: what they attend to, how they compose, and whether the model needs them."""

from hooks import OlmoForCausalLM
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.head_composition import LEAST_SAMPLES, READS, head_composition
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.by_label import means_by_label
from workbench.analyses.support.cost import Work, planned, work_of
from workbench.analyses.support.mean_loss import (
    loss_sums,
    mean_loss,
)
from workbench.analyses.support.named_tensors import ModelTensors
from workbench.analyses.support.part_swap import Part, Tensors, grafted, part_tensors
from workbench.analyses.trajectory import Metric
from workbench.errors import WorkbenchError
from workbench.metrics.text_lengths import long_enough, tokens_with_loss
from workbench.results import Grid, Scores
from workbench.texts import TextsLike

SCORES = {
    "entropy": (
        "entropy of attention",
        "How widely a head spreads its attention, in nats: 0 is attention to one token only.",
    ),
    "previous": ("previous-token score", "The mean weight of a head's queries on the previous token."),
    "first": (
        "first-token score",
        "The mean weight of a head's queries on the first token of the text (an attention sink).",
    ),
    "self": ("same-token score", "The mean weight of a head's queries on their own token."),
    "distance": ("mean distance looked back", "The mean number of tokens that a head looks back."),
    "duplicate": ("duplicate-token score", "The mean weight of a head's queries on earlier copies of their token."),
    "induction": (
        "induction score",
        "The mean weight of a head's queries on the token that followed the first copy of theirs, 0 to 1. Measured on "
        "random tokens that are repeated after random gaps.",
    ),
    "induction_error": ("standard error of the induction score", "Over the samples of random tokens."),
}
"""The measures of `head_atlas` as metrics: their names and notes."""


def head_scores(tokens: TextsLike, score: str, *, samples: int = 64, seed: int = 0) -> Metric:
    """One measure of `head_atlas` for every head: entropy, previous, first (sinks), self, distance, induction, …"""
    arguments = {"tokens": long_enough(tokens, 2), "score": score, "samples": samples, "seed": seed}
    name, note = SCORES.get(score, (score, ""))
    return Metric(f"{name} of each head", _head_score, arguments, note=note)


def composition(kind: str, *, distance: int | None = None) -> Metric:
    """The composition score of each pair of heads, by `kind`: "q", "k" or "v" of the head that reads; see
    `head_composition`. Lines are named `L0H1, L2H5`: the head that writes, and the one that reads.

    Errors: WorkbenchError for another kind.
    """
    if kind not in READS:
        raise WorkbenchError(f"no composition {kind!r}; choices: {', '.join(READS)}")
    note = f"How much a head's {READS[kind]} read of what an earlier head writes, from the weights: 0 to 1."
    return Metric(f"{kind.upper()}-composition of heads", _composition, {"kind": kind, "distance": distance}, note=note)


def head_needed(tokens: TextsLike, layer: int, head: int) -> Metric:
    """The rise of the loss, in nats, when a head has its weights from the first checkpoint of the run.

    It is about zero as long as the rest of the model does not depend on what the head has learned. See `needed_from`.
    For labelled texts there is one line for all texts and one for each label.
    """
    arguments = {"tokens": long_enough(tokens, 2), "part": Part("head", layer, (head,))}
    return Metric(
        f"need of L{layer}H{head}",
        _need,
        arguments,
        unit="nats",
        reference=_of_part,
        reference_at=0,
        note="Increase of the loss when the head has its weights from the first checkpoint.",
    )


def _head_score(model: OlmoForCausalLM, tokens: TextsLike, score: str, samples: int, seed: int) -> Grid:
    needs_samples = score.startswith("induction")
    atlas = head_atlas(model, tokens, samples=samples if needs_samples else 0, seed=seed)
    if score not in atlas:
        raise WorkbenchError(f"no head score {score!r}; scores: {', '.join(atlas)}, induction")
    return atlas[score]


@work_of(_head_score)
def _work_of_scores(model: OlmoForCausalLM, tokens: TextsLike, score: str, samples: int, **_: object) -> Work:
    return planned(head_atlas, model, tokens, samples=samples if score.startswith("induction") else 0)


def _composition(model: OlmoForCausalLM, kind: str, distance: int | None) -> dict[str, float]:
    pairs = head_composition(model, distance=distance, samples=LEAST_SAMPLES)[kind].table().dropna(subset="value")
    columns = (pairs["head that writes"], pairs["head that reads"], pairs["value"])
    return {f"{writer}, {reader}": value for writer, reader, value in zip(*columns, strict=True)}


@work_of(_composition)
def _work_of_composition(model: OlmoForCausalLM, kind: str, distance: int | None) -> Work:
    return planned(head_composition, model, distance=distance, samples=LEAST_SAMPLES)


def _of_part(model: OlmoForCausalLM, tokens: TextsLike, part: Part) -> Tensors:
    return part_tensors(ModelTensors(model), part)


def _need(model: OlmoForCausalLM, tokens: TextsLike, part: Part, reference: Tensors) -> Scores:
    texts, mixed = texts_for(model, tokens, at_least=2), grafted(model, reference, part)
    with mixed.tapped(edits=model.tapped_edits):
        change = loss_sums(mixed, texts) - loss_sums(model, texts)
    return means_by_label(texts, change, tokens_with_loss(texts))


@work_of(_need)
def _work_of_need(model: OlmoForCausalLM, tokens: TextsLike, part: Part, **_: object) -> Work:
    return planned(mean_loss, model, tokens).times(2)
