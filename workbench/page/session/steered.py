"""The calls that steer a model between the labels of a set of texts."""

import torch

from workbench.analyses.directions import label_direction
from workbench.analyses.steering import steering
from workbench.analyses.support.labels import direction_half, prompt_half
from workbench.analyses.support.sample_text import SAMPLE_TEXT
from workbench.errors import WorkbenchError
from workbench.page.session.arguments import TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.calls import Call, texts_arguments
from workbench.page.session.edit_lines import tapped
from workbench.page.session.requests import TabRequest

TokenPair = tuple[int, int]


def steering_call(
    request: TabRequest, labels: tuple[str, str], layer: int | str, answers: TokenPair, measure: str
) -> Call:
    """The dose–response of the direction from the second label to the first, after a layer.

    One half of the texts of both labels makes the direction, the other half are the prompts. `answers` are the token
    that the direction should make more likely, and the token to compare it with.
    """
    model, texts = texts_arguments(request)
    direction = Call.of(label_direction, model, Call.quick(direction_half, texts, *labels), *labels, layer=layer)
    unrelated = {"unrelated": TokensOf(request.query.checkpoint, SAMPLE_TEXT)} if measure == "loss" else {}
    toward, against = ((answer,) for answer in answers)
    prompts = Call.quick(prompt_half, texts, *labels)
    return Call.of(steering, model, prompts, direction, toward, against, **unrelated)[measure]


def telling_answers(bench: Bench, request: TabRequest, labels: tuple[str, str]) -> TokenPair:
    """Two next tokens by which the model tells the labels apart: one for the first label, one for the second.

    The first has the largest mean probability after texts of the first label minus that after texts of the second; the
    second has the smallest. The means are over the half of the texts from which the direction is computed.

    Errors: WorkbenchError if both are the same token.
    """

    def made() -> TokenPair:
        model, texts = texts_arguments(request)
        half = direction_half(bench.texts(model.name, texts.chosen), *labels)
        runner, means = bench.load(model.name)[0], []
        with tapped(bench, (runner, model.name, model.edits)):
            for label in labels:
                some = half.by_label()[label].to(runner.device)
                logits = [runner.run(ids, logits_to_keep=1).logits[:, -1] for _, ids in some.batches(2048)]
                means.append(torch.cat(logits).float().softmax(-1).mean(0))
        toward, against = int((means[0] - means[1]).argmax()), int((means[1] - means[0]).argmax())
        if toward == against:
            raise WorkbenchError(f"the model answers texts of {labels[0]!r} and {labels[1]!r} alike; type two answers")
        return toward, against

    key = ("telling", request.query.checkpoint, request.query.edits, bench.sets.get(request.selection.texts).name)
    return bench.once((*key, labels), made)
