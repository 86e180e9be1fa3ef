"""Symbolic arguments of calls: a model, a tokenizer or the tokens of a text, named by their checkpoint or series.

Each class defines the argument's value, computed on the page's models, and its Python source.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from workbench import corpus, interventions
from workbench.page.session.bench import Bench
from workbench.page.session.edit_lines import sets_of, tapped
from workbench.page.session.prompts import Prompt, ids_code, typed_text


class VariableNames(Protocol):
    """The variables of generated code, as `code.Variables` names them."""

    options: str

    def ending(self, argument: "Argument") -> str:
        """The suffix of a checkpoint's variables."""

    def tokens(self, text: "TokensOf | IdsOf") -> str:
        """The variable that holds a text's tokens."""

    def texts(self, chosen: "TextsOf") -> str:
        """The variable that holds a set of texts."""

    def pairs(self, chosen: "PairsOf") -> str:
        """The variable that holds a set of pairs of prompts."""

    def loading(self, checkpoint: str) -> str:
        """An expression that loads a checkpoint and gives its model."""


@dataclass(frozen=True)
class Argument:
    """An argument that belongs to a checkpoint or a series; `name` is the checkpoint's id or the series' name."""

    name: str

    def value(self, bench: Bench) -> object:
        """The value that is passed to the function."""
        raise NotImplementedError

    def code(self, variables: VariableNames) -> str:
        """The argument as a Python expression; `variables` gives the names of the variables."""
        raise NotImplementedError


@dataclass(frozen=True)
class ModelOf(Argument):
    """The model of a checkpoint, with interventions: `edits` are their lines, in the canonical spelling.

    The value is the model itself. `calls.run` applies the edits during the call.
    """

    edits: str = ""

    def value(self, bench: Bench) -> object:
        return bench.load(self.name)[0]

    def code(self, variables: VariableNames) -> str:
        return f"model{variables.ending(self)}"


@dataclass(frozen=True)
class ModelsOf(Argument):
    """The unedited models of several checkpoints, by id; `name` is that of the checkpoint whose texts they read."""

    ids: tuple[str, ...]

    def value(self, bench: Bench) -> object:
        return {one: bench.load(one)[0] for one in self.ids}

    def code(self, variables: VariableNames) -> str:
        return f"{{name: checkpoints.load(name{variables.options})[0] for name in {list(self.ids)!r}}}"


class TokenizerOf(Argument):
    """The tokenizer of a checkpoint."""

    def value(self, bench: Bench) -> object:
        return bench.tokenizer(self.name)

    def code(self, variables: VariableNames) -> str:
        return f"tokenizer{variables.ending(self)}"


@dataclass(frozen=True)
class TokensOf(Argument):
    """The token ids of a text or a conversation, by a checkpoint's tokenizer: 1 pos."""

    text: Prompt

    def value(self, bench: Bench) -> object:
        return bench.tokens(self.name, self.text)

    @property
    def shown(self) -> str:
        """The text; of a conversation, its turns as text."""
        return typed_text(self.text)

    def code(self, variables: VariableNames) -> str:
        return variables.tokens(self)

    def ids_code(self, variables: VariableNames) -> str:
        """A Python expression that gives the token ids; it stands in the line `tokens = …` of the copied code."""
        return ids_code(f"tokenizer{variables.ending(self)}", self.text)


@dataclass(frozen=True)
class IdsOf(Argument):
    """Token ids given directly, for sequences that no text tokenises to: 1 pos."""

    ids: tuple[int, ...]

    def value(self, bench: Bench) -> object:
        return torch.tensor([self.ids], device=bench.load(self.name)[0].device)

    @property
    def shown(self) -> str:
        """The ids."""
        return repr(list(self.ids))

    def code(self, variables: VariableNames) -> str:
        return variables.tokens(self)

    def ids_code(self, variables: VariableNames) -> str:
        """A Python expression that gives the token ids; it stands in the line `tokens = …` of the copied code."""
        return repr(list(self.ids))


@dataclass(frozen=True)
class TextsOf(Argument):
    """The tokens of a set of texts, by a checkpoint's tokenizer; `chosen` is its name, the default if empty."""

    chosen: str = ""

    def value(self, bench: Bench) -> object:
        return bench.texts(self.name, self.chosen)

    def code(self, variables: VariableNames) -> str:
        return variables.texts(self)


@dataclass(frozen=True)
class PairsOf(Argument):
    """A set of pairs of prompts (see `Bench.pairs`), by a checkpoint's tokenizer; `chosen` is its name.

    `part` is the attribute of the pairs that is passed on, such as "clean"; the pairs themselves if empty.
    """

    chosen: str
    part: str = ""

    def value(self, bench: Bench) -> object:
        pairs = bench.pairs(self.name, self.chosen)
        return getattr(pairs, self.part) if self.part else pairs

    def code(self, variables: VariableNames) -> str:
        return f"{variables.pairs(self)}.{self.part}" if self.part else variables.pairs(self)


@dataclass(frozen=True)
class ResidOf(Argument):
    """The residual stream of a text at the input of a layer (layer ≥ 1): 1 pos d_model.

    It is computed from the input of the layer below. The inputs of all layers are kept in the result cache, so the map
    of another head does not need another run of the layers below.
    """

    text: Prompt
    layer: int
    edits: str = ""

    def value(self, bench: Bench) -> torch.Tensor:
        found = bench.results.get(self)
        if found is None:
            opened, below = bench.read(self.name, self.text), self.layer - 1
            resid = replace(self, layer=below).value(bench) if below else None
            with tapped(bench, (opened.model, self.name, self.edits)):
                found = opened.model.run(opened.ids, resid=resid, start_at_layer=below, stop_at_layer=self.layer).resid
            bench.results.put(self, found)
        return found

    def code(self, variables: VariableNames) -> str:
        tokens = variables.tokens(TokensOf(self.name, self.text))
        return f"model{variables.ending(self)}.run({tokens}, stop_at_layer={self.layer}).resid"


@dataclass(frozen=True)
class InterventionsOf(Argument):
    """The interventions that a text describes; its tokens and prompts are read by a checkpoint's tokenizer."""

    text: str

    def value(self, bench: Bench) -> object:
        changes = interventions.read(self.text, bench.tokenizer(self.name), sets_of(bench, self.name))
        for change in changes:
            if change.target.feature is not None:
                dictionary = bench.dictionary(change.target.site)  # an error for one that was not named at start
                for name in dictionary.sources if change.runs_sources else ():
                    bench.checkpoint(name)  # the same
        return changes

    def code(self, variables: VariableNames) -> str:
        return f"interventions.read({self.text!r}, tokenizer{variables.ending(self)})"


class IndexOf(Argument):
    """The index of the training text of a checkpoint's series. Errors: those of `corpus.open`."""

    def value(self, bench: Bench) -> object:
        return corpus.open(bench.checkpoint(self.name).id)

    def code(self, variables: VariableNames) -> str:
        return f"corpus.open({self.name!r})"


class FilesOf(Argument):
    """A checkpoint's id, for analyses that read the checkpoint's files and load no model."""

    def value(self, bench: Bench) -> object:
        return bench.checkpoint(self.name).id

    def code(self, variables: VariableNames) -> str:
        return repr(self.name)


@dataclass(frozen=True)
class SeriesRun(Argument):
    """Checkpoints of a series' main run, in order: those with the given `ids`; all if `ids` is empty."""

    ids: tuple[str, ...] = ()

    def value(self, bench: Bench) -> object:
        return [bench.checkpoint(one) for one in self.ids] or bench.main_run(self.name)

    def code(self, variables: VariableNames) -> str:
        series = f"checkpoints.series({self.name!r})"
        return f"[one for one in {series} if one.id in {self.ids!r}]" if self.ids else series


class FinalsOf(Argument):
    """The last checkpoints of a series that are on this machine; they differ in data order only."""

    def value(self, bench: Bench) -> object:
        return bench.finals(self.name)

    def code(self, variables: VariableNames) -> str:
        return f"[one for one in checkpoints.finals(checkpoints.series({self.name!r})) if checkpoints.is_here(one)]"


@dataclass(frozen=True)
class Placeholder(Argument):
    """Placeholder for the model of checkpoint a or b of a `Between`, with interventions (see `ModelOf`)."""

    edits: str = ""

    def of(self, checkpoint: str) -> Argument:
        """The argument that replaces this placeholder, for the id of a checkpoint."""
        return ModelOf(checkpoint, self.edits)

    def code(self, variables: VariableNames) -> str:
        return variables.loading(self.name) if variables.options else self.name


class FilePlaceholder(Placeholder):
    """Placeholder for the id of checkpoint a or b, for analyses that read files."""

    def of(self, checkpoint: str) -> Argument:
        return FilesOf(checkpoint)

    def code(self, variables: VariableNames) -> str:
        return self.name


FILE_PLACEHOLDERS = FilePlaceholder("a"), FilePlaceholder("b")
