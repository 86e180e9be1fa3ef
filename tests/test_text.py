"""Token labels are readable and safe for any bytes."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from workbench.errors import WorkbenchError
from workbench.tokens import byte_alphabet, escape, token_bytes, token_id, token_labels, visible, vocabulary_labels

PIECES = [b" the", " 語".encode()[:2], "語".encode()[1:2], "語".encode()[2:] + b"\n\t", "é".encode(), b"\xff\xfe", b"a"]


def spelled(piece: bytes) -> str:
    """A piece as byte-level BPE writes it in its vocabulary."""
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    return "".join(letters[byte] for byte in piece)


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose tokens are `PIECES`, and an added token of two spaces."""
    vocabulary = {spelled(piece): n for n, piece in enumerate(PIECES)}
    core = Tokenizer(models.BPE(vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")
    tokenizer.add_tokens(["  "])
    return tokenizer


def test_the_byte_alphabet_is_complete_and_readable() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert alphabet["Ġ"] == ord(" ") and alphabet["Ċ"] == ord("\n") and alphabet["a"] == ord("a")
    assert all(letter.isprintable() for letter in alphabet)


def test_bytes_are_those_of_the_pieces(byte_level: PreTrainedTokenizerFast) -> None:
    assert token_bytes(range(len(PIECES)), byte_level) == PIECES


def test_a_character_split_over_tokens_is_shown_whole_and_numbered(byte_level: PreTrainedTokenizerFast) -> None:
    assert token_labels(range(5), byte_level) == ("▁the", "▁語₁", "語₂", "語₃⏎⇥", "é")


def test_a_piece_alone_shows_its_bytes(byte_level: PreTrainedTokenizerFast) -> None:
    assert vocabulary_labels([1, 2, 3, 5, 1], byte_level) == ("▁‹E8›", "‹AA›", "‹9E›⏎⇥", "‹FF FE›", "▁‹E8›")
    assert token_labels([1, 0, 2], byte_level) == ("▁‹E8›", "▁the", "‹AA›")


def test_added_and_missing_tokens_have_labels(byte_level: PreTrainedTokenizerFast) -> None:
    end, spaces = byte_level.convert_tokens_to_ids(["<|end|>", "  "])
    assert token_labels([end, spaces, 999], byte_level) == ("<|end|>", "▁▁", "‹999›")


def test_a_missing_token_ends_the_character_before_it(byte_level: PreTrainedTokenizerFast) -> None:
    assert token_labels([1, 999, 2], byte_level) == ("▁‹E8›", "‹999›", "‹AA›")


def test_a_tokenizer_of_words_is_read_as_it_decodes(tokenizer: PreTrainedTokenizerFast) -> None:
    assert token_labels([0, 5], tokenizer) == ("pad", "w5")
    assert token_labels([0, 5]) == ("0", "5")


@pytest.mark.parametrize(
    "code", [*range(0x20), 0x7F, 0x85, 0xA0, 0xAD, 0x200B, 0x200E, 0x202E, 0x2028, 0x2066, 0xFEFF, 0x3164]
)
def test_characters_that_hide_or_reorder_are_made_visible(code: int) -> None:
    shown = visible(chr(code))
    assert chr(code) not in shown
    assert shown.isprintable() and shown.strip()


def test_a_combining_mark_has_something_to_stand_on() -> None:
    assert visible("\u0301") == "◌\u0301"
    assert visible("e\u0301") == "e\u0301"


def test_no_markup_survives_escaping() -> None:
    assert not set(escape("<b>$x$ & 'y'</b>")) & set("<>$")
    assert escape("a & b") == "a &amp; b"


def test_a_token_is_found_by_id_or_text(byte_level: PreTrainedTokenizerFast) -> None:
    assert token_id("a", byte_level, 9) == PIECES.index(b"a")
    assert token_id(3, None, 9) == 3


@pytest.mark.parametrize(
    ("token", "sentence"),
    [("aa", r"'aa' is 2 tokens \(a a\), not one"), (9, "no token 9; ids are 0 to 8"), (-1, "no token -1")],
)
def test_a_target_that_is_not_one_token_is_refused(
    byte_level: PreTrainedTokenizerFast, token: int | str, sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        token_id(token, byte_level, 9)


def test_a_text_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(WorkbenchError, match="pass tokenizer="):
        token_id("a", None, 9)
