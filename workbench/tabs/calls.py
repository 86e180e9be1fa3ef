"""Every view is a function call: one value that the page can run and that can be written down as Python.

    Call(logit_lens, (Model(id), Tokens(id, prompt)), (("tokenizer", Tokenizer(id)),), measure="entropy")

An argument that has to be opened is a `Source`, which knows both its value and how it is written. So `run` and `code`
read one description and cannot differ.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from textwrap import indent
from typing import Any

import torch

from workbench.checkpoints import Checkpoint
from workbench.errors import WorkbenchError
from workbench.plots import plot
from workbench.progress import Progress
from workbench.report import dtype_name, packages
from workbench.results import Result
from workbench.tabs.bench import Bench
from workbench.tabs.place import Due

LINE = 100  # characters of a call before its arguments go on lines of their own


@dataclass(frozen=True)
class Source:
    """An argument that has to be opened: something of a checkpoint or of a series, given by its name."""

    name: str

    def value(self, bench: Bench) -> object:
        """The argument itself."""
        raise NotImplementedError

    def code(self, names: "Names") -> str:
        """How it is written, with the variables of a piece of code."""
        raise NotImplementedError


class Model(Source):
    """The model of a checkpoint."""

    def value(self, bench: Bench) -> object:
        return bench.load(self.name)[0]

    def code(self, names: "Names") -> str:
        return f"model{names.ending(self)}"


class Tokenizer(Source):
    """The tokenizer of a checkpoint."""

    def value(self, bench: Bench) -> object:
        return bench.load(self.name)[1]

    def code(self, names: "Names") -> str:
        return f"tokenizer{names.ending(self)}"


@dataclass(frozen=True)
class Tokens(Source):
    """A text as a checkpoint's tokens: 1 pos."""

    text: str

    def value(self, bench: Bench) -> object:
        return bench.read(self.name, self.text).ids

    @property
    def shown(self) -> str:
        """The text."""
        return self.text

    def code(self, names: "Names") -> str:
        return names.tokens(self)

    def ids_code(self, names: "Names") -> str:
        """How its ids are written, once, where the variable gets its value."""
        return f"tokenizer{names.ending(self)}({self.text!r}).input_ids"


@dataclass(frozen=True)
class Ids(Source):
    """Tokens by their ids, where no text says which they are: 1 pos."""

    ids: tuple[int, ...]

    def value(self, bench: Bench) -> object:
        return torch.tensor([self.ids], device=bench.load(self.name)[0].device)

    @property
    def shown(self) -> str:
        """The ids."""
        return repr(list(self.ids))

    def code(self, names: "Names") -> str:
        return names.tokens(self)

    def ids_code(self, names: "Names") -> str:
        """How they are written, once, where the variable gets its value."""
        return repr(list(self.ids))


@dataclass(frozen=True)
class Stream(Source):
    """The residual stream of a text where it enters a layer, from 1: 1 pos d_model. Each is made of the one below and
    kept, so that looking at one head after another does not run the layers below again."""

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

    def code(self, names: "Names") -> str:
        tokens = names.tokens(Tokens(self.name, self.text))
        return f"model{names.ending(self)}.run({tokens}, stop_at_layer={self.layer}).resid"


class Id(Source):
    """A checkpoint by its id, for what reads files and loads no model."""

    def value(self, bench: Bench) -> object:
        return bench.checkpoint(self.name).id

    def code(self, names: "Names") -> str:
        return repr(self.name)


@dataclass(frozen=True)
class Run(Source):
    """Some checkpoints of a series' main run, by id, in order; all of them if none is named."""

    ids: tuple[str, ...] = ()

    def value(self, bench: Bench) -> object:
        return [bench.checkpoint(one) for one in self.ids] or bench.main_run(self.name)

    def code(self, names: "Names") -> str:
        series = f"checkpoints.series({self.name!r})"
        return f"[one for one in {series} if one.id in {self.ids!r}]" if self.ids else series


class Finals(Source):
    """The last checkpoints of a series, which differ by data order only."""

    def value(self, bench: Bench) -> object:
        return bench.finals(self.name)

    def code(self, names: "Names") -> str:
        return f"[one for one in checkpoints.finals(checkpoints.series({self.name!r})) if checkpoints.is_here(one)]"


class Slot(Source):
    """The model of one of the two checkpoints that a `Between` is given; its name is that of the variable."""

    def of(self, checkpoint: str) -> Source:
        """What stands in its place."""
        return Model(checkpoint)

    def code(self, names: "Names") -> str:
        return names.loading(self.name) if names.options else self.name


class FileSlot(Slot):
    """The same for what reads a checkpoint's files."""

    def of(self, checkpoint: str) -> Source:
        return Id(checkpoint)

    def code(self, names: "Names") -> str:
        return self.name


SLOTS = Slot("a"), Slot("b")
FILE_SLOTS = FileSlot("a"), FileSlot("b")


@dataclass(frozen=True)
class Call:
    """A function, with arguments that are literals, sources, calls themselves, or tuples of these.

    `measure` picks one of several results. `progress` says whether the function takes a progress callback; `show` is
    what a notebook shows the result with, its table if None.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    measure: str | None = None
    progress: bool = True
    show: Callable[..., Any] | None = plot

    @property
    def parts(self) -> tuple[Any, ...]:
        """All arguments, those with a name at the end."""
        return tuple(flat((*self.arguments, *(value for _, value in self.options))))

    def sources(self) -> Iterator[Source]:
        """Everything that has to be opened, in order."""
        for part in self.parts:
            if isinstance(part, Call | Between):
                yield from part.sources()
            elif isinstance(part, Source):
                yield part

    def calls(self) -> Iterator["Call"]:
        """This call and those within it."""
        yield self
        for part in self.parts:
            if isinstance(part, Call | Between):
                yield from part.calls()

    def filled(self, checkpoints: Mapping[str, str]) -> "Call":
        """The same call with checkpoints in its slots."""

        def fill(part: object) -> object:
            return part.of(checkpoints[part.name]) if isinstance(part, Slot) else part

        return replace(
            self,
            arguments=tuple(fill(part) for part in self.arguments),
            options=tuple((name, fill(part)) for name, part in self.options),
        )


@dataclass(frozen=True)
class Between:
    """A call with the slots `a` and `b` as a function of two checkpoints, to be handed to another function."""

    call: Call

    def sources(self) -> Iterator[Source]:
        """What has to be opened besides the two checkpoints."""
        return (source for source in self.call.sources() if not isinstance(source, Slot))

    def calls(self) -> Iterator[Call]:
        """The call within it, and those within that."""
        return self.call.calls()

    def value(self, bench: Bench) -> Callable[[Checkpoint, Checkpoint], Any]:
        """A function of two checkpoints that makes the call with them."""
        return lambda a, b: run(self.call.filled({"a": a.id, "b": b.id}), bench)


def run(call: Call, bench: Bench, progress: Progress | None = None) -> Any:  # noqa: ANN401 - whatever the call returns
    """What a call returns, on the bench's models."""

    def value(part: object) -> object:
        if isinstance(part, tuple):
            return [value(each) for each in part]
        if isinstance(part, Call):
            return run(part, bench, progress)
        return part.value(bench) if isinstance(part, Source | Between) else part

    options = {name: value(part) for name, part in call.options}
    if progress is not None and call.progress:
        options["progress"] = progress
    found = call.function(*[value(part) for part in call.arguments], **options)
    return found if call.measure is None else found[call.measure]


def result(call: Call, bench: Bench, progress: Progress | None = None) -> Any:  # noqa: ANN401 - a result of any shape
    """A call's result that says where it comes from; kept for a while, since people go back and forth."""

    def step(fraction: float, text: str) -> None:
        bench.give_way()
        if progress is not None:
            progress(fraction, text)

    def make() -> Result:
        return run(call, bench, step).with_provenance(origin(call, bench))

    return bench.once(call, make)


def origin(call: Call, bench: Bench) -> dict[str, str]:
    """Where a call's numbers come from: checkpoints and how they were loaded, the call with all its settings, texts,
    and versions."""
    sources = list(call.sources())
    texts = dict.fromkeys(source.shown for source in sources if isinstance(source, Tokens | Ids))
    about = {"checkpoints": ", ".join(dict.fromkeys(source.name for source in sources)), **bench.options}
    about |= dtype_of(call, bench)
    about |= {"call": " ".join(Names(bench, call).write(call).split())}
    about |= {("tokens" if place == 0 else f"tokens_{place + 1}"): text for place, text in enumerate(texts)}
    return about | packages()


def dtype_of(call: Call, bench: Bench) -> dict[str, str]:
    """What a call computes in, where it loads models: as an entry of `origin`."""
    parts = [part for each in call.calls() for part in each.parts]
    models = [part for part in parts if isinstance(part, Model)]
    if models:
        return {"dtype": dtype_name(bench.load(models[-1].name)[0].dtype)}
    by_name = any(isinstance(part, Run) or type(part) is Slot for part in parts)
    return {"dtype": bench.dtype} if by_name else {}


def code(call: Call, bench: Bench) -> str:
    """A call as Python that gives the same numbers."""
    names = Names(bench, call)
    lines = [
        *(["import torch", ""] if names.texts else []),
        *sorted({"from workbench import checkpoints", *(imported(part.function) for part in call.calls())}),
        *([imported(call.show)] if call.show else []),
        "",
        *names.loads(),
        f"result = {names.write(call)}",
        f"{called(call.show)}(result)" if call.show else "result.table()",
    ]
    return "\n".join(lines) + "\n"


class Names:
    """The variables of a piece of code: a model, a tokenizer and tokens for each checkpoint and text."""

    def __init__(self, bench: Bench, call: Call) -> None:
        self.options = "".join(f", {name}={value!r}" for name, value in bench.options.items())
        self.elsewhere = bench.options.get("device", "cpu") != "cpu"
        sources = list(dict.fromkeys(call.sources()))
        self.loaded = list(dict.fromkeys(s.name for s in sources if isinstance(s, Model | Tokenizer | Tokens | Ids)))
        self.texts = [source for source in sources if isinstance(source, Tokens | Ids)]

    def ending(self, source: Source) -> str:
        """What tells the variables of several checkpoints apart."""
        return f"_{'ab'[self.loaded.index(source.name)]}" if len(self.loaded) > 1 else ""

    def tokens(self, source: Tokens | Ids) -> str:
        """The variable that holds a text's tokens."""
        place = self.texts.index(source)
        return "tokens" if place == 0 else f"tokens_{place + 1}"

    def loading(self, checkpoint: str) -> str:
        """A model that is loaded where it stands."""
        return f"checkpoints.load({checkpoint}{self.options})[0]"

    def loads(self) -> list[str]:
        """The lines that give the variables their values."""
        lines = []
        for name in self.loaded:
            ending = self.ending(Model(name))
            lines.append(f"model{ending}, tokenizer{ending} = checkpoints.load({name!r}{self.options})")
        for source in self.texts:
            device = f", device=model{self.ending(Model(source.name))}.device" if self.elsewhere else ""
            lines.append(f"{self.tokens(source)} = torch.tensor([{source.ids_code(self)}]{device})")
        return lines

    def write(self, part: object) -> str:
        """An argument, or a whole call."""
        if isinstance(part, Source):
            return part.code(self)
        if isinstance(part, Between):
            return f"lambda a, b: {self.write(part.call)}"
        if isinstance(part, tuple):
            return f"[{', '.join(self.write(each) for each in part)}]"
        if not isinstance(part, Call):
            return repr(part)
        arguments = [self.write(each) for each in part.arguments]
        arguments += [f"{name}={self.write(each)}" for name, each in part.options]
        inside = ", ".join(arguments)
        if len(inside) > LINE:
            inside = "\n" + indent(",\n".join(arguments), "    ") + ",\n"
        measure = "" if part.measure is None else f"[{part.measure!r}]"
        return f"{called(part.function)}({inside}){measure}"


def flat(values: tuple[Any, ...]) -> Iterator[Any]:
    """What stands in a tuple, and in the tuples within it."""
    for value in values:
        yield from flat(value) if isinstance(value, tuple) else [value]


def called(function: Callable[..., Any]) -> str:
    """A function's name in a piece of code: with its module's, unless that is the file of one analysis."""
    module, name = function.__module__.rpartition(".")[2], function.__name__
    return name if stands_alone(function) else f"{module}.{name}"


def imported(function: Callable[..., Any]) -> str:
    """The line that imports what `called` names."""
    package, _, module = function.__module__.rpartition(".")
    if stands_alone(function):
        return f"from {function.__module__} import {function.__name__}"
    return f"from {package} import {module}"


def stands_alone(function: Callable[..., Any]) -> bool:
    """Whether a function is known by its own name: `plot`, and all of a file that is named after one of them."""
    module = function.__module__
    return function is plot or hasattr(sys.modules[module], module.rpartition(".")[2])


def prompt_of(due: Due) -> tuple[Model, Tokens]:
    """The model and the prompt in the bar, as the first two arguments of most analyses."""
    return Model(due.subject.checkpoint), Tokens(due.subject.checkpoint, due.subject.prompt)


def with_tokenizer(due: Due) -> tuple[tuple[str, Tokenizer]]:
    """The option that lets an analysis write tokens instead of numbers."""
    return (("tokenizer", Tokenizer(due.subject.checkpoint)),)


def choice(name: object, choices: Mapping[str, Any], what: str) -> Any:  # noqa: ANN401 - whatever the menu holds
    """What a menu's entry stands for. Raises WorkbenchError for one that is not on the menu."""
    if not isinstance(name, str) or name not in choices:
        raise WorkbenchError(f"no {what} {name!r}; choose from {', '.join(choices)}")
    return choices[name]
