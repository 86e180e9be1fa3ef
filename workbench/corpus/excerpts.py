"""An n-gram in its document, with the tokens before and after it; and token ids as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.corpus.index import CorpusIndex, Document
from workbench.tokens import VISIBLE, Tokenizer, token_bytes, visible


@dataclass(frozen=True)
class Excerpt:
    """An n-gram at one place of the training text.

    Attributes:
        document: the document that holds it.
        place: place of its first token.
        before: token ids of the document before it.
        match: its token ids; the token that ends a document is left out.
        after: token ids of the document after it.
    """

    document: Document
    place: int
    before: list[int]
    match: list[int]
    after: list[int]


def excerpt(index: CorpusIndex, place: int, length: int, around: int) -> Excerpt:
    """The n-gram of `length` tokens at a place, with at most `around` tokens of its document on either side.

    Errors: WorkbenchError for a place outside of the text.
    """
    document = index.document(place)
    ids, at = document.ids.tolist(), place - document.place
    return Excerpt(
        document,
        place,
        ids[max(0, at - around) : at],
        ids[at : at + length],
        ids[at + length : at + length + around],
    )


def plain_text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of token ids, safe to show: spaces stay, and other white space and invisible characters are visible.

    Bytes that are not a valid character are shown as �.
    """
    pieces = token_bytes(ids, tokenizer)
    text = b"".join(piece or b"" for piece in pieces).decode("utf-8", "replace")
    return " ".join(visible(part) for part in text.split(" ")).replace(VISIBLE["\n"], VISIBLE["\n"] + " ")
