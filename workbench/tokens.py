"""Tokens as people read them.

A token is a piece of text that came from anywhere, so what is shown must be readable and harmless: white space is
visible (`▁` space, `⏎` newline, `⇥` tab), so are characters that would otherwise hide, reorder or control
(`‹U+202E›`), and a token that holds only part of a character's bytes shows that character with a running number
(`語₁`, `語₂`, `語₃`), or the bytes alone where the rest of the character is missing (`‹E8 AA›`).
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import groupby
from typing import Protocol

from workbench.errors import WorkbenchError

VISIBLE = {" ": "▁", "\n": "⏎", "\t": "⇥", "\r": "␍", "\x7f": "␡"}
UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"}
BLANK_LETTERS = set("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols by category, but with nothing to see
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
LEADS = {1: (0x80, 0x00), 2: (0xE0, 0xC0), 3: (0xF0, 0xE0), 4: (0xF8, 0xF0)}  # bytes of a character, by its first
MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"})


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is needed to read tokens."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]: ...
    def decode(self, token_ids: list[int]) -> str: ...
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


def token_labels(ids: Iterable[int], tokenizer: Tokenizer | None = None) -> tuple[str, ...]:
    """One label a token of a text, in order; without a tokenizer, the ids.

    Characters that are spread over several tokens are put together from their neighbours.
    """
    ids = [int(i) for i in ids]
    if tokenizer is None:
        return tuple(str(i) for i in ids)
    pieces = token_bytes(ids, tokenizer)
    return tuple(
        f"‹{i}›" if piece is None else label for i, piece, label in zip(ids, pieces, _labels(pieces), strict=True)
    )


def vocabulary_labels(ids: Iterable[int], tokenizer: Tokenizer | None = None) -> tuple[str, ...]:
    """One label an id, each read by itself (say, as a candidate next token); without a tokenizer, the ids."""
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
    """The UTF-8 bytes each token stands for; None for an id without a token (embeddings are often padded)."""
    unique = list(dict.fromkeys(ids))
    pieces = tokenizer.convert_ids_to_tokens(unique)
    found = {i: _bytes_of(i, piece, tokenizer) if piece else None for i, piece in zip(unique, pieces, strict=True)}
    return [found[i] for i in ids]


def visible(text: str) -> str:
    """Text with white space, control, direction and invisible characters made visible; nothing else changes."""
    shown = "".join(_visible_character(c) for c in text)
    return "◌" + shown if shown and unicodedata.category(shown[0]).startswith("M") else shown


def escape(text: str) -> str:
    """Text for a plotly label, which reads `<b>` as markup and `$…$` as mathematics."""
    return text.translate(MARKUP)


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE (GPT-2) writes for each of the 256 bytes, to the byte it means."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def _bytes_of(i: int, piece: str, tokenizer: Tokenizer) -> bytes:
    """The bytes of a token, given as the vocabulary spells it: byte by byte, or as text."""
    alphabet, decoded = byte_alphabet(), tokenizer.decode([i])
    spelled = bytes(alphabet[c] for c in piece) if all(c in alphabet for c in piece) else None
    if spelled is not None and spelled.decode("utf-8", "replace") == decoded:
        return spelled
    return decoded.encode("utf-8")


def _visible_character(character: str) -> str:
    if character in VISIBLE:
        return VISIBLE[character]
    if character < " ":
        return chr(0x2400 + ord(character))
    if unicodedata.category(character) in UNPRINTABLE or character in BLANK_LETTERS:
        return f"‹U+{ord(character):04X}›"
    return character


def _labels(pieces: Sequence[bytes | None]) -> list[str]:
    """Labels of neighbouring pieces: whole characters as they are, split ones numbered, stray bytes in hex."""
    with suppress(UnicodeDecodeError):  # nearly always, every piece is whole by itself
        label = {piece: visible(piece.decode("utf-8")) for piece in set(pieces) if piece is not None}
        return ["" if piece is None else label[piece] for piece in pieces]
    solid = [piece or b"\0" for piece in pieces]  # a missing token ends the character before it
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
    """The characters in UTF-8 bytes, each with its length in bytes; a byte that belongs to none as a number."""
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
    """Runs of characters made visible, runs of stray bytes as `‹E8 AA›`."""
    groups = groupby(parts, key=lambda part: isinstance(part, int))
    return "".join(
        f"‹{' '.join(f'{byte:02X}' for byte in run)}›" if stray else visible("".join(map(str, run)))
        for stray, run in groups
    )


def token_id(token: int | str, tokenizer: Tokenizer | None, vocab_size: int) -> int:
    """The id of a token given by id, or by its text where there is a tokenizer.

    Raises WorkbenchError for an id outside the vocabulary, or a text that is not exactly one token.
    """
    if isinstance(token, str):
        if tokenizer is None:
            raise WorkbenchError(f"token {token!r} is given by its text; pass tokenizer=, or the token's id")
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


def is_whole(text: str) -> bool:
    """Whether a text is a whole number of an ordinary size."""
    return text.isascii() and text.isdecimal() and len(text) < 17
