"""Requests for a text that a checkpoint reads or generates, or for one token of a text; and the calls for both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from workbench import generation
from workbench.analyses.token_inspection import token_inspection
from workbench.analyses.token_losses import token_losses
from workbench.errors import WorkbenchError
from workbench.page.session.arguments import IdsOf, ModelOf, TokenizerOf, TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.edit_lines import canonical_edits
from workbench.page.session.lenses import lens_for
from workbench.page.session.opened_prompt import MOST_TOKENS, OpenedPrompt, most_tokens
from workbench.page.session.prompts import Prompt
from workbench.results import change
from workbench.tokens import is_whole
from workbench.views.text_page import text_page

MOST_NEW = 512
FIELDS = ("Length", "Temperature", "Top-p", "Top-k", "Seed")  # labels of the controls that `generation.LIMITS` limits
STRONGEST = 8  # attention weights that are listed for a token


@dataclass(frozen=True)
class TextRequest:
    """A request for a text: a checkpoint reads `prompt` and generates `length` tokens.

    Data routes parse it from the request's body. `branch`, if not empty, replaces the last tokens of the prompt by
    other tokens, in the format of `branch_of`. With `change`, the surprisals of a text that is
    read are those of the model with `edits` minus those without.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str
    prompt: Prompt
    branch: str = ""
    edits: str = ""
    length: int = 0
    temperature: float = 0
    top_p: float = 1
    top_k: int = 0
    seed: int = 0
    change: bool = False


@dataclass(frozen=True)
class TokenRequest:
    """A request for details of one token: a checkpoint reads `ids`, with edits, and `token` is a position in them.

    With `tuned`, layers are read through the tuned lens, if there is one for the checkpoint.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str
    ids: tuple[int, ...]
    token: int
    edits: str = ""
    tuned: bool = False


def text_call(bench: Bench, request: TextRequest) -> Call:
    """The call that answers a text request: it computes the surprisal of each token that is read or generated."""
    opened = bench.read(request.checkpoint, request.prompt)
    model = ModelOf(opened.checkpoint, canonical_edits(bench, opened.checkpoint, request.edits))
    tokenizer = TokenizerOf(opened.checkpoint)
    start: TokensOf | IdsOf = TokensOf(opened.checkpoint, request.prompt)
    if request.branch:
        start = IdsOf(opened.checkpoint, tuple(start_of(bench, opened, request.branch)))
    if not request.length:
        call = Call.of(token_losses, model, start, tokenizer=tokenizer)["loss"]
        call = Call.quick(change, call, call.unedited) if request.change and model.edits else call
        return call.shown_by(text_page)
    length, temperature, top_p, top_k, seed = checked_settings(
        [request.length, request.temperature, request.top_p, request.top_k, request.seed]
    )
    draw = {"temperature": temperature}
    if temperature:
        draw |= {"top_p": top_p} if top_p != 1 else {}
        draw |= {"top_k": top_k} if top_k else {}
        draw["seed"] = seed
    call = Call.of(generation.generate, model, start, max_new_tokens=length, **draw, tokenizer=tokenizer)
    return call.shown_by(text_page)


def token_call(bench: Bench, request: TokenRequest) -> Call:
    """The call that answers a token request."""
    ids = IdsOf(request.checkpoint, tuple(checked_ids(bench, request.checkpoint, request.ids)))
    edits = canonical_edits(bench, request.checkpoint, request.edits)
    model, tokenizer = ModelOf(request.checkpoint, edits), TokenizerOf(request.checkpoint)
    lens = lens_for(bench, request.checkpoint) if request.tuned else None
    through = {} if lens is None else {"lens": lens}
    return Call.of(token_inspection, model, ids, request.token, **through, tokenizer=tokenizer).shown_by(None)


def token_details_value(bench: Bench, request: TokenRequest) -> dict[str, Any]:
    """The details of one token, for token_details.js.

    Only the strongest attention weights are listed. The weight on the first token is given separately, as mean over
    heads. `tunable` says whether there is a tuned lens for the checkpoint.
    """
    found = result(token_call(bench, request), bench)
    weights = found.looks.values[:, 0]  # head key
    return {
        "expected": found.expected.values.tolist(),
        "lens": found.lens.values.tolist(),
        "tunable": lens_for(bench, request.checkpoint) is not None,
        "next": found.following.values[0].tolist(),
        "looks": strongest_weights(weights[:, 1:], found.looks.heads, 1),
        "first": float(weights[:, 0].mean()),
        "looked_at": strongest_weights(found.looked_at.values, found.looked_at.rows, found.position + 1),
    }


def strongest_weights(weights: np.ndarray, heads: Sequence[str], first: int) -> list[tuple[str, int, float]]:
    """(head, place, weight) of the largest of `weights` (head place), largest first; places count from `first`."""
    best = np.argsort(-weights, axis=None, kind="stable")[:STRONGEST]
    rows, columns = np.unravel_index(best, weights.shape)
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(heads[row], first + column, float(weights[row, column])) for row, column in places]


def start_of(bench: Bench, opened: OpenedPrompt, branch: str) -> list[int]:
    """The token ids that a text continues: those of the prompt, or those that `branch` describes."""
    prompt = opened.ids[0].tolist()
    if not branch:
        return prompt
    kept, _, others = branch.partition(":")
    numbers = [kept, *others.split(".")]
    if not all(is_whole(number) for number in numbers) or int(kept) > len(prompt):
        raise WorkbenchError(f"{branch[:40]!r} is not a valid branch; expected something like {len(prompt)}:5.17")
    return checked_ids(bench, opened.checkpoint, [*prompt[: int(kept)], *map(int, numbers[1:])])


def kept_of(opened: OpenedPrompt, branch: str) -> int:
    """The number of prompt tokens at the start of a text: all of them, or those that `branch` keeps."""
    return int(branch.partition(":")[0]) if branch else opened.ids.shape[1]


def branch_of(prompt: Sequence[int], ids: Sequence[int]) -> str:
    """Token ids in short form for a link: the number of prompt tokens kept, then the ids after them: "44:812.33"."""
    kept = next((place for place, pair in enumerate(zip(prompt, ids, strict=False)) if pair[0] != pair[1]), None)
    kept = min(len(prompt), len(ids) - 1) if kept is None else kept
    return f"{kept}:{'.'.join(map(str, ids[kept:]))}"


def checked_ids(bench: Bench, checkpoint: str, ids: object) -> list[int]:
    """Token ids from a browser, as a list. Raises WorkbenchError if they are too many, none, or out of range."""
    model = bench.load(checkpoint)[0]
    size, most = model.config.vocab_size, most_tokens(model, MOST_TOKENS + MOST_NEW)
    if not isinstance(ids, Sequence) or not 0 < len(ids) <= most:
        raise WorkbenchError(f"this is not a text of valid length; {checkpoint} takes 1 to {most:,} tokens")
    if not all(type(i) is int and 0 <= i < size for i in ids):
        raise WorkbenchError(f"some token ids are not valid for {checkpoint}; they must be from 0 to {size - 1}")
    return list(ids)


def checked_settings(settings: Sequence[Any]) -> tuple[int, float, float, int, int]:
    """Sampling settings from a browser: length, temperature, top-p, top-k, seed.

    Errors: WorkbenchError with the field's label for a value that is no number or out of range, such as a length above
    `MOST_NEW`.
    """
    for field, value, (low, high, whole) in zip(FIELDS, settings, generation.LIMITS.values(), strict=True):
        generation.check_setting(field, value, low, MOST_NEW if field == "Length" else high, whole)
    length, temperature, top_p, top_k, seed = settings
    return int(length), float(temperature), float(top_p), int(top_k), int(seed)
