"""Make the sets of texts that come with tiny-olmo, except `english` and `code`, which were written by hand.

    python -m workbench.tiny_olmo.make_texts          # writes workbench/tiny_olmo/texts/*.jsonl, always the same bytes
    python -m workbench.tiny_olmo.make_texts --check  # what each set does to the model: the numbers of the data card

Every noun below is one token of tiny-olmo's tokenizer when a space stands before it; those of `NUMBERS` and `COUNTED`
are so in the plural, too.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from workbench.embedded_texts import FOLDER

TextRow = Mapping[str, str]
SEED = 16
NUMBERS = {
    "dog": "dogs", "book": "books", "tree": "trees", "key": "keys", "table": "tables", "friend": "friends",
    "student": "students", "child": "children", "man": "men", "woman": "women", "girl": "girls", "player": "players",
    "game": "games", "cup": "cups", "animal": "animals", "window": "windows",
}  # fmt: skip
NOUNS = (
    "boat", "car", "house", "door", "teacher", "boy", "song", "film", "letter", "box", "bottle", "picture", "plant",
    "horse", "cat", "bird", "city", "town", "road", "wall", "chair", "bed", "ball", "coat", "ring", "bag", "watch",
    "phone", "machine", "computer", "engine", "train", "bus", "school", "office", "room", "garden", "field", "rock",
    "beach", "star", "sun", "doctor", *NUMBERS,
)  # fmt: skip
COUNTED = NUMBERS | {
    noun: f"{noun}s" for noun in (
        "area", "arm", "card", "character", "cookie", "day", "egg", "event", "eye", "finger", "hand", "hour", "item",
        "law", "leg", "line", "material", "member", "method", "month", "nail", "name", "number", "object", "option",
        "parent", "piece", "plant", "point", "problem", "product", "question", "result", "service", "side", "store",
        "thing", "tool", "word",
    )
}  # fmt: skip
COLOURS = ("red", "blue", "green", "white", "black", "brown", "yellow", "orange")
PLACES = ("near", "behind", "under", "with", "by")
ADVERBS = ("there", "also", "then", "still", "at first", "in the end")
VERBS = ("sees", "likes", "moves", "finds", "leaves", "holds", "shows", "needs")
LINES = (  # of Python
    "{a} = {b}({c}", "for {a} in {b}.{c}", "if {a} is not {b}", "return {a}[{b}] + {c}", "self.{a} = {b}",
    "def {a}({b}, {c}", "while {a} < {b}", "assert {a}({b}) == {c}",
)  # fmt: skip
SENTENCES = (
    "The {a} {verb} the {b}", "A {a} {place} the {b} {verb} a {c}", "Every {a} {verb} the {b} {place} the {c}",
    "The {a} is {place} the {b}", "No {a} {verb} this {b}", "Our {a} {verb} your {b} and the {c}",
)  # fmt: skip


def language(draw: random.Random) -> Iterator[TextRow]:
    """The beginnings of lines in English and in Python, with the same nouns. Each ends with a noun."""
    for label, forms in (("English", SENTENCES), ("Python", LINES)):
        for n in range(72):
            a, b, c = draw.sample(NOUNS, 3)
            words = {"a": a, "b": b, "c": c, "verb": draw.choice(VERBS), "place": draw.choice(PLACES)}
            yield {"text": forms[n % len(forms)].format(**words), "label": label}


def number(draw: random.Random) -> Iterator[TextRow]:
    """A subject in singular and plural with an adverb, which ends the text. No noun occurs twice.

    Every subject is one token in both numbers: else the number of tokens would give the label away.
    """
    for nouns in COUNTED.items():
        for label, subject in zip(("singular", "plural"), nouns, strict=True):
            yield {"text": f"The {subject} {draw.choice(ADVERBS)}", "label": label}


def number_pairs(draw: random.Random) -> Iterator[TextRow]:
    """Subjects in singular and plural, of equal length in tokens, with the verb that follows in each version."""
    for noun, plural in NUMBERS.items():
        for adverb in ("also", "still", "there"):
            prompts = {"clean": f"The {noun} {adverb}", "corrupted": f"The {plural} {adverb}"}
            yield {**prompts, "answer": " was", "other": " were"}


def place(draw: random.Random) -> Iterator[TextRow]:
    """Eight different words, one of them a colour: the second or third, or the sixth or seventh."""
    for label, places in (("early", (1, 2)), ("late", (5, 6))):
        for n in range(64):
            words = draw.sample(NOUNS, 8)
            words[places[n % len(places)]] = draw.choice(COLOURS)
            yield {"text": " " + " ".join(words), "label": label}


def repeats(draw: random.Random) -> Iterator[TextRow]:
    """A span of ten words, 0 to 8 other words, and the same span again; beside it the same text with ten new words in
    the place of the second span.
    """
    for _ in range(48):
        before, between = draw.randint(0, 8), draw.randint(0, 8)
        words = draw.sample(NOUNS, before + 10 + between + 10)
        start, second = before + 10 + between, words[before : before + 10]
        yield {"text": " " + " ".join(words[:start] + second), "label": "repeated"}
        yield {"text": " " + " ".join(words), "label": "new"}


def repeat_pairs(draw: random.Random) -> Iterator[TextRow]:
    """Eight words and the first four of them again. The versions differ in the fifth word, which comes next."""
    for _ in range(48):
        words = draw.sample(NOUNS, 9)
        clean, other = words[:8], words[8]
        corrupted = [*clean[:4], other, *clean[5:]]
        clean_text, corrupted_text = (" " + " ".join([*some, *some[:4]]) for some in (clean, corrupted))
        yield {"clean": clean_text, "corrupted": corrupted_text, "answer": f" {clean[4]}", "other": f" {other}"}


MADE: dict[str, Callable[[random.Random], Iterator[TextRow]]] = {
    "language": language,
    "number": number,
    "number-pairs": number_pairs,
    "place": place,
    "repeats": repeats,
    "repeat-pairs": repeat_pairs,
}
"""The generated sets, by the names of their files."""


def text_of(name: str) -> str:
    """The content of the file of a generated set."""
    return "".join(json.dumps(row) + "\n" for row in MADE[name](random.Random(SEED)))


def write(folder: Path = FOLDER) -> None:
    """Write every generated set into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MADE:
        (folder / f"{name}.jsonl").write_text(text_of(name), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the sets of texts that come with tiny-olmo.")
    parser.add_argument("--check", action="store_true", help="print what each set does to the model, and write nothing")
    if parser.parse_args().check:
        from workbench.tiny_olmo.check_texts import checked

        print(checked().to_string(index=False))
    else:
        write()
