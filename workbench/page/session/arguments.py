"""Arguments of calls that stand for something of a checkpoint or a series: a model, a tokenizer, the tokens of a text.

Each knows its value on the page's models, and how it is written in Python.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from workbench.page.session.bench import Bench

if TYPE_CHECKING:
    from workbench.page.session.code import Variables


@dataclass(frozen=True)
class Argument:
    """An argument that belongs to a checkpoint or a series, of which it holds the name."""

    name: str

    def value(self, bench: Bench) -> object:
        """The argument itself."""
        raise NotImplementedError

    def code(self, variables: "Variables") -> str:
        """The argument as a Python expression, given the variables of a piece of code."""
        raise NotImplementedError


class ModelOf(Argument):
    """The model of a checkpoint."""

    def value(self, bench: Bench) -> object:
        return bench.load(self.name)[0]

    def code(self, variables: "Variables") -> str:
        return f"model{variables.ending(self)}"


class TokenizerOf(Argument):
    """The tokenizer of a checkpoint."""

    def value(self, bench: Bench) -> object:
        return bench.load(self.name)[1]

    def code(self, variables: "Variables") -> str:
        return f"tokenizer{variables.ending(self)}"


@dataclass(frozen=True)
class TokensOf(Argument):
    """A text, tokenised by a checkpoint's tokenizer: 1 pos."""

    text: str

    def value(self, bench: Bench) -> object:
        return bench.read(self.name, self.text).ids

    @property
    def shown(self) -> str:
        """The text."""
        return self.text

    def code(self, variables: "Variables") -> str:
        return variables.tokens(self)

    def ids_code(self, variables: "Variables") -> str:
        """The ids as an expression, for the line that assigns the variable."""
        return f"tokenizer{variables.ending(self)}({self.text!r}).input_ids"


@dataclass(frozen=True)
class IdsOf(Argument):
    """Tokens given by their ids, for texts that no string tokenises to: 1 pos."""

    ids: tuple[int, ...]

    def value(self, bench: Bench) -> object:
        return torch.tensor([self.ids], device=bench.load(self.name)[0].device)

    @property
    def shown(self) -> str:
        """The ids."""
        return repr(list(self.ids))

    def code(self, variables: "Variables") -> str:
        return variables.tokens(self)

    def ids_code(self, variables: "Variables") -> str:
        """The ids as an expression, for the line that assigns the variable."""
        return repr(list(self.ids))


@dataclass(frozen=True)
class ResidOf(Argument):
    """The residual stream of a text entering a layer from 1 on: 1 pos d_model.

    It is computed from the one a layer below, and all are kept in the result cache, so that looking at one head after
    another does not run the layers below again.
    """

    text: str
    layer: int

    def value(self, bench: Bench) -> torch.Tensor:
        found = bench.results.get(self)
        if found is None:
            opened, below = bench.read(self.name, self.text), self.layer - 1
            resid = replace(self, layer=below).value(bench) if below else None
            found = opened.model.run(opened.ids, resid=resid, start_at_layer=below, stop_at_layer=self.layer).resid
            bench.results.put(self, found)
        return found

    def code(self, variables: "Variables") -> str:
        tokens = variables.tokens(TokensOf(self.name, self.text))
        return f"model{variables.ending(self)}.run({tokens}, stop_at_layer={self.layer}).resid"


class FilesOf(Argument):
    """A checkpoint's id, for analyses that read its files and load no model."""

    def value(self, bench: Bench) -> object:
        return bench.checkpoint(self.name).id

    def code(self, variables: "Variables") -> str:
        return repr(self.name)


@dataclass(frozen=True)
class SeriesRun(Argument):
    """Checkpoints of a series' main run, in order: those with the given ids, or all if none is given."""

    ids: tuple[str, ...] = ()

    def value(self, bench: Bench) -> object:
        return [bench.checkpoint(one) for one in self.ids] or bench.main_run(self.name)

    def code(self, variables: "Variables") -> str:
        series = f"checkpoints.series({self.name!r})"
        return f"[one for one in {series} if one.id in {self.ids!r}]" if self.ids else series


class FinalsOf(Argument):
    """The last checkpoints of a series, which differ in data order only."""

    def value(self, bench: Bench) -> object:
        return bench.finals(self.name)

    def code(self, variables: "Variables") -> str:
        return f"[one for one in checkpoints.finals(checkpoints.series({self.name!r})) if checkpoints.is_here(one)]"


class Placeholder(Argument):
    """Placeholder for the model of checkpoint a or b of a `Between`."""

    def of(self, checkpoint: str) -> Argument:
        """The argument for a checkpoint, which takes the place of this one."""
        return ModelOf(checkpoint)

    def code(self, variables: "Variables") -> str:
        return variables.loading(self.name) if variables.options else self.name


class FilePlaceholder(Placeholder):
    """Placeholder for the id of checkpoint a or b, for analyses that read files."""

    def of(self, checkpoint: str) -> Argument:
        return FilesOf(checkpoint)

    def code(self, variables: "Variables") -> str:
        return self.name


PLACEHOLDERS = Placeholder("a"), Placeholder("b")
FILE_PLACEHOLDERS = FilePlaceholder("a"), FilePlaceholder("b")
