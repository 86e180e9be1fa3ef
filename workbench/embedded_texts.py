"""The sets of texts that come with the workbench, by name. The data card of tiny-olmo says how they were made."""

from dataclasses import dataclass
from pathlib import Path

from workbench.errors import WorkbenchError

FOLDER = Path(__file__).parent / "tiny_olmo" / "texts"


@dataclass(frozen=True)
class EmbeddedSet:
    """What a set holds.

    Attributes:
        about: one line on the texts and their labels.
        label: the column with the labels; None without labels.
        pairs: True for matched pairs of prompts, which `TextPairs.read` reads.
    """

    about: str
    label: str | None = None
    pairs: bool = False


SETS = {
    "tiny-olmo/english": EmbeddedSet("24 paragraphs of English; labels: how-to, place, story, people", "label"),
    "tiny-olmo/code": EmbeddedSet("16 functions and classes in Python"),
    "tiny-olmo/repeats": EmbeddedSet(
        "96 lists of words that end in ten; labels: repeated (these came before), new", "label"
    ),
    "tiny-olmo/language": EmbeddedSet("144 beginnings of lines; labels: English, Python", "label"),
    "tiny-olmo/number": EmbeddedSet("110 subjects with an adverb; labels: singular, plural", "label"),
    "tiny-olmo/place": EmbeddedSet("128 lists of eight words with a colour among them; labels: early, late", "label"),
    "tiny-olmo/number-pairs": EmbeddedSet("48 pairs: a singular and a plural subject, and was or were", pairs=True),
    "tiny-olmo/repeat-pairs": EmbeddedSet("48 pairs: a list that comes again, and the word that is next", pairs=True),
}
"""The built-in sets, by the name that `Texts.read` and `--texts` take."""


def path_of(given: str | Path) -> Path:
    """The file of a built-in set, or the given path.

    Errors: WorkbenchError for a name that begins like those of built-in sets but is none.
    """
    name = str(given)
    if name in SETS:
        return FOLDER / f"{name.partition('/')[2]}.jsonl"
    if name.startswith("tiny-olmo/") and not Path(given).exists():
        raise WorkbenchError(f"no built-in set {name!r}; choices: {', '.join(SETS)}")
    return Path(given)


def text_sets() -> dict[str, str]:
    """The built-in sets by name, with what each holds; for `Texts.read` and, for pairs, `TextPairs.read`."""
    return {name: found.about for name, found in SETS.items()}


def pair_sets() -> dict[str, str]:
    """The built-in sets of pairs by name, with what each holds, for `TextPairs.read`."""
    return {name: found.about for name, found in SETS.items() if found.pairs}
