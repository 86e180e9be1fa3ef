"""Calls written as Python that gives the same numbers."""

import sys
from collections.abc import Callable
from textwrap import indent
from typing import Any

from workbench.page.session.arguments import Argument, IdsOf, ModelOf, TokenizerOf, TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.calls import Between, Call
from workbench.plots import plot

LINE = 100  # characters; longer argument lists are written with one argument a line


def code(call: Call, bench: Bench) -> str:
    """Python source that loads the models, computes the same numbers as the call, and displays the result."""
    variables = Variables(bench, call)
    lines = [
        *(["import torch", ""] if variables.texts else []),
        *sorted({"from workbench import checkpoints", *(imported(part.function) for part in call.calls())}),
        *([imported(call.show)] if call.show else []),
        "",
        *variables.loads(),
        f"result = {variables.write(call)}",
        f"{called(call.show)}(result)" if call.show else "result.table()",
    ]
    return "\n".join(lines) + "\n"


class Variables:
    """The variables of the generated code: a model and a tokenizer for each checkpoint, tokens for each text."""

    def __init__(self, bench: Bench, call: Call) -> None:
        self.options = "".join(f", {name}={value!r}" for name, value in bench.options.items())
        self.elsewhere = bench.options.get("device", "cpu") != "cpu"
        needs = list(dict.fromkeys(call.needs()))
        loaded = (needed.name for needed in needs if isinstance(needed, ModelOf | TokenizerOf | TokensOf | IdsOf))
        self.loaded = list(dict.fromkeys(loaded))
        self.texts = [needed for needed in needs if isinstance(needed, TokensOf | IdsOf)]

    def ending(self, argument: Argument) -> str:
        """The suffix of a checkpoint's variables: "_a" or "_b"; empty if the code loads only one checkpoint."""
        return f"_{'ab'[self.loaded.index(argument.name)]}" if len(self.loaded) > 1 else ""

    def tokens(self, text: TokensOf | IdsOf) -> str:
        """The variable that holds a text's tokens."""
        place = self.texts.index(text)
        return "tokens" if place == 0 else f"tokens_{place + 1}"

    def loading(self, checkpoint: str) -> str:
        """An expression that loads a checkpoint and gives its model, without a variable."""
        return f"checkpoints.load({checkpoint}{self.options})[0]"

    def loads(self) -> list[str]:
        """The lines that assign the variables."""
        lines = []
        for name in self.loaded:
            ending = self.ending(ModelOf(name))
            lines.append(f"model{ending}, tokenizer{ending} = checkpoints.load({name!r}{self.options})")
        for text in self.texts:
            device = f", device=model{self.ending(ModelOf(text.name))}.device" if self.elsewhere else ""
            lines.append(f"{self.tokens(text)} = torch.tensor([{text.ids_code(self)}]{device})")
        return lines

    def write(self, part: object) -> str:
        """An argument, or a whole call, as an expression."""
        if isinstance(part, Argument):
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


def called(function: Callable[..., Any]) -> str:
    """A function's name in the generated code: `name` if `stands_alone`, else `module.name`."""
    module, name = function.__module__.rpartition(".")[2], function.__name__
    return name if stands_alone(function) else f"{module}.{name}"


def imported(function: Callable[..., Any]) -> str:
    """The line that imports the name that `called` gives."""
    package, _, module = function.__module__.rpartition(".")
    if stands_alone(function):
        return f"from {function.__module__} import {function.__name__}"
    return f"from {package} import {module}"


def stands_alone(function: Callable[..., Any]) -> bool:
    """Whether a function is imported by its own name: `plot`, and all functions of a file named after one of them."""
    module = function.__module__
    return function is plot or hasattr(sys.modules[module], module.rpartition(".")[2])
