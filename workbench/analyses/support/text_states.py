"""One activation for each text: at one of its positions, or the mean over its tokens."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hooks import Capture, OlmoForCausalLM
from hooks.products import fast_products
from hooks.sites import layer_of
from workbench.analyses.support.cost import Work, pass_flops
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.analyses.support.undefined import refuse_undefined
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.text_files import named
from workbench.texts import Texts

MEAN = "mean"
Position = int | str | Sequence[int]
"""A position in every text (negative numbers count from the end of the text), a position for each text, or "mean" for
the mean over the tokens of a text."""


def text_states(
    model: OlmoForCausalLM,
    texts: Texts,
    captures: Sequence[Capture],
    position: Position,
    what: str,
    progress: Progress | None = None,
) -> Tensor:
    """The activations of each text at several sites: site text d_model, float32, on the CPU.

    `captures` name one site each, of the shape batch pos d_model, or one head of a site with heads. `what` is the name
    of the analysis, for messages.

    Errors: WorkbenchError for a position outside a text, or a number of positions that is not that of the texts,
    or a state that is NaN or infinite, with its text.
    """
    places = text_positions(texts, position)
    width, sites = model.config.hidden_size, [capture.site for capture in captures]
    found = torch.empty(len(captures), len(texts), width)
    per_token, held = _bytes(model, texts, captures)
    size = tokens_at_a_time(model, what, per_token, texts.longest, fixed=held)
    for rows, ids in steps(texts.batches(size), progress, "reading hidden states"):
        where = None if places is None else places[rows][:, None]  # batch 1
        wanted = [replace(capture, positions=where) for capture in captures]
        with fast_products():
            run = model.run(ids, capture=wanted, captures_only=True)
        for number, site in enumerate(sites):
            states = run[site].float()  # batch pos d_model, or batch pos 1 d_model for one head
            found[number, rows] = states.mean(1).reshape(len(rows), width).cpu()
    refuse_undefined(found.movedim(1, 0), "hidden state", texts)
    return found


def states_work(model: OlmoForCausalLM, texts: Texts, captures: Sequence[Capture], what: str) -> Work:
    """The work of `text_states`."""
    per_token, held = _bytes(model, texts, captures)
    peak = peak_bytes(model, what, per_token, texts.longest, texts.tokens, fixed=held)
    layers = [layer_of(capture.site)[0] for capture in captures]
    return Work(pass_flops(model, texts.tokens, max(0 if at is None else at + 1 for at in layers)), nbytes=peak)


def _bytes(model: OlmoForCausalLM, texts: Texts, captures: Sequence[Capture]) -> tuple[float, float]:
    """Returns two numbers of bytes: for each token of a batch, and of the states of all texts with copies."""
    width, sites = model.config.hidden_size, [capture.site for capture in captures]
    per_token = run_bytes(model, capture=sites) + 2 * len(captures) * width * (model.dtype.itemsize + 4)
    return per_token, 3 * 4 * len(captures) * len(texts) * width


def text_positions(texts: Texts, position: Position) -> Tensor | None:
    """The position of each text, counted from its start: text. None for the mean over all tokens."""
    if isinstance(position, str):
        if position != MEAN:
            raise WorkbenchError(
                f"position is {position!r}; choose a whole number (-1 is the last token), one for each text, or 'mean'"
            )
        return None
    wanted = [position] * len(texts) if isinstance(position, int) else [int(one) for one in position]
    if len(wanted) != len(texts):
        raise WorkbenchError(f"there are {len(texts)} texts and {len(wanted)} positions; give one for each text")
    for number, (place, length) in enumerate(zip(wanted, texts.lengths, strict=True)):
        if not -length <= place < length:
            raise WorkbenchError(f"{named([number], texts.places)} has {length} tokens, so no position {place}")
    return torch.tensor([place % length for place, length in zip(wanted, texts.lengths, strict=True)])
