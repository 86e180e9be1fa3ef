"""Changes of a model in words: `L2H5 off`. One grammar for the page, the command line and notebooks.

    changes = interventions.read("L2H5 off\\nMLP 3 × 0.5", tokenizer)
    with model.tapped(edits=interventions.edits_of(model, changes)):
        lens = logit_lens(model, tokens)                 # any analysis, of the changed model

One change a line; a `#` before a line switches it off. What is changed:

    L2H5, L2H5H7                  outputs of heads, before the output projection
    MLP 3, attention 3            the output of a sublayer, as it is added to the residual stream
    token 7 at layer 2            the residual stream after a layer, at positions (tokens 7,8 takes two of them)
    token 7 at the embedding      the embedding of a token
    L2H5 at token 7               one of the first two, at positions only
    feature DICTIONARY/417        what a feature of a dictionary writes (see `features.load` for the names; an embedded
                                  one needs its last part only: feature blocks.2.resid_post/417); one of a crosscoder
                                  as active as in the unchanged models, all of which run on each text
    blocks.2.attn.z heads=5       any site or glob of `model.sites`, with heads= and positions= where needed

How it is changed:

    … off                         set to zero
    … × 0.5                       multiplied; x and * are the same
    … from "another prompt"       replaced by its value in a run on another prompt
    +8 ▁lemon at layer 2          a vector of length 8 is added, in the direction that raises the token's logit
    +8 feature DICTIONARY/417     a feature is made more active by 8, at all tokens; one of a crosscoder along its
                                  direction in this checkpoint, whose weights must be those of one of its sources
    +2 label SET/LABEL at layer 2     the direction of a label of a set of texts is added twice, at all tokens: the mean
                                      state of its texts at their last token, less that of all others (label_direction)
    +2 label SET/LABEL against OTHER at the embedding    the same, less that of the texts with another label
    +2 probe SET/LABEL at layer 2     the same with the direction in which a linear probe reads the label (probe_layer)

The same with the verb first: `zero SITE`, `scale SITE FACTOR`, `patch SITE "prompt"`, `add SITE LENGTH TOKEN`.
Positions count from the start of each text that the model reads. A SET is a built-in one, tiny-olmo/number; the command
line also takes a file with the columns text and label.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hooks import Edit, HooksError, OlmoForCausalLM, edits
from workbench import checkpoints, features
from workbench.analyses.directions import label_direction
from workbench.analyses.support.direction import Direction
from workbench.analyses.support.labels import labels_of, two_groups
from workbench.embedded_texts import SETS
from workbench.errors import WorkbenchError
from workbench.features.along_run import source_with_weights_of
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


LoadDictionary = Callable[[str], features.Dictionary]
LoadModel = Callable[[str], OlmoForCausalLM]
ReadSet = Callable[[str, Any], Texts]
"""Reads a set of texts with labels by its name, with a tokenizer."""
DirectionOf = Callable[["Intervention"], Direction]
"""Gives the direction of a change of the kind "label" or "probe"."""


def _model_of(checkpoint: str) -> OlmoForCausalLM:
    return checkpoints.load(checkpoint)[0]


class Target(NamedTuple):
    """What is changed: a site or glob, and its heads and positions; None means all.

    With a `feature`, this is its number in the dictionary that `site` names.
    """

    site: str
    heads: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    feature: int | None = None


@dataclass(frozen=True)
class LabelContrast:
    """A label of a set of texts against another label, or against all others."""

    name: str
    toward: str
    against: str | None
    texts: Texts = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.name}/{self.toward}" + (f" against {self.against}" if self.against else "")


@dataclass(frozen=True)
class Intervention:
    """One change of a model. `str` gives its line; `read` makes one from a line.

    Attributes:
        kind: "zero", "scale", "add" or "patch", as in `hooks.edits`; "label" adds the direction of a label, and
            "probe" that in which a probe reads it.
        target: what is changed.
        number: the factor of "scale"; of "add", the length of the vector, or the activation that a feature gets more;
            of "label" and "probe", how often the direction is added.
        text: the token of "add", as typed; the prompt of "patch".
        ids: the token's id, or the ids of the prompt.
        labels: of "label" and "probe", the set of texts and its labels.
    """

    kind: str
    target: Target
    number: float = 1.0
    text: str = ""
    ids: tuple[int, ...] = ()
    labels: LabelContrast | None = None

    def __str__(self) -> str:
        if self.labels is not None:
            return f"{_signed(self.number)} {self.kind} {self.labels} at {_place_of(self.target.site)}"
        words = in_words(self.target)
        if self.kind == "add" and self.target.feature is not None:
            return f"{_signed(self.number)} {words}"
        if self.kind == "add":
            layer = re.fullmatch(r"blocks\.(\d+)\.resid_post", self.target.site)
            if layer and self.target == Target(self.target.site):
                return f"{_signed(self.number)} {self.text} at layer {layer[1]}"
            return _with_places(f"add {self.target.site} {_number_words(self.number)} {self.text}", self.target)
        if words is None:
            more = {"zero": "", "scale": f" {_number_words(self.number)}", "patch": f" {_quoted(self.text)}"}[self.kind]
            return _with_places(f"{self.kind} {self.target.site}{more}", self.target)
        action = {"zero": "off", "scale": f"× {_number_words(self.number)}", "patch": f"from {_quoted(self.text)}"}[
            self.kind
        ]
        return f"{words} {action}"

    def edit(
        self,
        model: OlmoForCausalLM,
        load: LoadDictionary = features.load,
        direction_of: DirectionOf | None = None,
        load_model: LoadModel = _model_of,
    ) -> Edit:
        """The edit of `hooks.edits` that makes this change in a model. "patch" runs the model on its prompt, without
        any other edit. `load` gives a dictionary of features by its name; `direction_of` gives the direction of a
        change of the kinds "label" and "probe", in place of `direction`; `load_model` gives the other sources of a
        crosscoder, which its features are switched off or scaled with (see `features.switch_off_in`).

        Errors: WorkbenchError, with the line, if the model has no such site, layer or head, or no such feature fits it.
        """
        if self.target.feature is not None:
            return self._of_feature(model, load, load_model)
        self.check(model, load)
        site, *where, _ = self.target
        if self.labels is not None:
            found = self.direction(model) if direction_of is None else direction_of(self)
            return found.edit(self.number)
        match self.kind:
            case "zero":
                return edits.zero(site, *where)
            case "scale":
                return edits.scale(site, self.number, *where)
            case "add":
                return edits.add(site, toward(model, self.ids[0], self.number), *where)
        run = model.run(torch.tensor([self.ids], device=model.device), capture=site, captures_only=True)
        return edits.patch(site, run, *where)

    def check(self, model: OlmoForCausalLM, load: LoadDictionary = features.load) -> None:
        """Raise WorkbenchError, with the line, if the model has no such site, layer, head or feature."""
        if self.target.feature is not None:
            self._of_feature(model, load, lambda _: model)  # in place of the other sources, so that none is loaded
            return
        layer, layers = re.match(r"blocks\.(\d+)\.", self.target.site), model.config.num_hidden_layers
        if layer and int(layer[1]) >= layers:
            raise WorkbenchError(f"“{self}” needs layer {layer[1]}; the layers of this model are 0 to {layers - 1}")
        try:
            with model.tapped(edits=edits.zero(*self.target[:3])):
                return
        except HooksError as error:
            raise WorkbenchError(f"“{self}” does not fit this model: {error.args[0]}") from error

    @property
    def layer(self) -> int | str:
        """Of "label" and "probe": the layer after which the direction is read and added, or "embed"."""
        found = re.match(r"blocks\.(\d+)\.", self.target.site)
        return "embed" if found is None else int(found[1])

    def direction(self, model: OlmoForCausalLM) -> Direction:
        """Of "label" and "probe": the direction that is added at all tokens, computed from all texts of the set.

        Errors: WorkbenchError, with the line, if it cannot be computed, such as a probe of a label with few texts.
        """
        labels = self.labels
        assert labels is not None
        try:
            if self.kind == "label":
                return label_direction(model, labels.texts, labels.toward, labels.against, layer=self.layer)
            from workbench.analyses.linear_probe import probe_layer  # a slow import, which only this line needs

            return probe_layer(model, labels.texts, layer=self.layer).direction(labels.toward, labels.against)
        except WorkbenchError as error:
            raise WorkbenchError(f"“{self}” cannot be done: {error}") from error

    @property
    def runs_sources(self) -> bool:
        """Whether the change of a feature runs all sources of its dictionary, if this is a crosscoder."""
        return self.target.feature is not None and self.kind in ("zero", "scale")

    def _of_feature(self, model: OlmoForCausalLM, load: LoadDictionary, load_model: LoadModel) -> Edit:
        name, _, positions, feature = self.target
        assert feature is not None
        try:
            dictionary = load(name)
            dictionary.check_fits(model)
            source = dictionary.sources[source_with_weights_of(dictionary, model)] if dictionary.sources else None
            if self.runs_sources and source is not None:
                models = {name: model if name == source else load_model(name) for name in dictionary.sources}
                factor = self.number if self.kind == "scale" else 0.0
                return features.switch_off_in(
                    dictionary, feature, models, positions=positions, source=source, factor=factor
                )
            match self.kind:
                case "zero":
                    return features.switch_off(dictionary, feature, positions)
                case "scale":
                    return features.scale(dictionary, feature, self.number, positions)
            return features.steer(dictionary, feature, self.number, positions, source=source)
        except WorkbenchError as error:
            raise WorkbenchError(f"“{self}” cannot be done: {error}") from error


def built_in_set(name: str, tokenizer: Any) -> Texts:  # noqa: ANN401 - any tokenizer of transformers
    """A built-in set of texts with labels. Errors: WorkbenchError for another name."""
    labelled = [each for each, found in SETS.items() if found.label is not None]
    if name not in labelled:
        raise WorkbenchError(f"no set of texts {name!r:.60} with labels; choices: {', '.join(labelled)}")
    return Texts.read(name, tokenizer)


def set_or_file(name: str, tokenizer: Any) -> Texts:  # noqa: ANN401 - any tokenizer of transformers
    """A built-in set of texts with labels, or those of a file with the columns text and label.

    Errors: those of `built_in_set` and `Texts.read`.
    """
    return Texts.read(name, tokenizer, label="label") if Path(name).is_file() else built_in_set(name, tokenizer)


def read(
    text: str, tokenizer: ReadingTokenizer | None = None, read_set: ReadSet = built_in_set
) -> tuple[Intervention, ...]:
    """The changes that a text describes, one a line, in order; lines that start with `#` are left out.

    `tokenizer` is needed for lines that name a token, a prompt or a set of texts; `read_set` reads the sets. The text
    of a change is its canonical line, so `read("\\n".join(map(str, changes)), tokenizer) == changes`.

    Errors: WorkbenchError, with the line, for a line that is no change.
    """
    return tuple(_read_line(line, tokenizer, read_set) for line in active_lines(text))


def active_lines(text: str) -> list[str]:
    """The lines of a text that are switched on: those that are not empty and do not start with `#`."""
    return [line for line in map(str.strip, text.split("\n")) if line and not line.startswith("#")]


def canonical(text: str, tokenizer: ReadingTokenizer | None = None, read_set: ReadSet = built_in_set) -> str:
    """The active lines of a text in the spelling of `str(Intervention)`. Errors: those of `read`."""
    return "\n".join(map(str, read(text, tokenizer, read_set)))


def edits_of(
    model: OlmoForCausalLM,
    changes: Iterable[Intervention],
    load: LoadDictionary = features.load,
    direction_of: DirectionOf | None = None,
    load_model: LoadModel = _model_of,
) -> list[Edit]:
    """The edits that make these changes in a model, in order; the other arguments are those of `Intervention.edit`.

    Errors: those of `Intervention.edit`.
    """
    return [change.edit(model, load, direction_of, load_model) for change in changes]


def check_text(changes: Iterable[Intervention], length: int) -> None:
    """Raise WorkbenchError for a change that does not fit a text of `length` tokens: positions beyond its end, or a
    prompt of another number of tokens to patch from."""
    for change in changes:
        beyond = [place for place in change.target.positions or () if place >= length]
        if beyond:
            raise WorkbenchError(f"“{change}” needs token {beyond[0]}; the tokens of this prompt are 0 to {length - 1}")
        if change.kind == "patch" and len(change.ids) != length:
            raise WorkbenchError(
                f"“{change}” patches from {len(change.ids)} tokens; this prompt has {length}, and the two must have "
                "equally many"
            )


def toward(model: OlmoForCausalLM, token: int, length: float) -> Tensor:
    """A steering vector (d_model) that raises a token's logit: its row of the unembedding, scaled to norm `length`."""
    row = model.get_output_embeddings().weight[token].detach().float()
    return length * row / row.norm()


def typed_token(text: str, tokenizer: ReadingTokenizer) -> int:
    """The id of a typed text that is one token; `▁` stands for a space, `⏎` for a new line, `⇥` for a tab.

    Errors: WorkbenchError for more or fewer tokens.
    """
    return token_id(text.translate({ord(mark): real for real, mark in VISIBLE.items()}), tokenizer, len(tokenizer))


def in_words(target: Target) -> str | None:
    """What is changed, in the words of the grammar; None for a site that has no words."""
    if target.feature is not None:
        at = "" if target.positions is None else f" at {_token_words(target.positions)}"
        return f"feature {target.site}/{target.feature}{at}"
    found = re.fullmatch(r"blocks\.(\d+)\.(attn\.z|mlp_out|attn_out|resid_post)", target.site)
    places = "" if target.positions is None else _token_words(target.positions)
    if target.site == "embed" and places and target.heads is None:
        return f"{places} at the embedding"
    if found is None or (target.heads is None) == (found[2] == "attn.z"):
        return None
    if found[2] == "resid_post":
        return f"{places} at layer {found[1]}" if places else None
    name = {
        "attn.z": "".join([f"L{found[1]}", *(f"H{head}" for head in target.heads or ())]),
        "mlp_out": f"MLP {found[1]}",
        "attn_out": f"attention {found[1]}",
    }[found[2]]
    return f"{name} at {places}" if places else name


def _place_of(site: str) -> str:
    """The residual stream after a layer, or the embedding, in words."""
    layer = re.match(r"blocks\.(\d+)\.", site)
    return "the embedding" if layer is None else f"layer {layer[1]}"


def _token_words(positions: Sequence[int]) -> str:
    return f"token{'s' if len(positions) > 1 else ''} {','.join(map(str, positions))}"


def _with_places(line: str, target: Target) -> str:
    for name, numbers in (("heads", target.heads), ("positions", target.positions)):
        line += "" if numbers is None else f" {name}={','.join(map(str, numbers))}"
    return line


def _signed(number: float) -> str:
    return f"{'-' if number < 0 else '+'}{_number_words(abs(number))}"


def _number_words(number: float) -> str:
    """A number as a person writes it; read again, it is the same number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _quoted(prompt: str) -> str:
    return json.dumps(prompt, ensure_ascii=False)


def _read_line(line: str, tokenizer: ReadingTokenizer | None, read_set: ReadSet) -> Intervention:
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
