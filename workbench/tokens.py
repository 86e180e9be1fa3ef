"""Readable labels for tokens.

Tokens may hold any text, so labels are made safe to show:

- White space is visible: `▁` space, `⏎` newline, `⇥` tab.
- Invisible, direction and control characters are written by their number: `‹U+202E›`.
- A character that is split over several tokens is shown in each, with a running number: `語₁`, `語₂`, `語₃`.
- Bytes of an incomplete character are shown in hexadecimal: `‹E8 AA›`.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import groupby
from typing import Protocol
from weakref import WeakKeyDictionary

from workbench.errors import WorkbenchError

VISIBLE = {" ": "▁", "\n": "⏎", "\t": "⇥", "\r": "␍", "\x7f": "␡"}
UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"}
BLANK_LETTERS = set("\u115f\u1160\u2800\u3164\uffa0")  # their category is letter or symbol, but they are blank
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
LEADS = {1: (0x80, 0x00), 2: (0xE0, 0xC0), 3: (0xF0, 0xE0), 4: (0xF8, 0xF0)}  # length: (mask, value) of byte 1
MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"})


class Tokenizer(Protocol):
    """The methods of a transformers tokenizer that this module uses."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]: ...
    def decode(self, token_ids: list[int]) -> str: ...
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


_known_bytes: WeakKeyDictionary[Tokenizer, dict[int, bytes]] = WeakKeyDictionary()
"""The bytes of tokens that were decoded before, since decoding takes most of the time of a label."""


def token_labels(ids: Iterable[int], tokenizer: Tokenizer | None = None) -> tuple[str, ...]:
    """One label for each token of a text, in order; the ids as strings without a tokenizer.

    A character that is split over neighbouring tokens is decoded from all of them.
    """
    ids = [int(i) for i in ids]
    if tokenizer is None:
        return tuple(str(i) for i in ids)
    pieces = token_bytes(ids, tokenizer)
    return tuple(
        f"‹{i}›" if piece is None else label for i, piece, label in zip(ids, pieces, _labels(pieces), strict=True)
    )


def vocabulary_labels(ids: Iterable[int], tokenizer: Tokenizer | None = None) -> tuple[str, ...]:
    """One label for each id, decoded on its own (for example, a candidate next token); the ids as strings without a
    tokenizer."""
    ids = [int(i) for i in ids]
    unique = list(dict.fromkeys(ids))
    if tokenizer is None:
        return tuple(str(i) for i in ids)
    label = {
        i: f"‹{i}›" if piece is None else _labels([piece])[0]
        for i, piece in zip(unique, token_bytes(unique, tokenizer), strict=True)
    }
    return tuple(label[i] for i in ids)


def token_bytes(ids: Sequence[int], tokenizer: Tokenizer) -> list[bytes | None]:
    """The UTF-8 bytes of each token; None for an id that has no token (an embedding matrix is often padded)."""
    known = _known_bytes.setdefault(tokenizer, {})
    unknown = list(dict.fromkeys(i for i in ids if i not in known))
    pieces = tokenizer.convert_ids_to_tokens(unknown)
    known |= {i: _bytes_of(i, piece, tokenizer) for i, piece in zip(unknown, pieces, strict=True) if piece}
    return [known.get(i) for i in ids]


@lru_cache(maxsize=10_000)
def visible(text: str) -> str:
    """Text with white space, control, direction and invisible characters made visible.

    A combining mark at the start gets a dotted circle `◌`. All other characters stay as they are.
    """
    shown = "".join(_visible_character(c) for c in text)
    return "◌" + shown if shown and unicodedata.category(shown[0]).startswith("M") else shown


def escape(text: str) -> str:
    """Text escaped for a plotly label, where `<b>` would be markup and `$…$` mathematics."""
    return text.translate(MARKUP)


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """Maps the 256 printable characters of byte-level BPE (GPT-2) to the bytes that they stand for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def _bytes_of(i: int, piece: str, tokenizer: Tokenizer) -> bytes:
    """The bytes of token `i`, whose vocabulary entry `piece` is spelled in the byte alphabet or as plain text."""
    alphabet, decoded = byte_alphabet(), tokenizer.decode([i])
    spelled = bytes(alphabet[c] for c in piece) if all(c in alphabet for c in piece) else None
    if spelled is not None and spelled.decode("utf-8", "replace") == decoded:
        return spelled
    return decoded.encode("utf-8", "surrogatepass")


def _visible_character(character: str) -> str:
    if character in VISIBLE:
        return VISIBLE[character]
    if character < " ":
        return chr(0x2400 + ord(character))
    if unicodedata.category(character) in UNPRINTABLE or character in BLANK_LETTERS:
        return f"‹U+{ord(character):04X}›"
    return character


def _labels(pieces: Sequence[bytes | None]) -> list[str]:
    """Labels of neighbouring pieces: whole characters as text, split ones numbered, stray bytes in hexadecimal."""
    with suppress(UnicodeDecodeError):  # the usual case: no character is split
        label = {piece: visible(piece.decode("utf-8")) for piece in set(pieces) if piece is not None}
        return ["" if piece is None else label[piece] for piece in pieces]
    solid = [piece or b"\0" for piece in pieces]  # a missing token ends a split character
    owners = [n for n, piece in enumerate(solid) for _ in piece]
    shown: list[list[str | int]] = [[] for _ in pieces]
    start = 0
    for character, length in _characters(b"".join(solid)):
        holders = list(dict.fromkeys(owners[start : start + length]))
        for number, holder in enumerate(holders, 1):
            split = str(number).translate(SUBSCRIPTS) if len(holders) > 1 else ""
            shown[holder].append(character if isinstance(character, int) else character + split)
        start += length
    return [_join(parts) for parts in shown]


def _characters(raw: bytes) -> Iterator[tuple[str | int, int]]:
    """The characters of UTF-8 bytes, each with its length in bytes; a byte outside any character as an integer."""
    start = 0
    while start < len(raw):
        length = next((n for n, (mask, lead) in LEADS.items() if raw[start] & mask == lead), 1)
        try:
            yield raw[start : start + length].decode("utf-8"), length
        except UnicodeDecodeError:
            length = 1
            yield raw[start], length
        start += length


def _join(parts: list[str | int]) -> str:
    """One label from parts: characters made visible, runs of stray bytes as `‹E8 AA›`."""
    groups = groupby(parts, key=lambda part: isinstance(part, int))
    return "".join(
        f"‹{' '.join(f'{byte:02X}' for byte in run)}›" if stray else visible("".join(map(str, run)))
        for stray, run in groups
    )


def token_id(token: int | str, tokenizer: Tokenizer | None, vocab_size: int) -> int:
    """The id of a token that is given by its id or, with a tokenizer, by its text.

    Errors: WorkbenchError if the id is outside the vocabulary, the text is not exactly one token, or a text is given
    without a tokenizer.
    """
    if isinstance(token, str):
        if tokenizer is None:
            raise WorkbenchError(f"token {token!r} is given as text; pass tokenizer= too, or give the token's id")
        ids = tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            pieces = " ".join(token_labels(ids, tokenizer))
            raise WorkbenchError(
                f"{token!r} is {len(ids)} tokens ({pieces}), not one; a leading space, shown as ▁, often matters"
            )
        return ids[0]
    if not 0 <= token < vocab_size:
        raise WorkbenchError(f"no token {token}; ids are 0 to {vocab_size - 1}")
    return token


def counted(tokens: int) -> str:
    """A number of tokens in words: "1 token", "1,200 tokens"."""
    return f"{tokens:,} token{'' if tokens == 1 else 's'}"


def is_whole(text: str) -> bool:
    """Whether a text is a whole number of at most 16 ASCII digits, without a sign."""
    return text.isascii() and text.isdecimal() and len(text) < 17
