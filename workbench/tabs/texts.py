"""Texts that the page reads and writes, and their tokens looked at one by one: what is asked for, and as which call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from workbench import generation
from workbench.analyses.token_inspection import token_inspection
from workbench.analyses.token_losses import token_losses
from workbench.errors import WorkbenchError
from workbench.tabs.bench import MOST_TOKENS, Bench, Opened, most_tokens
from workbench.tabs.calls import Call, Ids, Model, Tokenizer, Tokens, result
from workbench.tabs.edit_lines import edit_calls
from workbench.text import is_whole
from workbench.views.text_page import text_page

MOST_NEW = 512
STRONGEST = 8  # weights that are listed of a token


@dataclass(frozen=True)
class Ask:
    """A text: a checkpoint reads `prompt` and writes `length` tokens after it. Data routes read it from a body.

    Where it goes on from another text, `branch` says from which, in the words of `branch_of`.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str
    prompt: str
    branch: str = ""
    edits: str = ""
    length: int = 0
    temperature: float = 0
    top_p: float = 1
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Look:
    """One token of a text that a checkpoint reads, with edits."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str
    ids: tuple[int, ...]
    token: int
    edits: str = ""


def text_call(bench: Bench, ask: Ask) -> Call:
    """A text as a call: how surprising its tokens are, those that were read and those that were written."""
    opened = bench.read(ask.checkpoint, ask.prompt)
    model, tokenizer = Model(opened.checkpoint), ("tokenizer", Tokenizer(opened.checkpoint))
    start: Tokens | Ids = Tokens(opened.checkpoint, ask.prompt)
    if ask.branch:
        start = Ids(opened.checkpoint, tuple(start_of(bench, opened, ask.branch)))
    if not ask.length:
        return Call(token_losses, (model, start), (tokenizer,), measure="loss", show=text_page)
    length, temperature, top_p, top_k, seed = checked_settings(
        [ask.length, ask.temperature, ask.top_p, ask.top_k, ask.seed]
    )
    draw = {"temperature": temperature}
    if temperature:
        draw |= {"top_p": top_p} if top_p != 1 else {}
        draw |= {"top_k": top_k} if top_k else {}
        draw["seed"] = seed
    edits = edit_calls(ask.edits, opened.checkpoint, opened.tokenizer)
    options = {"max_new_tokens": length, **draw} | ({"edits": edits} if edits else {})
    return Call(generation.generate, (model, start), (*options.items(), tokenizer), show=text_page)


def look_call(bench: Bench, look: Look) -> Call:
    """A token as a call."""
    tokenizer = bench.load(look.checkpoint)[1]
    ids = Ids(look.checkpoint, tuple(checked_ids(bench, look.checkpoint, look.ids)))
    edits = edit_calls(look.edits, look.checkpoint, tokenizer)
    options = (*((("edits", edits),) if edits else ()), ("tokenizer", Tokenizer(look.checkpoint)))
    return Call(token_inspection, (Model(look.checkpoint), ids, look.token), options, show=None)


def looked_at(bench: Bench, look: Look) -> dict[str, Any]:
    """One token in numbers, for token_details.js: the strongest weights only, those on the first token apart."""
    found = result(look_call(bench, look), bench)
    weights = found.looks.values[:, 0]  # head key
    return {
        "expected": found.expected.values.tolist(),
        "lens": found.lens.values.tolist(),
        "looks": strongest(weights[:, 1:], found.looks.heads, 1),
        "first": float(weights[:, 0].mean()),
        "looked_at": strongest(found.looked_at.values, found.looked_at.rows, found.position + 1),
    }


def strongest(weights: np.ndarray, heads: Sequence[str], first: int) -> list[tuple[str, int, float]]:
    """(head, place, weight) of the largest weights (head place), largest first; places count from `first`."""
    best = np.argsort(-weights, axis=None, kind="stable")[:STRONGEST]
    rows, columns = np.unravel_index(best, weights.shape)
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(heads[row], first + column, float(weights[row, column])) for row, column in places]


def start_of(bench: Bench, opened: Opened, branch: str) -> list[int]:
    """The tokens that a text goes on from: the prompt's, or those that a branch names."""
    prompt = opened.ids[0].tolist()
    if not branch:
        return prompt
    kept, _, others = branch.partition(":")
    numbers = [kept, *others.split(".")]
    if not all(is_whole(number) for number in numbers) or int(kept) > len(prompt):
        raise WorkbenchError(f"{branch[:40]!r} names no text to go on from; that looks like {len(prompt)}:5.17")
    return checked_ids(bench, opened.checkpoint, [*prompt[: int(kept)], *map(int, numbers[1:])])


def kept_of(opened: Opened, branch: str) -> int:
    """How many of the prompt's tokens a text begins with: all of them, or as many as a branch keeps."""
    return int(branch.partition(":")[0]) if branch else opened.ids.shape[1]


def branch_of(prompt: Sequence[int], ids: Sequence[int]) -> str:
    """A text for an address: how many tokens of the prompt it keeps, and the ids after those: "44:812.33"."""
    kept = next((place for place, pair in enumerate(zip(prompt, ids, strict=False)) if pair[0] != pair[1]), None)
    kept = min(len(prompt), len(ids) - 1) if kept is None else kept
    return f"{kept}:{'.'.join(map(str, ids[kept:]))}"


def checked_ids(bench: Bench, checkpoint: str, ids: object) -> list[int]:
    """Token ids as they came from a browser."""
    model = bench.load(checkpoint)[0]
    size, most = model.config.vocab_size, most_tokens(model, MOST_TOKENS + MOST_NEW)
    if not isinstance(ids, Sequence) or not 0 < len(ids) <= most:
        raise WorkbenchError(f"not a text; {checkpoint} takes 1 to {most:,} tokens")
    if not all(type(i) is int and 0 <= i < size for i in ids):
        raise WorkbenchError(f"not tokens of {checkpoint}; ids go from 0 to {size - 1}")
    return list(ids)


def checked_settings(settings: Sequence[Any]) -> tuple[int, float, float, int, int]:
    """Settings as they came from a browser: numbers, and no more tokens than a page may ask for."""
    if not all(isinstance(value, int | float) and value == value for value in settings):
        raise WorkbenchError(f"length, temperature, top-p, top-k and seed are numbers, not {settings}")
    length, temperature, top_p, top_k, seed = settings
    generation.check_sampling(length, temperature, top_p, top_k, seed)
    if length > MOST_NEW:
        raise WorkbenchError(f"{length:,.0f} new tokens; this page generates at most {MOST_NEW}")
    return int(length), float(temperature), float(top_p), int(top_k), int(seed)
