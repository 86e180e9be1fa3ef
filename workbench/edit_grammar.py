"""The grammar of changes in words (see `workbench.interventions`): a line is read as an `Intervention`."""

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from workbench import features
from workbench.analyses.support.labels import labels_of, two_groups
from workbench.changes import Intervention, LabelContrast, Target
from workbench.errors import WorkbenchError
from workbench.texts import Texts
from workbench.tokens import VISIBLE, Tokenizer, is_whole, token_id

CHOICES = (
    "L2H5 off",
    "MLP 3 × 0.5",
    'attention 1 from "another prompt"',
    "token 7 at layer 2 off",
    "+8 ▁lemon at layer 2",
    "feature DICTIONARY/417 off",
    "+8 feature DICTIONARY/417",
    "+2 label SET/LABEL at layer 2",
    "+2 probe SET/LABEL at layer 2",
    "zero SITE",
    "scale SITE FACTOR",
    'patch SITE "prompt"',
    "add SITE LENGTH TOKEN",
)
VERBS = {"zero": 0, "scale": 1, "patch": 1, "add": 2}  # number of words after the site
NUMBER = r"[+−-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
PLACE = r"(\d{1,6})"
LIST = r"(\d[\d,\s]*)"
ADDED = re.compile(rf"([+-])\s*(\S+)\s+(\S+)\s+at\s+layer\s+{PLACE}", re.I | re.A)
OFF = re.compile(r"(.*\S)\s+off", re.I)
SCALED = re.compile(rf"(.*\S)\s*[×x*]\s*({NUMBER})|(.*\S)\s*(?:×\s*|\s[x*]\s+)(\S+)", re.I)
PATCHED = re.compile(r"(.*\S)\s+from\s+(\S.*)", re.I | re.S)
PLACES = re.compile(rf"(.*\S)\s+at\s+tokens?\s+{LIST}", re.I | re.A)
FEATURE = re.compile(r"feature\s+(?:(\S+)/)?(\d{1,9})", re.I | re.A)
STEERED = re.compile(rf"([+-])\s*(\S+)\s+(feature\s+(?:\S+/)?\d{{1,9}}(?:\s+at\s+tokens?\s+{LIST})?)", re.I | re.A)
LABELLED = re.compile(
    rf"([+-])\s*(\S+)\s+(label|probe)\s+(\S.*)/([^/]+?)(?:\s+against\s+(\S.*?))?\s+at\s+(?:layer\s+{PLACE}|(?:the\s+)?embedding)",
    re.I | re.A,
)
STREAM = re.compile(rf"tokens?\s+{LIST}\s+at\s+(?:layer\s+{PLACE}|(?:the\s+)?embedding)", re.I | re.A)
HEADS = re.compile(rf"L{PLACE}((?:H\d{{1,6}})+)", re.I | re.A)
SUBLAYER = re.compile(rf"(MLP|attention)\s+{PLACE}|L{PLACE}\s+(MLP|attention)", re.I | re.A)
SUBLAYERS = {"mlp": "mlp_out", "attention": "attn_out"}
WORDS = 9
"""The number of `CHOICES` in words."""
QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»"}


class ReadingTokenizer(Tokenizer, Protocol):
    """A transformers tokenizer, as far as it is used here."""

    def __call__(self, text: str) -> dict[str, list[int]]: ...
    def __len__(self) -> int: ...


ReadSet = Callable[[str, Any], Texts]
"""Reads a set of texts with labels by its name, with a tokenizer."""


def typed_token(text: str, tokenizer: ReadingTokenizer) -> int:
    """The id of a typed text that is one token; `▁` stands for a space, `⏎` for a new line, `⇥` for a tab.

    Errors: WorkbenchError for more or fewer tokens.
    """
    return token_id(text.translate({ord(mark): real for real, mark in VISIBLE.items()}), tokenizer, len(tokenizer))


def read_line(line: str, tokenizer: ReadingTokenizer | None, read_set: ReadSet) -> Intervention:
    """The change that a line describes (see `interventions.read`). Errors: WorkbenchError if it describes none."""
    verb = line.split(maxsplit=1)[0].lower()
    if verb in VERBS:
        return _with_verb(verb, line, tokenizer)
    if found := ADDED.fullmatch(line):
        sign, length, token, layer = found.groups()
        number = _parsed_number(length, line) * (-1 if sign == "-" else 1)
        return _parsed_add(Target(f"blocks.{int(layer)}.resid_post"), number, token, line, tokenizer)
    if found := STEERED.fullmatch(line):
        number = _parsed_number(found[2], line) * (-1 if found[1] == "-" else 1)
        return Intervention("add", _target(found[3], line), number)
    if found := LABELLED.fullmatch(line):
        return _labelled(found, line, tokenizer, read_set)
    if found := PATCHED.fullmatch(line):
        return _parsed_patch(_target(found[1], line), found[2], line, tokenizer)
    if found := OFF.fullmatch(line):
        return Intervention("zero", _target(found[1], line))
    if found := SCALED.fullmatch(line):
        target, factor = found[1] or found[3], found[2] or found[4]
        return Intervention("scale", _target(target, line), _parsed_number(factor, line))
    raise _no_change(line)


def _no_change(line: str) -> WorkbenchError:
    return WorkbenchError(
        f"{line[:80]!r} is not an edit; write one like {', '.join(CHOICES[:WORDS])}, or {', '.join(CHOICES[WORDS:])}, "
        "where heads=0,1 and positions=7 choose parts of a SITE"
    )


def _with_verb(verb: str, line: str, tokenizer: ReadingTokenizer | None) -> Intervention:
    """A change with the verb first: the site, then factor, prompt, or length and token; heads= and positions=."""
    rest, quoted = line.split(maxsplit=1)[1:], ""
    text = rest[0] if rest else ""
    if verb == "patch" and (found := re.fullmatch(r"(\S+)\s+(.+?)((?:\s+(?:heads|positions)=\S*)*)", text, re.S)):
        text, quoted = f"{found[1]} {found[3]}", found[2]
    words = [word for word in text.split() if not word.startswith(("heads=", "positions="))]
    words += [quoted] if quoted else []
    if len(words) != VERBS[verb] + 1:
        raise _no_change(line)
    target = Target(words[0], _whole("heads", text, line), _whole("positions", text, line))
    match verb:
        case "zero":
            return Intervention("zero", target)
        case "scale":
            return Intervention("scale", target, _parsed_number(words[1], line))
        case "patch":
            return _parsed_patch(target, words[1], line, tokenizer)
    return _parsed_add(target, _parsed_number(words[1], line), words[2], line, tokenizer)


def _target(text: str, line: str) -> Target:
    """What a line changes, from its words or from a site with heads= and positions=."""
    if found := STREAM.fullmatch(text):
        site = "embed" if found[2] is None else f"blocks.{int(found[2])}.resid_post"
        return Target(site, None, _places(found[1], line))
    places = None
    if found := PLACES.fullmatch(text):
        text, places = found[1], _places(found[2], line)
    if found := FEATURE.fullmatch(text):
        return Target(_dictionary(found[1], line), None, places, int(found[2]))
    if found := HEADS.fullmatch(text):
        return Target(f"blocks.{int(found[1])}.attn.z", _distinct_numbers(found[2].upper().split("H")[1:]), places)
    if found := SUBLAYER.fullmatch(text):
        kind, layer = found[1] or found[4], found[2] or found[3]
        return Target(f"blocks.{int(layer)}.{SUBLAYERS[kind.lower()]}", None, places)
    site, *more = text.split()
    if ("." not in site and site not in ("embed", "logits")) or any("=" not in word for word in more):
        raise _no_change(line)
    heads, positions = (_whole(name, text, line) for name in ("heads", "positions"))
    return Target(site, heads, positions if places is None else places)


def _dictionary(name: str | None, line: str) -> str:
    """The name of a dictionary; of an embedded one, its last part will do if no other one has it."""
    there = features.embedded()
    if name is None:
        example = there[0] if there else "FOLDER"
        raise WorkbenchError(f"{line[:80]!r} names no dictionary; write it before the number: feature {example}/417")
    found = [full for full in there if full.endswith(f"/{name}")]
    return found[0] if len(found) == 1 else name


def _parsed_add(
    target: Target, length: float, token: str, line: str, tokenizer: ReadingTokenizer | None
) -> Intervention:
    return Intervention("add", target, length, token, (typed_token(token, _needed(tokenizer, line)),))


def _labelled(found: re.Match[str], line: str, tokenizer: ReadingTokenizer | None, read_set: ReadSet) -> Intervention:
    sign, times, kind, name, toward, against, layer = found.groups()
    number = _parsed_number(times, line) * (-1 if sign == "-" else 1)
    texts = read_set(name, _needed(tokenizer, line))
    two_groups(labels_of(texts), toward, against)  # an error for a label that no text has
    site = "embed" if layer is None else f"blocks.{int(layer)}.resid_post"
    return Intervention(kind.lower(), Target(site), number, labels=LabelContrast(name, toward, against, texts))


def _parsed_patch(target: Target, quoted: str, line: str, tokenizer: ReadingTokenizer | None) -> Intervention:
    if target.feature is not None:
        raise WorkbenchError(f"{line[:80]!r}: a feature can be off, multiplied (× 2) or raised (+8), not patched")
    prompt = _unquoted(quoted.strip(), line)
    ids = tuple(_needed(tokenizer, line)(prompt)["input_ids"])
    if not ids:
        raise WorkbenchError(f"the prompt in {line[:80]!r} is empty; write the text to patch from in quotes")
    return Intervention("patch", target, text=prompt, ids=ids)


def _needed(tokenizer: ReadingTokenizer | None, line: str) -> ReadingTokenizer:
    if tokenizer is None:
        raise WorkbenchError(f"{line[:80]!r} names a text, which only a tokenizer can read; pass tokenizer=")
    return tokenizer


def _unquoted(text: str, line: str) -> str:
    """A prompt without its quotes; between straight double quotes, escapes such as `\\n` are read as in JSON."""
    if len(text) < 2 or QUOTES.get(text[0]) != text[-1]:
        raise WorkbenchError(f'the prompt in {line[:80]!r} needs quotes: from "another prompt"')
    try:
        return str(json.loads(text)) if text[0] == '"' else text[1:-1]
    except ValueError:
        return text[1:-1]


def _places(text: str, line: str) -> tuple[int, ...]:
    numbers = [number.strip() for number in text.split(",")]
    if not all(map(is_whole, numbers)):
        raise WorkbenchError(f"{text!r} in {line[:80]!r} is not a list of tokens; write their places, for example 7,8")
    return _distinct_numbers(numbers)


def _distinct_numbers(numbers: Iterable[str]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(map(int, numbers)))


def _whole(name: str, text: str, line: str) -> tuple[int, ...] | None:
    """The numbers of `heads=0,5` or `positions=7` in a text; None if it does not have this word."""
    found = [word.partition("=")[2] for word in text.split() if word.startswith(f"{name}=")]
    if not found:
        return None
    numbers = found[-1].split(",")
    if not all(is_whole(number) for number in numbers):
        raise WorkbenchError(
            f"{name}={found[-1]} in {line[:80]!r} is not a list of {name}; write their numbers, for example {name}=0,5"
        )
    return _distinct_numbers(numbers)


def _parsed_number(text: str, line: str) -> float:
    try:
        number = float(text.replace("−", "-"))
    except ValueError as error:
        raise WorkbenchError(f"{text!r} in {line[:80]!r} is not a number") from error
    if not math.isfinite(number):
        raise WorkbenchError(f"{text!r} in {line[:80]!r} is not finite")
    return number
