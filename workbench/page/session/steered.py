"""The calls that steer a model between the labels of a set of texts."""

from dataclasses import dataclass
from typing import Any

import torch

from workbench.analyses.directions import label_direction
from workbench.analyses.steering import steering
from workbench.analyses.support.labels import direction_half, prompt_half
from workbench.analyses.support.sample_text import SAMPLE_TEXT
from workbench.errors import WorkbenchError
from workbench.generation import steered_texts
from workbench.page.session.arguments import TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.calls import Call, prompt_arguments, texts_arguments, tokenizer_argument
from workbench.page.session.edit_lines import tapped
from workbench.page.session.requests import TabRequest
from workbench.results import Grid

TokenPair = tuple[int, int]
WRITTEN_AT = (-4.0, -2.0, 0.0, 2.0, 4.0)
"""Strengths at which texts are written."""
NEW_TOKENS = 24
"""Length of a written text."""
SIDE_BY_SIDE = [
    ["strength", "signed"],
    ["with the direction", "prose"],
    ["surprisal, nats", "number"],
    ["with a random direction", "prose"],
    ["surprisal, nats", "number"],
]


@dataclass(frozen=True)
class ChosenDirection:
    """The two labels between which a direction leads, and the layer after which it is added, or "embed"."""

    toward: str
    against: str
    layer: int | str

    @property
    def place(self) -> str:
        """The layer in words."""
        return place_of(self.layer)


def place_of(layer: int | str) -> str:
    """A layer, or "embed", in words."""
    return "the embedding" if layer == "embed" else f"layer {layer}"


def direction_call(request: TabRequest, chosen: ChosenDirection) -> Call:
    """The direction from the second label to the first, from one half of the texts of both."""
    (model, texts), labels = texts_arguments(request), (chosen.toward, chosen.against)
    half = Call.quick(direction_half, texts, *labels)
    return Call.of(label_direction, model, half, *labels, layer=chosen.layer)


def written_call(request: TabRequest, chosen: ChosenDirection) -> Call:
    """What the model writes after the prompt with the direction, and with a random one of the same norm."""
    direction, tokenizer = direction_call(request, chosen), tokenizer_argument(request)
    how = {"max_new_tokens": NEW_TOKENS, "controls": 1, "tokenizer": tokenizer}
    return Call.of(steered_texts, *prompt_arguments(request), direction, WRITTEN_AT, **how)


def side_by_side(grid: Grid) -> dict[str, Any]:
    """The value of a table (see text_table.js) of the result of `written_call`: a row for each strength."""
    assert grid.text is not None
    columns = (WRITTEN_AT, grid.text[0], grid.values[0].tolist(), grid.text[1], grid.values[1].tolist())
    rows = [[number, *cells] for number, cells in enumerate(zip(*columns, strict=True))]
    return {"columns": SIDE_BY_SIDE, "rows": rows, "still": True, "label": "table of written texts"}


def steering_call(request: TabRequest, chosen: ChosenDirection, answers: TokenPair, measure: str) -> Call:
    """The dose–response of the direction between two labels.

    One half of the texts of both labels makes the direction, the other half are the prompts. `answers` are the token
    that the direction should make more likely, and the token to compare it with.
    """
    (model, texts), labels = texts_arguments(request), (chosen.toward, chosen.against)
    direction = direction_call(request, chosen)
    unrelated = {"unrelated": TokensOf(request.query.checkpoint, SAMPLE_TEXT)} if measure == "loss" else {}
    toward, against = ((answer,) for answer in answers)
    prompts = Call.quick(prompt_half, texts, *labels)
    return Call.of(steering, model, prompts, direction, toward, against, **unrelated)[measure]


def telling_answers(bench: Bench, request: TabRequest, chosen: ChosenDirection) -> TokenPair:
    """Two next tokens by which the model tells the labels apart: one for the first label, one for the second.

    The first has the largest mean probability after texts of the first label minus that after texts of the second; the
    second has the smallest. The means are over the half of the texts from which the direction is computed.

    Errors: WorkbenchError if both are the same token.
    """
    labels = chosen.toward, chosen.against

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
