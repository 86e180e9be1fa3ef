"""Every view is a function call: one value that the page can run and that can be written down as Python.

    Call(logit_lens, (Model(id), Tokens(id, prompt)), (("tokenizer", Tokenizer(id)),), measure="entropy")

`run` puts the loaded models in the places of `Model`, `Tokens` and so on; `code` prints the same call with
`checkpoints.load` before it. Both read one description, so they cannot differ.
"""

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from workbench.errors import WorkbenchError
from workbench.progress import Progress
from workbench.results import Result
from workbench.tabs.bench import Bench
from workbench.tabs.place import Due


@dataclass(frozen=True)
class Model:
    """The model of a checkpoint."""

    checkpoint: str


@dataclass(frozen=True)
class Named:
    """A checkpoint by its id, for what reads files and loads no model."""

    checkpoint: str


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a checkpoint."""

    checkpoint: str


@dataclass(frozen=True)
class Tokens:
    """A text as a checkpoint's tokens: 1 pos."""

    checkpoint: str
    text: str


@dataclass(frozen=True)
class Run:
    """The checkpoints of a series' main run."""

    series: str


Place = Model | Named | Tokenizer | Tokens | Run


@dataclass(frozen=True)
class Call:
    """A function of `workbench.analyses`, with arguments that are literals, places, or calls themselves.

    `measure` picks one of several results. `progress` says whether the function takes a progress callback.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    measure: str | None = None
    progress: bool = True

    def places(self) -> Iterator[Place]:
        """Everything that has to be opened, in order."""
        for value in (*self.arguments, *dict(self.options).values()):
            if isinstance(value, Call):
                yield from value.places()
            elif isinstance(value, Place):
                yield value

    def calls(self) -> Iterator["Call"]:
        """This call and those within it."""
        yield self
        for value in (*self.arguments, *dict(self.options).values()):
            if isinstance(value, Call):
                yield from value.calls()


def run(call: Call, bench: Bench, progress: Progress | None = None) -> Any:  # noqa: ANN401 - whatever the call returns
    """What a call returns, on the bench's models."""

    def value(part: object) -> object:
        match part:
            case Call():
                return run(part, bench)
            case Model(checkpoint):
                return bench.load(checkpoint)[0]
            case Named(checkpoint):
                return bench.checkpoint(checkpoint).id
            case Tokenizer(checkpoint):
                return bench.load(checkpoint)[1]
            case Tokens(checkpoint, text):
                return bench.read(checkpoint, text).ids
            case Run(series):
                return bench.main_run(series)
        return part

    options = {name: value(part) for name, part in call.options}
    if progress is not None and call.progress:
        options["progress"] = progress
    found = call.function(*[value(part) for part in call.arguments], **options)
    return found if call.measure is None else found[call.measure]


def result(call: Call, bench: Bench, progress: Progress | None = None) -> Result:
    """A call's result that says where it comes from; kept for a while, since people go back and forth."""

    def step(fraction: float, text: str) -> None:
        bench.give_way()
        if progress is not None:
            progress(fraction, text)

    def make() -> Result:
        texts = [part.text for part in call.places() if isinstance(part, Tokens)]
        names = dict.fromkeys(part.checkpoint for part in call.places() if not isinstance(part, Run))
        series = [part.series for part in call.places() if isinstance(part, Run)]
        about = {"checkpoints": ", ".join([*names, *series]), "analysis": call.function.__name__, **dict(bench.options)}
        about |= {f"text {place}": text for place, text in enumerate(dict.fromkeys(texts))}
        about |= {name: version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()}
        return run(call, bench, step).with_provenance(about)

    return bench.once(call, make)


def code(call: Call, bench: Bench) -> str:
    """A call as Python that gives the same numbers."""
    names = _Names(bench, call)
    measure = f"[{call.measure!r}]" if call.measure is not None else ""
    lines = [
        *(["import torch", ""] if names.uses(Tokens) else []),
        "from workbench import checkpoints",
        *sorted({f"from {part.function.__module__} import {part.function.__name__}" for part in call.calls()}),
        "from workbench.plots import plot",
        "",
        *names.loads(),
        f"result = {names.call(call)}{measure}",
        "plot(result)",
    ]
    return "\n".join(lines) + "\n"


def prompt_of(due: Due) -> tuple[Model, Tokens]:
    """The model and the prompt in the bar, as the first two arguments of most analyses."""
    return Model(due.subject.checkpoint), Tokens(due.subject.checkpoint, due.subject.prompt)


def with_tokenizer(due: Due) -> tuple[tuple[str, Tokenizer]]:
    """The option that lets an analysis write tokens instead of numbers."""
    return (("tokenizer", Tokenizer(due.subject.checkpoint)),)


def choice(name: object, choices: Mapping[str, str], what: str) -> str:
    """What a menu's entry stands for. Raises WorkbenchError for one that is not on the menu."""
    if name not in choices:
        raise WorkbenchError(f"no {what} {name!r}; choose from {', '.join(choices)}")
    return choices[name]


class _Names:
    """The variables of a piece of code: a model, a tokenizer and tokens for each checkpoint and text."""

    def __init__(self, bench: Bench, call: Call) -> None:
        self.bench, self.parts = bench, list(dict.fromkeys(call.places()))
        loaded = dict.fromkeys(part.checkpoint for part in self.parts if not isinstance(part, Run | Named))
        self.endings = {checkpoint: f"_{'ab'[n]}" if len(loaded) > 1 else "" for n, checkpoint in enumerate(loaded)}
        self.texts = list(dict.fromkeys(part for part in self.parts if isinstance(part, Tokens)))

    def uses(self, kind: type) -> bool:
        return any(isinstance(part, kind) for part in self.parts)

    def loads(self) -> list[str]:
        options = "".join(f", {name}={value!r}" for name, value in self.bench.options.items())
        lines = [
            f"model{ending}, tokenizer{ending} = checkpoints.load({checkpoint!r}{options})"
            for checkpoint, ending in self.endings.items()
        ]
        lines += [
            f"{self.tokens(part)} = torch.tensor([tokenizer{self.endings[part.checkpoint]}({part.text!r}).input_ids])"
            for part in self.texts
        ]
        return lines

    def tokens(self, part: Tokens) -> str:
        place = self.texts.index(part)
        return "tokens" if place == 0 else f"tokens_{place + 1}"

    def value(self, part: object) -> str:
        match part:
            case Call():
                return self.call(part)
            case Model(checkpoint):
                return f"model{self.endings[checkpoint]}"
            case Named(checkpoint):
                return repr(checkpoint)
            case Tokenizer(checkpoint):
                return f"tokenizer{self.endings[checkpoint]}"
            case Tokens():
                return self.tokens(part)
            case Run(series):
                return f"checkpoints.series({series!r})"
        return repr(part)

    def call(self, call: Call) -> str:
        arguments = [self.value(part) for part in call.arguments]
        arguments += [f"{name}={self.value(part)}" for name, part in call.options]
        return f"{call.function.__name__}({', '.join(arguments)})"
