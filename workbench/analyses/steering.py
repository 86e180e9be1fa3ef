"""The effect of adding a direction, by its strength, compared with random directions of the same norm."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from hooks import Edit, OlmoForCausalLM, edits
from workbench.analyses.support.answers import (
    Answer,
    Answers,
    answer_log_probs,
    answer_tokens_at_a_time,
    answers_for,
    answers_work,
    check_apart,
)
from workbench.analyses.support.arguments import chosen, texts_for
from workbench.analyses.support.cost import Work, planned, work_of
from workbench.analyses.support.direction import Direction
from workbench.analyses.support.mean_loss import mean_loss
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Curves, Measures, Scores
from workbench.texts import Texts, TextsLike

STRENGTHS = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
LINES = ("direction", "random, mean", "random, lowest", "random, highest")
LARGEST = -6e-8  # log-probabilities are at most this, so that 1 − p is above 0 in float32
Positions = int | Sequence[int] | None


def steering(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    direction: Direction,
    toward: Answers,
    against: Answers | None = None,
    *,
    strengths: Sequence[float] = STRENGTHS,
    unrelated: TextsLike | None = None,
    controls: int = 5,
    positions: Positions = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measures[Curves]:
    """How the answers to prompts change with the strength of a direction that is added to the activations.

    `toward` and `against` are two sets of answers: token ids, or texts of any length. The probability of a set is the
    sum over its answers; without `against`, the other set is every other continuation. The direction is added at all
    positions, or at `positions` of the prompt (numbers; negative ones count from the prompt's end).

    Returns Curves over strength, means over the prompts:

    - `log_odds`: log p(toward) − log p(against), in nats: 0 if both sets are equally likely.
    - `probability`: p(toward) / (p(toward) + p(against)), 0 to 1.
    - `answers`, if `against` is given: p(toward) + p(against), 0 to 1. Near 0, the model answers with something else.
    - `loss`, if `unrelated` is given: the mean −log p of the tokens of these texts, in nats, with the direction added
      at every position. It shows how much steering harms other predictions.

    The lines are `direction`, with standard errors over the prompts, and three of `controls` random directions of the
    same norm: their mean, with standard errors over directions, their lowest and their highest value. There are no
    errors for the loss, a single prompt or a single random direction (NaN).

    Sources: Turner et al. 2023, "Steering language models with activation engineering"; Rimsky et al. 2024, "Steering
    Llama 2 via contrastive activation addition"; Zou et al. 2023, "Representation engineering".

    Errors: WorkbenchError if an answer is given twice or is the beginning of another one, `strengths` is empty,
    `controls` is below 1, or a position is outside a prompt; a HooksError if the direction does not fit the model.
    """
    texts, sets = texts_for(model, tokens), _sets(model, toward, against)
    others = None if unrelated is None else texts_for(model, unrelated, at_least=2)
    share = 1.0 if others is None else texts.tokens / (texts.tokens + others.tokens)
    directions = _with_controls(direction, controls, seed)
    log_p = _log_probabilities(model, texts, directions, sets, strengths, positions, part(progress, 0.0, share))
    measures = {
        "log_odds": log_p[..., 0] - log_p[..., 1],  # direction strength text
        "probability": (log_p[..., 0] - log_p.logsumexp(-1)).exp(),
    }
    if against is not None:
        measures["answers"] = log_p.logsumexp(-1).exp()
    if others is not None:
        measures["loss"] = _losses_on(model, others, directions, strengths, part(progress, share, 1.0))[..., None]
    origin = {"direction": direction.made, "site": direction.site, "norm": direction.norm, "seed": seed}
    counted = f"{len(texts)} prompt{'s' if len(texts) > 1 else ''}, {controls} random directions"
    return Measures(
        **{
            name: Curves(
                _plot_lines(values.mean(-1)),
                LINES,
                strengths,
                x_name="strength",
                errors=None if name == "loss" else _errors(values),
                title=f"Steering at {direction.site}: {counted}",
                value_name=name.replace("_", " "),
                as_percent=name == "probability",
                unit="nats" if name in ("log_odds", "loss") else "",
                signed=name == "log_odds",
                provenance=origin,
            )
            for name, values in measures.items()
        }
    )


def steering_effect(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    direction: Direction,
    toward: Answers,
    against: Answers | None = None,
    *,
    strength: float = 1.0,
    controls: int = 10,
    positions: Positions = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Half the change of the log-odds of two sets of answers from −strength to +strength, in nats, mean over prompts.

    Returns Scores: the effect of the `direction`, and of `controls` random directions of the same norm (`random 1`, …).
    The effect of the direction is beyond chance if its absolute value is larger than all of theirs. (Absolute values,
    because the opposite of a random direction is a random direction too.) The arguments and sources are those of
    `steering`.

    Errors: WorkbenchError for a strength that is not above 0, and those of `steering`.
    """
    if not strength > 0:
        raise WorkbenchError(f"strength is {strength:g}; it should be above 0")
    texts, sets = texts_for(model, tokens), _sets(model, toward, against)
    directions = _with_controls(direction, controls, seed)
    log_p = _log_probabilities(model, texts, directions, sets, (-strength, strength), positions, progress)
    odds = (log_p[..., 0] - log_p[..., 1]).mean(-1)  # direction strength
    return Scores(
        (odds[:, 1] - odds[:, 0]) / 2,
        ["direction", *(f"random {number + 1}" for number in range(controls))],
        title=f"Effect of {direction.made or 'a direction'} at {direction.site}",
        value_name="change of log odds",
        unit="nats",
        signed=True,
        provenance={"site": direction.site, "norm": direction.norm, "strength": strength, "seed": seed},
    )


@work_of(steering)
def _work(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    direction: object,
    toward: Answers,
    against: Answers | None = None,
    *,
    strengths: Sequence[float] = STRENGTHS,
    unrelated: TextsLike | None = None,
    controls: int = 5,
    **_: object,
) -> Work:
    cells = (controls + 1) * len(strengths)
    answers = [answer for answers in _sets(model, toward, against) for answer in answers]
    work = answers_work(model, texts_for(model.config, tokens), answers, "steering", cells)
    return work if unrelated is None else work + planned(mean_loss, model, unrelated).times(cells)


@work_of(steering_effect)
def _work_of_effect(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    direction: object,
    toward: Answers,
    against: Answers | None = None,
    *,
    controls: int = 10,
    **_: object,
) -> Work:
    return _work(model, tokens, direction, toward, against, strengths=(-1, 1), controls=controls)


def _sets(model: OlmoForCausalLM, toward: Answers, against: Answers | None) -> tuple[list[Answer], list[Answer]]:
    """The two sets of answers; the second is empty for every other continuation."""
    sets = answers_for(model, toward, "toward"), [] if against is None else answers_for(model, against, "against")
    check_apart([*sets[0], *sets[1]])
    return sets


def _with_controls(direction: Direction, controls: int, seed: int) -> list[Direction]:
    if controls < 1:
        raise WorkbenchError(f"controls is {controls}; give at least 1 random direction to compare the effect with")
    return [direction, *(direction.random(seed + number) for number in range(controls))]


def _log_probabilities(
    model: OlmoForCausalLM,
    texts: Texts,
    directions: Sequence[Direction],
    sets: tuple[list[Answer], list[Answer]],
    strengths: Sequence[float],
    positions: Positions,
    progress: Progress | None,
) -> Tensor:
    """log p of both sets of answers: direction strength text set, float64."""
    if not len(strengths) or not np.isfinite(strengths).all():
        raise WorkbenchError(f"strengths are {list(strengths)}; give at least one number")
    answers = [*sets[0], *sets[1]]
    vectors = torch.stack([strength * direction.vector for direction in directions for strength in strengths])
    found = torch.empty(len(vectors), len(texts), 2, dtype=torch.double)  # (direction strength) text set
    size = answer_tokens_at_a_time(model, texts, answers, "steering")
    some = [  # cells that run together, as a slice of the vectors, with texts of one length
        (slice(start, start + at_once), rows, ids)
        for rows, ids in texts.batches(size)
        for at_once in [max(1, size // ids.numel())]
        for start in range(0, len(vectors), at_once)
    ]
    for cells, rows, ids in steps(some, progress, "steering"):
        added = vectors[cells]
        edit = _edit_for_length(directions[0].site, added.repeat_interleave(len(ids), 0), positions, ids.shape[1])
        log_p = answer_log_probs(model, ids.repeat(len(added), 1), answers, [edit])  # (cell text) answer
        ours, theirs = log_p.split([len(sets[0]), len(sets[1])], dim=1)
        ours = ours.logsumexp(1).clamp_max(LARGEST)
        rest = theirs.logsumexp(1) if sets[1] else (-ours.expm1()).log()
        found[cells, rows] = torch.stack([ours, rest], -1).unflatten(0, (len(added), len(ids)))
    if found.isnan().any():
        raise WorkbenchError("the model's predictions are NaN; a strength may be too large")
    return found.unflatten(0, (len(directions), len(strengths)))


def _losses_on(
    model: OlmoForCausalLM,
    texts: Texts,
    directions: Sequence[Direction],
    strengths: Sequence[float],
    progress: Progress | None,
) -> Tensor:
    """The mean loss on texts: direction strength."""
    found = torch.empty(len(directions), len(strengths), dtype=torch.double)
    cells = list(product(range(len(directions)), range(len(strengths))))
    for which, dose in steps(cells, progress, "loss on unrelated texts"):
        with model.tapped(edits=directions[which].edit(strengths[dose])):
            found[which, dose] = mean_loss(model, texts)
    return found


def _edit_for_length(site: str, vectors: Tensor, positions: Positions, length: int) -> Edit:
    """The edit that adds a vector to each text (text d_model) of one length. Positions from the end are counted from
    the start, as an answer may follow.
    """
    wanted = [positions] if isinstance(positions, int) else positions
    places = None if wanted is None else chosen(wanted, length, "position in a prompt")
    return edits.add(site, vectors[:, None], positions=places)


def _plot_lines(values: Tensor) -> Tensor:
    """The lines of a plot from the values of each direction: direction strength -> line strength."""
    random = values[1:]
    return torch.stack([values[0], random.mean(0), random.amin(0), random.amax(0)])


def _errors(values: Tensor) -> Tensor:
    """The standard errors of the lines, from direction strength text: line strength; NaN for the lowest and highest."""
    over_texts = _standard_error(values[0].T)
    over_directions = _standard_error(values[1:].mean(-1))
    return torch.stack([over_texts, over_directions, *2 * [torch.full_like(over_texts, torch.nan)]])


def _standard_error(samples: Tensor) -> Tensor:
    """The standard error of the mean over the first axis; NaN for one sample, which has none."""
    if len(samples) < 2:
        return torch.full_like(samples[0], torch.nan)
    return samples.std(0) / len(samples) ** 0.5
