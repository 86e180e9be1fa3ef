"""Calls written as Python that gives the same numbers."""

import re
import string
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from textwrap import indent
from typing import Any

import pandas as pd

from hooks import OlmoForCausalLM
from workbench import interventions, results
from workbench.page.session.arguments import (
    Argument,
    IdsOf,
    InterventionsOf,
    ModelOf,
    PairsOf,
    Placeholder,
    TextsOf,
    TokenizerOf,
    TokensOf,
)
from workbench.page.session.bench import Bench
from workbench.page.session.calls import Between, Call, model_of
from workbench.page.session.edit_lines import edit_code, sets_of
from workbench.plots import plot

LOADED = ModelOf | TokenizerOf | TokensOf | IdsOf | TextsOf | PairsOf | InterventionsOf
PACKAGES = ("workbench.metrics", "workbench.results")  # whose functions are imported from the package
LINE = 100  # characters; longer argument lists are written with one argument a line


def code(call: Call, bench: Bench) -> str:
    """Python source that loads the models, computes the same numbers as the call, and shows the result.

    A script shows it in a browser, a notebook below the cell.
    """
    variables = Variables(bench, call)
    body = [*variables.loads(), *statements(call, "result", variables)]
    imports = {"from workbench import checkpoints", *(import_line(part.function) for part in call.calls())}
    for name, line in (
        ("corpus", "from workbench import corpus"),
        ("directions", "from workbench.analyses import directions"),
        ("features", "from workbench import features"),
        ("edits", "from hooks import edits"),
        ("interventions", "from workbench import interventions"),
        ("TextPairs", "from workbench.text_pairs import TextPairs"),
        ("Texts", "from workbench.texts import Texts"),
        ("TunedLens", "from workbench import TunedLens"),
        ("probe_layer", "from workbench.analyses.linear_probe import probe_layer"),
    ):
        imports |= {line} if any(re.search(rf"\b{name}[.(]", written) for written in body) else set()
    lines = [
        *(["import torch", ""] if variables.prompts else []),
        *sorted(imports),
        *([import_line(call.show)] if call.show and not call.returns(pd.DataFrame) else []),
        "",
        *body,
        show_line(call),
    ]
    return "\n".join(lines) + "\n"


def show_line(call: Call) -> str:
    """The line that shows the result."""
    if call.returns(pd.DataFrame):
        return "print(result.to_string(index=False))"
    return f"{called(call.show)}(result).show()" if call.show else "print(result.table())"


def statements(call: Call, name: str, variables: "Variables") -> Iterator[str]:
    """The lines that assign a call's value to a variable: inside `with model.tapped(edits=…):` if its models have
    interventions."""
    if call.function is results.change:  # one call with interventions, and the same call without
        for part, of_part in zip(call.arguments, ("edited", "plain"), strict=True):
            yield from statements(part, of_part, variables)
            variables.named[part] = of_part
        yield f"{name} = {variables.write(call)}"
        return
    for part in [part for each in call.calls() for part in each.parts]:
        if isinstance(part, Call) and part.returns(OlmoForCausalLM) and part not in variables.named:
            yield f"mixed = {variables.write(part)}"
            variables.named[part] = "mixed"
        if isinstance(part, Between) and part.edits:
            yield from function_of_two(part, variables)
    yield from variables.within_edits(call, f"{name} = {variables.write(call)}")


def function_of_two(between: Between, variables: "Variables") -> Iterator[str]:
    """The lines that define `between`, a function that loads two checkpoints and compares them with interventions."""
    loads = ", ".join(f"checkpoints.load({name}{variables.options})[0]" for name in "ab")
    variables.named |= {part: part.name for part in between.call.parts if isinstance(part, Placeholder)}
    body = [f"a, b = {loads}", *variables.within_edits(between.call, f"return {variables.write(between.call)}")]
    yield "def between(a, b):"
    yield indent("\n".join(body), "    ")
    yield ""
    variables.named[between] = "between"


class Variables:
    """The variables of the generated code: a model and a tokenizer for each checkpoint, tokens for each text."""

    def __init__(self, bench: Bench, call: Call) -> None:
        self.options = "".join(f", {name}={value!r}" for name, value in bench.options.items())
        self.elsewhere = bench.options.get("device", "cpu") != "cpu"
        needs = list(dict.fromkeys(call.needs()))
        loaded = (needed.name for needed in needs if isinstance(needed, LOADED))
        self.loaded = list(dict.fromkeys(loaded))
        self.prompts = [needed for needed in needs if isinstance(needed, TokensOf | IdsOf)]
        self.sets = [needed for needed in needs if isinstance(needed, TextsOf)]
        self.pair_sets = list(dict.fromkeys(replace(one, part="") for one in needs if isinstance(one, PairsOf)))
        self.named: dict[object, str] = {}  # parts of the call that have a variable of their own
        self.bench = bench

    def ending(self, argument: Argument) -> str:
        """The suffix of a checkpoint's variables: "_a", "_b", …; empty if the code loads only one checkpoint."""
        return f"_{string.ascii_lowercase[self.loaded.index(argument.name)]}" if len(self.loaded) > 1 else ""

    def tokens(self, text: TokensOf | IdsOf) -> str:
        """The variable that holds a text's tokens."""
        place = self.prompts.index(text)
        return "tokens" if place == 0 else f"tokens_{place + 1}"

    def texts(self, chosen: TextsOf) -> str:
        """The variable that holds a set of texts."""
        place = self.sets.index(chosen)
        return "texts" if place == 0 else f"texts_{place + 1}"

    def pairs(self, chosen: PairsOf) -> str:
        """The variable that holds a set of pairs of prompts."""
        place = self.pair_sets.index(replace(chosen, part=""))
        return "pairs" if place == 0 else f"pairs_{place + 1}"

    def loading(self, checkpoint: str) -> str:
        """An expression that loads a checkpoint and gives its model, without a variable."""
        return f"checkpoints.load({checkpoint}{self.options})[0]"

    def loads(self) -> list[str]:
        """The lines that assign the variables."""
        lines = []
        for name in self.loaded:
            ending = self.ending(ModelOf(name))
            lines.append(f"model{ending}, tokenizer{ending} = checkpoints.load({name!r}{self.options})")
        for chosen in self.sets:
            tokenizer = f"tokenizer{self.ending(TokenizerOf(chosen.name))}"
            lines.append(f"{self.texts(chosen)} = {self.bench.sets.get(chosen.chosen).code(tokenizer)}")
        for pairs in self.pair_sets:
            tokenizer = f"tokenizer{self.ending(TokenizerOf(pairs.name))}"
            lines.append(f"{self.pairs(pairs)} = TextPairs.read({pairs.chosen!r}, {tokenizer})")
        for text in self.prompts:
            device = f", device=model{self.ending(ModelOf(text.name))}.device" if self.elsewhere else ""
            lines.append(f"{self.tokens(text)} = torch.tensor([{text.ids_code(self)}]{device})")
        return lines

    def write(self, part: object) -> str:
        """An argument, or a whole call, as an expression."""
        if isinstance(part, Argument | Call | Between) and part in self.named:
            return self.named[part]
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

    def within_edits(self, call: Call, line: str) -> Iterator[str]:
        """A line of code; if the call's models have interventions, inside `with` blocks that apply them."""
        blocks = dict(self._blocks(call))
        if blocks:
            items = [f"{model}.tapped(edits={self._list(expressions)})" for model, expressions in blocks.items()]
            yield f"with {', '.join(items)}:"
            line = indent(line, "    ")
        yield line

    def _blocks(self, call: Call) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The variable of each model with interventions in a call, and the edits that make them, as expressions."""
        for part in call.parts:
            if part in self.named and not isinstance(part, Placeholder) and model_of(part) is None:
                continue
            source = part if isinstance(part, Placeholder) else model_of(part)
            if source is not None and source.edits:
                tokenizer = self.loaded[0] if isinstance(source, Placeholder) else source.name
                model = self.write(part)
                yield model, tuple(self._edits(source.edits, tokenizer, model))
            elif isinstance(part, Call):
                yield from self._blocks(part)

    def _edits(self, text: str, checkpoint: str, model: str) -> Iterator[str]:
        tokenizer = f"tokenizer{self.ending(TokenizerOf(checkpoint))}"
        device = f", device={model}.device" if self.elsewhere else ""
        for change in interventions.read(text, self.bench.load(checkpoint)[1], sets_of(self.bench, checkpoint)):
            yield edit_code(change, model, tokenizer, device, self.bench.sets, self.bench.dictionary)

    def _list(self, expressions: tuple[str, ...]) -> str:
        inside = ", ".join(expressions)
        if len(inside) > LINE:
            inside = "\n" + indent(",\n".join(expressions), "    ") + ",\n"
        return f"[{inside}]"


def called(function: Callable[..., Any]) -> str:
    """A function's name in the generated code: `name` if `stands_alone`, else `module.name`."""
    module, name = public_module(function).rpartition(".")[2], function.__name__
    return name if stands_alone(function) else f"{module}.{name}"


def import_line(function: Callable[..., Any]) -> str:
    """The line that imports the name that `called` gives."""
    package, _, module = public_module(function).rpartition(".")
    if stands_alone(function):
        return f"from {function.__module__} import {function.__name__}"
    return f"from {package} import {module}"


def stands_alone(function: Callable[..., Any]) -> bool:
    """Whether a function is imported by its own name: `plot`, and all functions of a file named after one of them."""
    module = public_module(function)
    return function is plot or hasattr(sys.modules[module], module.rpartition(".")[2])


def public_module(function: Callable[..., Any]) -> str:
    """The module that users import a function from: its own, or one of `PACKAGES` for the files of this package."""
    module = function.__module__
    return next((package for package in PACKAGES if module.startswith(package + ".")), module)
