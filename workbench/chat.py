"""Conversations: turns that a tokenizer's own chat template writes as one prompt, and the tokens of each turn.

    turns = turns_of("system: Answer briefly.\\nuser: What is a cat?")
    chat = Conversation.of(tokenizer, turns)
    attention_maps(model, chat.ids, tokenizer=tokenizer)
    chat.spans[1]                     # Span(role='user', start=14, stop=27)

Turns are typed as lines of text. A line that begins with `system:`, `user:` or `assistant:` begins a turn, and the
lines after it belong to the same turn; text before the first such line is a user's turn. Blank lines at the start and
the end of a turn do not count. A backslash at the start of a line makes it ordinary text: `\\user: …` is a line of text
that begins with `user:`, and a line of only `\\` is a blank line that counts. In front of other lines a backslash is
itself.

A conversation that ends with the assistant's turn is left open, so that a model continues that turn. Any other
conversation ends with the template's beginning of the assistant's reply.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from workbench.errors import WorkbenchError, reason
from workbench.text_files import encodable

ROLES = ("system", "user", "assistant")
LABEL = re.compile(rf"({'|'.join(ROLES)}): ?(.*)", re.DOTALL)
ESCAPED = re.compile(rf"\\+(?:(?:{'|'.join(ROLES)}):|$)")
PRIVATE_USE = range(0xF0000, 0xFFFFE)  # characters without a meaning, which mark a content while it is located


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation. Errors: WorkbenchError if the role is not one of `ROLES`."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise WorkbenchError(f"no role {self.role!r}; a turn's role is one of {', '.join(ROLES)}")


@dataclass(frozen=True)
class Span:
    """The tokens of one turn, its markup included: positions `start` to `stop`, without `stop`."""

    role: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Conversation:
    """The tokens of a conversation, as the tokenizer's chat template writes it.

    Attributes:
        ids: token ids, 1 pos.
        text: the text of the tokens.
        spans: one for each turn, in order, then one for the beginning of the assistant's reply unless the conversation
            ends with the assistant's turn. Tokens before the first span (a beginning-of-text token, a default system
            prompt) belong to no turn.
        template: for each token, True if all of its characters are written by the template, False if it holds a
            character of a turn's content.
    """

    ids: Tensor
    text: str
    spans: tuple[Span, ...]
    template: tuple[bool, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> Self:
        """The tokens of turns. They are those of `tokenizer.apply_chat_template(messages, **ending(turns))`.

        Errors: WorkbenchError if there are no turns or a turn is empty; if the tokenizer has no chat template; if the
        template fails, for example because roles do not alternate, or leaves out a turn.
        """
        _check_turns(turns)
        text, contents = _with_spans(tokenizer, turns)
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = read["offset_mapping"]
        starts = [start for start, _ in offsets]
        bounds = [*_turn_starts(tokenizer, turns, text, contents), len(text)]
        places = [bisect_left(starts, bound) for bound in bounds]
        roles = [*(turn.role for turn in turns), "assistant"]
        spans = tuple(Span(role, *place) for role, place in zip(roles, pairwise(places), strict=False))
        typed = bytearray(len(text) + 1)  # 1 at each character of a content
        for start, stop in contents:
            typed[start:stop] = bytes([1]) * (stop - start)
        template = tuple(1 not in typed[start : max(stop, start + 1)] for start, stop in offsets)
        return cls(torch.tensor([read["input_ids"]]), text, spans, template)

    def __repr__(self) -> str:
        turns = ", ".join(f"{span.role} {span.start}–{span.stop - 1}" for span in self.spans)
        return f"Conversation({self.ids.shape[1]} tokens: {turns})"


def turns_of(text: str) -> tuple[Turn, ...]:
    """The turns that a text describes, in the format of this module; none if the text is blank."""
    found: list[tuple[str, list[str]]] = [("user", [])]
    for line in text.split("\n"):
        label = LABEL.fullmatch(line)
        if label is None:
            found[-1][1].append(line)
        else:
            found.append((label[1], [label[2]]))
    turns = [Turn(role, "\n".join(map(_unescaped, _without_blank_ends(lines)))) for role, lines in found]
    return tuple(turns if turns[0].content else turns[1:])


def typed(turns: Sequence[Turn]) -> str:
    """Turns as text; `turns_of(typed(turns))` gives the same turns."""
    return "\n".join(f"{turn.role}: {_escaped(turn.content)}" for turn in turns)


def messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Turns in the form that `tokenizer.apply_chat_template` takes."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def ending(turns: Sequence[Turn]) -> dict[str, bool]:
    """The option of `tokenizer.apply_chat_template` for the end of a conversation: the last turn is continued if it is
    the assistant's, else the beginning of a reply is added."""
    return {"continue_final_message" if turns[-1].role == "assistant" else "add_generation_prompt": True}


def templated(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> str:
    """The text of a conversation.

    Errors: those of `Conversation.of`, except for a turn that the template leaves out.
    """
    _check_turns(turns)
    return _rendered(tokenizer, turns, **ending(turns))


def replied(turns: Sequence[Turn], reply: str) -> tuple[Turn, ...]:
    """The turns with the assistant's reply; it continues the last turn if that is the assistant's."""
    before = turns[-1].content if turns[-1].role == "assistant" else ""
    kept = turns[:-1] if before else turns
    return (*kept, Turn("assistant", before + reply))


def has_template(tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids of the tokens that end the assistant's turn: the end of text, and each special token that the template
    writes after the assistant's content, at the end of a conversation or before another turn."""
    found = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for roles in (["user", "assistant"], ["user", "assistant", "user"]):
        probe = _probe(tokenizer, roles)
        if probe is not None:
            text, contents = probe
            following = tokenizer(text[contents[1][1] :], add_special_tokens=False)["input_ids"]
            found += [token for token in following[:1] if token in tokenizer.added_tokens_decoder]
    return tuple(dict.fromkeys(found))


def _check_turns(turns: Sequence[Turn]) -> None:
    """Errors: WorkbenchError if there are no turns, or a turn is empty or not text."""
    if not turns:
        raise WorkbenchError("there are no turns; write, for example, “user: Hello”")
    for number, turn in enumerate(turns, 1):
        encodable(turn.content, f"turn {number} ({turn.role})")
        if not turn.content.strip():
            raise WorkbenchError(f"turn {number} ({turn.role}) is empty; write its text, or leave the turn out")


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], **options: bool) -> str:
    """The text that the chat template writes.

    A template comes with a checkpoint, so it is not trusted: transformers runs it in jinja2's immutable sandbox, which
    gives it no access to Python's objects.

    Errors: WorkbenchError if there is no chat template, or with the reason if it fails.
    """
    if not has_template(tokenizer):
        raise WorkbenchError(
            "this checkpoint's tokenizer has no chat template, so it cannot read turns; give plain text, or choose an "
            "instruct checkpoint"
        )
    try:
        return tokenizer.apply_chat_template(messages(turns), tokenize=False, **options)
    except Exception as error:  # a template can raise any exception
        raise WorkbenchError(f"the chat template fails for these turns: {reason(error)}") from error


def _with_spans(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], **options: bool
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and the characters of each turn's content in it: (start, stop).

    `options` default to those of `ending`. The template is run again with a mark before and after each content, which
    must not change the text. Marks inside of the white space around a content let a template remove it.

    Errors: those of `_rendered`; WorkbenchError if a turn is left out, or if the marks change the text.
    """
    options = options or ending(turns)
    plain = _rendered(tokenizer, turns, **options)
    used = set(plain).union(*(turn.content for turn in turns))
    unused = (mark for mark in map(chr, PRIVATE_USE) if mark not in used)
    marks = [(next(unused), next(unused)) for _ in turns]
    for inner in (False, True):
        marked = [Turn(turn.role, _marked(turn.content, *pair, inner)) for turn, pair in zip(turns, marks, strict=True)]
        text, places = _without_marks(
            _rendered(tokenizer, marked, **options), {mark for pair in marks for mark in pair}
        )
        if text == plain:
            found = enumerate(zip(turns, marks, strict=True), 1)
            return text, [_content_span(text, turn, number, *map(places.get, pair)) for number, (turn, pair) in found]
    raise WorkbenchError("the chat template rewrites the turns, so the tokens of each turn cannot be found")


def _marked(content: str, before: str, after: str, inner: bool) -> str:
    """A content between marks; with `inner`, they stand inside of white space at its ends."""
    kept = content.strip() if inner else content
    start = content.index(kept)
    return f"{content[:start]}{before}{kept}{after}{content[start + len(kept) :]}"


def _without_marks(text: str, marks: set[str]) -> tuple[str, dict[str, int]]:
    """A text without marks, and where in it each mark first stood."""
    places: dict[str, int] = {}
    kept = ""
    for number, piece in enumerate(re.split(f"([{''.join(marks)}])", text)):
        if number % 2:  # a mark
            places.setdefault(piece, len(kept))
        else:
            kept += piece
    return kept, places


def _content_span(text: str, turn: Turn, number: int, start: int | None, stop: int | None) -> tuple[int, int]:
    """The characters of a turn's content between its marks; if the template cut off a mark, as far as the text agrees.

    Errors: WorkbenchError if neither mark is in the text.
    """
    if start is not None:
        return start, start + _agreeing(text[start:], turn.content) if stop is None else stop
    if stop is not None:
        return stop - _agreeing(text[:stop][::-1], turn.content[::-1]), stop
    raise WorkbenchError(f"the chat template leaves out turn {number} ({turn.role})")


def _agreeing(one: str, other: str) -> int:
    """The number of characters at the start of two texts that are the same."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _turn_starts(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], text: str, contents: Sequence[tuple[int, int]]
) -> Iterator[int]:
    """The character at which each turn starts with its markup, and then, if the template began one, the reply."""
    heads = {role: _head(tokenizer, role) for role in {turn.role for turn in turns}}
    end = 0
    for turn, (start, stop) in zip(turns, contents, strict=True):
        head = heads[turn.role]
        yield end if head is None or not text[end:start].endswith(head) else max(end, start - len(head))
        end = max(end, stop)
    if turns[-1].role != "assistant":
        finished = _rendered(tokenizer, turns)
        if finished != text:  # else the template adds nothing for a reply
            yield len(finished) if text.startswith(finished) else end


def _head(tokenizer: PreTrainedTokenizerBase, role: str) -> str | None:
    """The markup that the template writes before the content of a turn that follows another; None if it is not known.

    Between two contents, the template writes the end of one turn and the beginning of the next. The end of a turn is
    what it writes if nothing follows.
    """
    for before in (["user"], ["user", "assistant"]):
        ended, going_on = _probe(tokenizer, before), _probe(tokenizer, [*before, role])
        if ended is not None and going_on is not None:
            (one, contents), (two, others) = ended, going_on
            tail, between = one[contents[-1][1] :], two[others[-2][1] : others[-1][0]]
            if between.startswith(tail):
                return between[len(tail) :]
    return None


def _probe(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str]) -> tuple[str, list[tuple[int, int]]] | None:
    """A finished conversation of short turns and the characters of its contents; None if the template refuses it."""
    try:
        return _with_spans(tokenizer, [Turn(role, "x") for role in roles], add_generation_prompt=False)
    except WorkbenchError:
        return None


def _without_blank_ends(lines: Sequence[str]) -> Sequence[str]:
    """Lines without the empty ones at the start and the end."""
    full = [place for place, line in enumerate(lines) if line]
    return lines[full[0] : full[-1] + 1] if full else []


def _unescaped(line: str) -> str:
    return line[1:] if ESCAPED.match(line) else line


def _escaped(content: str) -> str:
    """A content with a backslash before each line that `turns_of` would take for a label, a blank end or an escape."""
    lines = content.split("\n")
    full = [place for place, line in enumerate(lines) if line] or [len(lines)]

    def escaped(place: int, line: str) -> str:
        at_an_end = not line and not full[0] <= place <= full[-1]
        return f"\\{line}" if at_an_end or LABEL.fullmatch(line) or ESCAPED.match(line) else line

    return "\n".join(escaped(place, line) for place, line in enumerate(lines))
