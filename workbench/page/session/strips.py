"""The token strip of the prompt, which stands above all tabs."""

from dataclasses import asdict
from typing import Any

from workbench.analyses.support.cost import planned
from workbench.analyses.token_losses import token_losses
from workbench.page.session.bench import Bench, OpenedPrompt
from workbench.page.session.edit_lines import tapped
from workbench.page.session.requests import Selection
from workbench.page.session.text_requests import TextRequest
from workbench.views.strip import surprisals


def surprisal_strip(bench: Bench, opened: OpenedPrompt, selection: Selection, edits: str = "") -> dict[str, Any]:
    """The strip of the prompt's tokens, coloured by surprisal in nats; a prompt of one token has no colours."""
    known = opened.ids.shape[1] > 1
    scores = [float("nan")]
    if known:
        work = planned(token_losses, opened.model, opened.ids)
        with tapped(bench, (opened.model, opened.checkpoint, edits)), opened.speed.timed(work):
            scores = token_losses(opened.model, opened.ids)["loss"].values[0].tolist()
    return surprisals(
        opened.labels,
        opened.ids[0].tolist(),
        scores,
        title="Prompt: how surprising each token is, given those before it",
        spine=True,
        selected=selection.token,
        ask=asdict(TextRequest(opened.checkpoint, opened.prompt, edits=edits)) if known else None,
        **turn_marks(opened, opened.ids.shape[1], opened.ids.shape[1]),
        look={"checkpoint": opened.checkpoint, "edits": edits},
    )


def turn_marks(opened: OpenedPrompt, kept: int, length: int) -> dict[str, Any]:
    """What a strip shows of a conversation: the tokens of each turn, and the tokens that the template wrote.

    Args:
        opened: the prompt; nothing is shown if it is not a conversation.
        kept: the number of its tokens at the start of the strip.
        length: the number of tokens of the strip. Tokens after those kept belong to the last turn that was begun.
    """
    if opened.conversation is None:
        return {}
    begun = [asdict(span) for span in opened.conversation.spans if span.start < kept]
    for span in begun[-1:]:
        span["stop"] = length
    by_template = [place for place, whole in enumerate(opened.conversation.template[:kept]) if whole]
    return {"turns": begun, "template": by_template}
