"""The token strip of the prompt, which stands above all tabs."""

from dataclasses import asdict
from typing import Any

import numpy as np

from workbench.analyses.support.cost import planned
from workbench.analyses.token_losses import token_losses
from workbench.errors import WorkbenchError
from workbench.page.session.bench import Bench
from workbench.page.session.edit_lines import tapped
from workbench.page.session.opened_prompt import OpenedPrompt
from workbench.page.session.requests import Selection
from workbench.page.session.text_requests import TextRequest
from workbench.views.strip import strip, surprisals


def surprisal_strip(
    bench: Bench, opened: OpenedPrompt, selection: Selection, edits: str = "", is_change: bool = False
) -> dict[str, Any]:
    """The strip of the prompt's tokens, coloured by surprisal in nats; a prompt of one token has no colours.

    With `is_change`, by the surprisal of the edited model minus that of the unedited one.
    """
    ids, known = opened.ids, opened.ids.shape[1] > 1
    request = TextRequest(opened.checkpoint, opened.prompt, edits=edits, change=is_change)
    about = {
        "spine": True,
        "selected": selection.token,
        "ask": asdict(request) if known else None,
        "look": {"checkpoint": opened.checkpoint, "edits": edits},
        **turn_marks(opened, ids.shape[1], ids.shape[1]),
    }
    scores = prompt_surprisals(bench, opened, edits) if known else np.full(1, np.nan)
    if not is_change:
        title = "Prompt: how surprising each token is, given those before it"
        return surprisals(opened.labels, ids[0].tolist(), scores.tolist(), title=title, **about)
    title = "Prompt: how much more surprising each token is with the edits; blue: less"
    scores = scores - prompt_surprisals(bench, opened, "") if known else scores
    high = float(np.nanmax(np.abs(scores), initial=0)) or 1.0
    about |= {"title": title, "signed": True, "measure": "change of surprisal", "high": high}
    return strip(opened.labels, ids[0].tolist(), scores.tolist(), **about)


def prompt_surprisals(bench: Bench, opened: OpenedPrompt, edits: str) -> np.ndarray:
    """The surprisal of each token of a prompt in the model with interventions, in nats.

    Errors: WorkbenchError if the model's predictions are NaN.
    """
    work = planned(token_losses, opened.model, opened.ids)
    with tapped(bench, (opened.model, opened.checkpoint, edits)), opened.speed.timed(work):
        found = token_losses(opened.model, opened.ids)["loss"].values[0]
    if np.isnan(found[1:]).any():
        raise WorkbenchError(
            f"the predictions of {opened.checkpoint} on this prompt are NaN: its forward pass overflows, or its "
            "weights are damaged"
        )
    return found


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
