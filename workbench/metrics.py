"""Ready-made metrics for `trajectory`: functions that return a `Metric`, and their helpers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench import features
from workbench.activations.shards import digest
from workbench.analyses.circuit import Circuit
from workbench.analyses.circuit import edge_scores as scores_of_edges
from workbench.analyses.compare_weights import weight_table
from workbench.analyses.directions import label_direction
from workbench.analyses.effective_rank import effective_rank as rank_of
from workbench.analyses.faithfulness import circuit_effect as effect_of_circuit
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.head_composition import LEAST_SAMPLES, READS, head_composition
from workbench.analyses.linear_probe import probe_accuracies
from workbench.analyses.residual_norms import mean_norms
from workbench.analyses.steering import steering_effect as effect_of
from workbench.analyses.support.answers import Answers
from workbench.analyses.support.arguments import one_text, texts_for
from workbench.analyses.support.by_label import means_by_label
from workbench.analyses.support.cost import Work, is_planned, pass_flops, planned, work_of
from workbench.analyses.support.labels import labels_of
from workbench.analyses.support.mean_loss import (
    loss_sums,
    loss_tokens_at_a_time,
    mean_loss,
    work_of_all_logits,
)
from workbench.analyses.support.memory import run_bytes
from workbench.analyses.support.named_tensors import ModelTensors
from workbench.analyses.support.named_values import Value
from workbench.analyses.support.next_tokens import next_token_statistics, work_of_text_statistics
from workbench.analyses.support.part_swap import Part, Tensors, grafted, part_tensors
from workbench.analyses.support.text_states import Position
from workbench.analyses.support.undefined import refuse_undefined
from workbench.analyses.trajectory import Metric
from workbench.checkpoints import Weights
from workbench.errors import WorkbenchError
from workbench.features.along_run import density_at, need_at
from workbench.interventions import Intervention, edits_of
from workbench.results import Curves, Grid, Scores
from workbench.text_pairs import TextPairs
from workbench.texts import Texts, TextsLike, as_texts
from workbench.tokens import token_id

LEAST_EFFECT = 0.05
"""The share of the largest effect along a run below which shares of an effect are not defined."""
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


def held_out_loss(tokens: TextsLike) -> Metric:
    """Mean −log p per token of held-out texts, on which the run was not trained, in nats.

    Of labelled texts, one line for all of them and one for each label.
    """
    note = "Mean −log p of the tokens of held-out texts; lower is better."
    return Metric("held-out loss", _held_out_loss, {"tokens": _long_enough(tokens, 2)}, unit="nats", note=note)


def head_scores(tokens: TextsLike, score: str, *, samples: int = 64, seed: int = 0) -> Metric:
    """One measure of `head_atlas` for every head: entropy, previous, first (sinks), self, distance, induction, …"""
    arguments = {"tokens": _long_enough(tokens, 2), "score": score, "samples": samples, "seed": seed}
    name, note = SCORES.get(score, (score, ""))
    return Metric(f"{name} of each head", _head_score, arguments, note=note)


def residual_norms(tokens: TextsLike) -> Metric:
    """The mean norm of the residual stream after each layer, without the first token of each text (often a sink)."""
    note = "Mean ‖x‖ after each layer, without the first token of each text."
    return Metric(
        "norm of the residual stream", mean_norms, {"tokens": _long_enough(tokens, 2)}, ordered=True, note=note
    )


def effective_rank(tokens: TextsLike) -> Metric:
    """RankMe of the hidden states of each layer (Garrido et al. 2023; its phases in OLMo: arXiv 2509.23024)."""
    note = "Number of directions that the tokens' hidden states use after each layer (RankMe)."
    return Metric("effective rank", _rank, {"tokens": _long_enough(tokens)}, unit="directions", ordered=True, note=note)


def continuation_log_prob(prompt: TextsLike, continuation: TextsLike) -> Metric:
    """The log-probability of a continuation after a prompt, in nats, summed over the tokens of the continuation.

    `prompt` and `continuation` are one text each.
    """
    arguments = {"prompt": one_text(prompt)[0], "continuation": one_text(continuation)[0]}
    note = "Log-probability of the continuation after the prompt, summed over its tokens."
    return Metric("log-probability of the continuation", _continuation, arguments, unit="nats", note=note)


def kl_to_last(tokens: TextsLike) -> Metric:
    """KL(last ‖ checkpoint) between next-token distributions, mean over the tokens of all texts, in nats.

    Of labelled texts, one line for all of them and one for each label.
    """
    arguments = {"tokens": _long_enough(tokens)}
    note = "KL divergence of the next-token predictions from those of the last checkpoint."
    return Metric("KL to the last checkpoint", _kl, arguments, unit="nats", reference=log_probs, note=note)


def probe_accuracy(
    tokens: TextsLike,
    labels: Sequence[object] | None = None,
    *,
    shuffled: bool = False,
    position: Position = -1,
    groups: Sequence[object] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Metric:
    """Accuracy of a linear probe for the label of a text, after each layer: the held-out texts of `linear_probe`, or
    with `shuffled` its control.

    `trajectory(series, probe_accuracy(texts)).grid("layer")` is a heat map of layer × step.
    """
    arguments = {
        "tokens": tokens,
        "labels": labels_of(as_texts(tokens), labels),
        "shuffled": shuffled,
        "position": position,
        "groups": None if groups is None else [str(group) for group in groups],
        "folds": folds,
        "seed": seed,
    }
    note = "Share of texts whose label a linear classifier reads after each layer, trained on other texts."
    name = "accuracy of a probe" + (" for shuffled labels" if shuffled else "")
    return Metric(name, probe_accuracies, arguments, ordered=True, note=note)


def steering_effect(
    tokens: TextsLike,
    toward: object,
    against: object | None,
    answers: tuple[Answers, Answers | None],
    *,
    layer: int | str,
    prompts: TextsLike | None = None,
    position: Position = -1,
    strength: float = 1.0,
    controls: int = 10,
    seed: int = 0,
) -> Metric:
    """The effect of a direction that is made anew at each checkpoint, from two labels of texts (`label_direction`).

    `answers` are the two sets of answers, for `toward` and `against`, whose log-odds are measured after the `prompts`
    (by default the texts themselves). Lines: the `direction`, and the `random, lowest` and `random, highest` of so many
    random directions of the same norm as `controls`. It works where it is larger in size than both.
    """
    arguments = {
        "tokens": tokens,
        "labels": labels_of(as_texts(tokens)),
        "between": (str(toward), None if against is None else str(against)),
        "prompts": tokens if prompts is None else prompts,
        "answers": answers,
        "read": (layer, position),
        "options": {"strength": strength, "controls": controls, "seed": seed},
    }
    note = (
        "Half the change of the log-odds of two sets of answers from −strength to +strength, for the direction between "
        "two labels and for random directions of its norm."
    )
    return Metric("effect of steering", _steering_effect, arguments, unit="nats", note=note)


def composition(kind: str, *, distance: int | None = None) -> Metric:
    """The composition score of each pair of heads, by `kind`: "q", "k" or "v" of the head that reads; see
    `head_composition`. Lines are named `L0H1, L2H5`: the head that writes, and the one that reads.

    Errors: WorkbenchError for another kind.
    """
    if kind not in READS:
        raise WorkbenchError(f"no composition {kind!r}; choices: {', '.join(READS)}")
    note = f"How much a head's {READS[kind]} read of what an earlier head writes, from the weights: 0 to 1."
    return Metric(f"{kind.upper()}-composition of heads", _composition, {"kind": kind, "distance": distance}, note=note)


def edge_scores(
    pairs: TextPairs,
    tokenizer: PreTrainedTokenizerBase,
    *,
    edges: Sequence[str] | None = None,
    steps: int = 5,
    replacement: str = "counterfactual",
) -> Metric:
    """The score of each edge between parts of the model, as in `circuit`, in logits.

    With `edges=None` of all edges, else of those named: "L1H5 → L2H5 k".
    """
    arguments = _of_pairs(pairs, tokenizer) | {"edges": edges, "steps": steps, "replacement": replacement}
    note = (
        "How much the answer to the clean prompts falls if an edge carries its replacement, estimated from gradients."
    )
    return Metric("scores of edges", scores_of_edges, arguments, unit="logits", note=note)


def circuit_effect(
    circuit: Circuit, size: int, pairs: TextPairs, tokenizer: PreTrainedTokenizerBase, *, draws: int = 5, seed: int = 0
) -> Metric:
    """The logits that each of four sets of edges carries: the best `size` edges of a circuit, all edges, all but the
    best, and random ones.

    With the circuit of the last checkpoint this says when it forms: see `circuit_shares`.
    """
    kept = circuit.top(size).names
    arguments = _of_pairs(pairs, tokenizer) | {"kept": kept, "replacement": circuit.replacement}
    note = "The answer with these edges alone, less the answer with none. Random circuits have as many edges."
    return Metric(
        f"effect of a circuit of {size} edges",
        effect_of_circuit,
        arguments | {"draws": draws, "seed": seed},
        unit="logits",
        note=note,
    )


def _of_pairs(pairs: TextPairs, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The arguments of patching, with the answers as ids."""
    answers, others = (
        None if words is None else [token_id(word, tokenizer, len(tokenizer)) for word in words]
        for words in (pairs.answers, pairs.others)
    )
    return {"clean": pairs.clean, "corrupted": pairs.corrupted, "token": answers, "against": others}


def weight_change() -> Metric:
    """‖B − A‖ / ‖A‖ per training step, from the previous checkpoint A to each checkpoint B: for all parameters and by
    layer.

    Computed from the files, without loading models. The first checkpoint has no previous one and is undefined (NaN).
    """
    note = (
        "‖B − A‖ / ‖A‖ from the previous checkpoint A to this one, B, by layer, divided by the steps between them. "
        "Steps partly cancel each other, so compare only values over equal numbers of steps."
    )
    return Metric("relative weight change per step", _change, reads="weights", note=note)


def head_needed(tokens: TextsLike, layer: int, head: int) -> Metric:
    """The rise of the loss, in nats, when a head has its weights from the first checkpoint of the run.

    It is about zero as long as the rest of the model does not depend on what the head has learned. See `needed_from`.
    Of labelled texts, one line for all of them and one for each label.
    """
    arguments = {"tokens": _long_enough(tokens, 2), "part": Part("head", layer, (head,))}
    return Metric(
        f"need of L{layer}H{head}",
        _need,
        arguments,
        unit="nats",
        reference=_of_part,
        reference_at=0,
        note="Increase of the loss when the head has its weights from the first checkpoint.",
    )


def feature_density(dictionary: features.Dictionary, feature: int, texts: TextsLike | features.FeatureScan) -> Metric:
    """The share of tokens at which a feature of a dictionary fires.

    A sparse autoencoder or transcoder reads the activations of each checkpoint, though it was trained on those of one.
    For a crosscoder, give a scan of the texts, and the checkpoints that it reads:

        scan = features.of(models, texts, crosscoder)
        run = [one for one in series if one.id in crosscoder.sources]
        trajectory(run, metrics.feature_density(crosscoder, 469, scan))

    There the feature fires in a checkpoint where it is active and the checkpoint has at least half of its amount (see
    `features.MeasuredBirths`).
    """
    note = "Share of the tokens of the texts at which the feature fires."
    return Metric(f"density of feature {feature}", density_at, _of_feature(dictionary, feature, texts), note=note)


def feature_need(dictionary: features.Dictionary, feature: int, texts: TextsLike | features.FeatureScan) -> Metric:
    """The rise of the summed loss when a feature is taken away and the error kept, in nats for each token at which it
    is active. `texts` as for `feature_density`.
    """
    note = "Rise of the loss without the feature, summed over all later tokens, for each token at which it is active."
    arguments = _of_feature(dictionary, feature, texts)
    return Metric(f"need of feature {feature}", need_at, arguments, unit="nats", note=note)


def _of_feature(
    dictionary: features.Dictionary, feature: int, texts: TextsLike | features.FeatureScan
) -> dict[str, Any]:
    """The arguments of a measure of a feature, checked."""
    dictionary.check_feature(feature)
    if dictionary.sources and not isinstance(texts, features.FeatureScan):
        raise WorkbenchError("a crosscoder reads several models at once; give a scan of the texts, features.of(...)")
    return {"dictionary": dictionary, "feature": feature, "tokens": texts}


def intervened(metric: Metric, changes: Sequence[Intervention]) -> Metric:
    """A metric of each checkpoint with the same changes made in it (see `workbench.interventions`).

    If the metric has a reference, such as the last checkpoint, the changes are made in the reference too.

        changes = interventions.read("L2H5 off")
        trajectory(series, metrics.intervened(metrics.held_out_loss(tokens), changes))

    Errors: WorkbenchError for a metric of weights, which no change of activations affects.
    """
    if metric.reads != "model":
        raise WorkbenchError(f"{metric.name} is computed from weights; changes of activations do not affect it")
    arguments: dict[str, Any] = {"metric": metric, "changes": tuple(changes)}
    if marks := _dictionaries_of(changes):  # so that a result is not kept for another dictionary of the same name
        arguments["dictionaries"] = marks
    return replace(
        metric,
        name=f"{metric.name} with {', '.join(map(str, changes))}",
        function=_with_changes,
        arguments=arguments,
        reference=None if metric.reference is None else _reference_with_changes,
    )


def circuit_shares(effect: Curves) -> Curves:
    """The shares of the effect of all edges, at each checkpoint: what a circuit keeps, and what random ones keep.

        shares = circuit_shares(trajectory(series, circuit_effect(circuit, 60, pairs, tokenizer)))
        needed_from(shares, "highest of random edges")

    The second line is the step from which the circuit's faithfulness exceeds that of every random circuit drawn.
    Lines: "the circuit", "all other edges", "random edges" (mean over the draws), "highest of random edges". NaN at
    checkpoints where the effect of all edges is less than `LEAST_EFFECT` of its largest, since a share of nearly
    nothing says nothing.

    Errors: WorkbenchError for curves that are not those of `circuit_effect`.
    """
    if tuple(effect.lines[:1]) != ("all edges",):
        raise WorkbenchError(f"the lines are {', '.join(effect.lines[:3])}; give the trajectory of `circuit_effect`")
    whole = effect.values[0]
    shares = np.where(whole >= LEAST_EFFECT * whole.max(), effect.values[1:] / np.where(whole == 0, 1, whole), np.nan)
    return replace(
        effect, values=shares, lines=effect.lines[1:], errors=None, unit="", value_name="share of the effect"
    )


def strongest_lines(curves: Curves, count: int) -> Curves:
    """The `count` lines with the largest absolute value at any point, the largest first.

        strongest_lines(trajectory(series, edge_scores(pairs, tokenizer)), 8)

    These are the edges that carry most at some checkpoint, also if they carry nothing at the last one.

    Errors: WorkbenchError for a count below 1.
    """
    if count < 1:
        raise WorkbenchError(f"no choice of {count} lines; give 1 or more")
    largest = np.nan_to_num(np.abs(curves.values)).max(1)
    places = np.argsort(-largest, kind="stable")[:count]
    return replace(
        curves,
        values=curves.values[places],
        lines=[curves.lines[place] for place in places],
        errors=None if curves.errors is None else curves.errors[places],
        texts=[curves.texts[place] for place in places] if np.ndim(curves.texts) else curves.texts,
    )


def needed_from(curve: Curves, floor: float | str, line: int = 0) -> float | None:
    """The position on the axis from which a line stays above `floor` until the end; None if its last value is not above
    it. `floor` is a number, or the name of another line.

    With `head_needed` and the noise floor of the loss, this is the step from which the head is needed; with
    `circuit_shares`, the step from which a circuit is more than random edges.

    Errors: WorkbenchError for a line that the curves do not have.
    """
    if isinstance(floor, str) and floor not in curve.lines:
        raise WorkbenchError(f"no line {floor!r}; choices: {', '.join(curve.lines)}")
    above = curve.values[line] > (curve.values[curve.lines.index(floor)] if isinstance(floor, str) else floor)
    if not above[-1]:
        return None
    below = [index for index, high in enumerate(above) if not high]
    return float(curve.x[below[-1] + 1 if below else 0])


def _long_enough(tokens: TextsLike, at_least: int = 1) -> TextsLike:
    """The texts unchanged, after a check of their lengths. (Padding is recognised later, with the configuration of the
    model.)

    Errors: those of `as_texts`, and WorkbenchError for a text of fewer than `at_least` tokens.
    """
    shortest = min(as_texts(tokens).lengths)
    if shortest < at_least:
        raise WorkbenchError(f"a text has {shortest} tokens; this needs at least {at_least}")
    return tokens


def log_probs(model: OlmoForCausalLM, tokens: TextsLike) -> np.ndarray:
    """Log-probabilities of the next token after every token, texts in sequence: token vocab, float32."""
    texts = texts_for(model, tokens)
    loss_tokens_at_a_time(model, texts, kept=texts.tokens * model.config.vocab_size * 4)
    return torch.cat([model.run(ids[None]).logits[0].float().log_softmax(-1).cpu() for ids in texts]).numpy()


def _composition(model: OlmoForCausalLM, kind: str, distance: int | None) -> dict[str, float]:
    pairs = head_composition(model, distance=distance, samples=LEAST_SAMPLES)[kind].table().dropna(subset="value")
    columns = (pairs["head that writes"], pairs["head that reads"], pairs["value"])
    return {f"{writer}, {reader}": value for writer, reader, value in zip(*columns, strict=True)}


@work_of(_composition)
def _work_of_composition(model: OlmoForCausalLM, kind: str, distance: int | None) -> Work:
    return planned(head_composition, model, distance=distance, samples=LEAST_SAMPLES)


def _held_out_loss(model: OlmoForCausalLM, tokens: TextsLike) -> Scores:
    texts = texts_for(model, tokens, at_least=2)
    return means_by_label(texts, loss_sums(model, texts), _predicted(texts))


work_of(_held_out_loss)(work_of_text_statistics)


def _predicted(texts: Texts) -> Tensor:
    """The number of tokens of each text that have a loss, all but the first: text."""
    return texts.mask.sum(1).cpu() - 1


def _head_score(model: OlmoForCausalLM, tokens: TextsLike, score: str, samples: int, seed: int) -> Grid:
    needs_samples = score.startswith("induction")
    atlas = head_atlas(model, tokens, samples=samples if needs_samples else 0, seed=seed)
    if score not in atlas:
        raise WorkbenchError(f"no head score {score!r}; scores: {', '.join(atlas)}, induction")
    return atlas[score]


@work_of(_head_score)
def _work_of_scores(model: OlmoForCausalLM, tokens: TextsLike, score: str, samples: int, **_: object) -> Work:
    return planned(head_atlas, model, tokens, samples=samples if score.startswith("induction") else 0)


def _rank(model: OlmoForCausalLM, tokens: TextsLike) -> Curves:
    return rank_of(model, tokens)


@work_of(_rank)
def _work_of_rank(model: OlmoForCausalLM, tokens: TextsLike) -> Work:
    return planned(rank_of, model, tokens)


def _continuation(model: OlmoForCausalLM, prompt: Tensor, continuation: Tensor) -> float:
    tokens = torch.cat([prompt, continuation])[None].to(model.device)
    logits = model.run(tokens, logits_to_keep=len(continuation) + 1).logits[:, :-1]
    return -next_token_statistics(logits, tokens[:, len(prompt) :])["loss"].double().sum().item()


@work_of(_continuation)
def _work_of_continuation(model: OlmoForCausalLM, prompt: Tensor, continuation: Tensor) -> Work:
    count, new = len(prompt) + len(continuation), len(continuation) + 1
    return Work(
        pass_flops(model, count, logits=new), nbytes=count * run_bytes(model) + new * run_bytes(model, logits=2)
    )


def _steering_effect(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    labels: tuple[str, ...],
    between: tuple[str, str | None],
    prompts: TextsLike,
    answers: tuple[Answers, Answers | None],
    read: tuple[int | str, Position],
    options: dict[str, Any],
) -> dict[str, float]:
    direction = label_direction(model, tokens, *between, labels=labels, layer=read[0], position=read[1])
    effect = effect_of(model, prompts, direction, *answers, **options).values
    lowest, highest = effect[1:].min(), effect[1:].max()
    return {"direction": float(effect[0]), "random, lowest": float(lowest), "random, highest": float(highest)}


@work_of(_steering_effect)
def _work_of_effect(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    prompts: TextsLike,
    answers: tuple[Answers, Answers | None],
    read: tuple[int | str, Position],
    options: dict[str, Any],
    **_: object,
) -> Work:
    direction = planned(label_direction, model, tokens, layer=read[0])
    return direction + planned(effect_of, model, prompts, None, *answers, **options)


def _kl(model: OlmoForCausalLM, tokens: TextsLike, reference: np.ndarray) -> Scores:
    texts = texts_for(model, tokens)
    loss_tokens_at_a_time(model, texts)
    sums, start = torch.empty(len(texts), dtype=torch.float64), 0
    for row, ids in enumerate(texts):
        mine = model.run(ids[None]).logits[0].float().log_softmax(-1).cpu()
        last = torch.tensor(reference[start : start + len(ids)])
        sums[row] = (last.exp() * (last - mine)).sum(dtype=torch.float64).clamp_min(0)
        start += len(ids)
    refuse_undefined(sums, "KL divergence", texts)
    return means_by_label(texts, sums, texts.mask.sum(1).cpu())


work_of(log_probs)(work_of_all_logits)
work_of(_kl)(work_of_all_logits)


def _change(weights: Weights, previous: Weights | None, steps: int | None) -> dict[str, float]:
    names = [f"layer {layer}" for layer in range(weights.config.num_hidden_layers)]
    if previous is None or not steps:
        return dict.fromkeys(["all", *names], float("nan"))
    table = weight_table(previous, weights)
    whole = table[table["head"] == ""].assign(changed=lambda t: t["distance"] ** 2, size=lambda t: t["norm_a"] ** 2)
    sums = whole.groupby("layer")[["changed", "size"]].sum()
    relative = [whole["changed"].sum() / whole["size"].sum(), *(sums["changed"] / sums["size"])]
    return {name: square**0.5 / steps for name, square in zip(["all", *names], relative, strict=True)}


def _of_part(model: OlmoForCausalLM, tokens: TextsLike, part: Part) -> Tensors:
    return part_tensors(ModelTensors(model), part)


def _need(model: OlmoForCausalLM, tokens: TextsLike, part: Part, reference: Tensors) -> Scores:
    texts, mixed = texts_for(model, tokens, at_least=2), grafted(model, reference, part)
    with mixed.tapped(edits=model.tapped_edits):
        change = loss_sums(mixed, texts) - loss_sums(model, texts)
    return means_by_label(texts, change, _predicted(texts))


@work_of(_need)
def _work_of_need(model: OlmoForCausalLM, tokens: TextsLike, part: Part, **_: object) -> Work:
    return planned(mean_loss, model, tokens).times(2)


def _dictionaries_of(changes: Sequence[Intervention]) -> tuple[str, ...]:
    """Digests of the dictionaries whose features are changed."""
    found = [features.load(change.target.site) for change in changes if change.target.feature is not None]
    return tuple(
        digest({"encoder": one.encoder, "bias": one.encoder_bias, "decoder": one.decoder, "rest": one.decoder_bias})
        for one in found
    )


def _with_changes(
    model: OlmoForCausalLM,
    metric: Metric,
    changes: Sequence[Intervention],
    dictionaries: tuple[str, ...] = (),
    **reference: object,
) -> Value:
    with model.tapped(edits=edits_of(model, changes)):
        return metric.function(model, **metric.arguments, **reference)


@work_of(_with_changes)
def _work_with_changes(model: OlmoForCausalLM, metric: Metric, **_: object) -> Work:
    return planned(metric.function, model, **metric.arguments) if is_planned(metric.function) else Work(0)


def _reference_with_changes(
    model: OlmoForCausalLM, metric: Metric, changes: Sequence[Intervention], dictionaries: tuple[str, ...] = ()
) -> object:
    assert metric.reference is not None
    with model.tapped(edits=edits_of(model, changes)):
        return metric.reference(model, **metric.arguments)
