"""The metric of a direction: its effect on the answers."""

from typing import Any

from hooks import OlmoForCausalLM
from workbench.analyses.directions import label_direction
from workbench.analyses.steering import steering_effect as effect_of
from workbench.analyses.support.answers import Answers
from workbench.analyses.support.cost import Work, planned, work_of
from workbench.analyses.support.labels import labels_of
from workbench.analyses.support.text_states import Position
from workbench.analyses.trajectory import Metric
from workbench.texts import TextsLike, as_texts


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
    (by default the texts themselves). The lines are `direction`, and `random, lowest` and `random, highest`, the lowest
    and highest effect of `controls` random directions of the same norm. The direction has an effect beyond chance where
    its absolute value is larger than that of both.
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
