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

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hooks import Edit, OlmoForCausalLM
from workbench import features
from workbench.changes import (
    DirectionOf,
    Intervention,
    LabelContrast,
    LoadDictionary,
    LoadModel,
    Target,
    model_by_id,
    toward,
)
from workbench.edit_grammar import ReadingTokenizer, ReadSet, read_line, typed_token
from workbench.embedded_texts import SETS
from workbench.errors import WorkbenchError
from workbench.texts import Texts

__all__ = (
    "DirectionOf",
    "Intervention",
    "LabelContrast",
    "LoadDictionary",
    "LoadModel",
    "ReadSet",
    "ReadingTokenizer",
    "Target",
    "active_lines",
    "built_in_set",
    "canonical",
    "check_text",
    "edits_of",
    "read",
    "set_or_file",
    "toward",
    "typed_token",
)


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
    return tuple(read_line(line, tokenizer, read_set) for line in active_lines(text))


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
    load_model: LoadModel = model_by_id,
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
