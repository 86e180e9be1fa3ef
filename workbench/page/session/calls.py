"""A view is a function call: one value that the page can run and that can be written as Python.

    Call.of(logit_lens, ModelOf(id), TokensOf(id, prompt), tokenizer=TokenizerOf(id))["entropy"]

`run` below and `code.code` take the same `Call`, so the displayed result and the displayed Python cannot differ.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hooks import OlmoForCausalLM
from workbench.analyses.support.heads import head_name
from workbench.checkpoints import Checkpoint
from workbench.metrics import intervened
from workbench.page.session.arguments import (
    Argument,
    InterventionsOf,
    ModelOf,
    Placeholder,
    ResidOf,
    TextsOf,
    TokenizerOf,
    TokensOf,
)
from workbench.page.session.bench import Bench
from workbench.page.session.edit_lines import tapped
from workbench.page.session.requests import TabRequest
from workbench.plots import plot
from workbench.progress import Progress

EDITED = ModelOf | Placeholder | ResidOf
WORD = re.compile(r"[\w.]{1,24}")
MOST_NAME = 120  # characters; file systems take 255 bytes


@dataclass(frozen=True)
class Call:
    """A function and its arguments: literals, `Argument`s, `Call`s, `Between`s, or tuples of these.

    Make one with `Call.of`, or with `Call.quick` for a function without a parameter `progress`. `call["loss"]` is the
    call whose result is one measure of the function's result.

    Attributes:
        show: the function that displays the result in a notebook; None displays its table. Tables are printed.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    measure: str | None = None
    takes_progress: bool = True
    show: Callable[..., Any] | None = plot

    @classmethod
    def of(cls, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> "Call":  # noqa: ANN401
        """A call of a function that has a parameter `progress`; the arguments are given as in a Python call."""
        return cls(function, arguments, tuple(options.items()))

    @classmethod
    def quick(cls, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> "Call":  # noqa: ANN401
        """A call of a function that has no parameter `progress`."""
        return cls(function, arguments, tuple(options.items()), takes_progress=False)

    def __getitem__(self, measure: str) -> "Call":
        return replace(self, measure=measure)

    def shown_by(self, show: Callable[..., Any] | None) -> "Call":
        """The same call, with another function to display its result."""
        return replace(self, show=show)

    @property
    def parts(self) -> tuple[Any, ...]:
        """The values of all arguments, positional ones first; tuples are flattened."""
        return tuple(flat((*self.arguments, *(value for _, value in self.options))))

    def needs(self) -> Iterator[Argument]:
        """The models, tokenizers and texts that the call needs, in order."""
        for part in self.parts:
            if isinstance(part, Call | Between):
                yield from part.needs()
            elif isinstance(part, Argument):
                yield part

    def calls(self) -> Iterator["Call"]:
        """This call, and the calls among its arguments."""
        yield self
        for part in self.parts:
            if isinstance(part, Call | Between):
                yield from part.calls()

    @property
    def edits(self) -> str:
        """The interventions in the call's models, one a line; empty if it runs no model, or unedited ones only."""
        for part in self.parts:
            if isinstance(part, ModelOf | Placeholder) and part.edits:
                return part.edits
            if isinstance(part, InterventionsOf):
                return part.text
            if isinstance(part, Call | Between) and part.edits:
                return part.edits
        return ""

    @property
    def unedited(self) -> "Call":
        """The same call on the same models without interventions."""

        def plain(part: object) -> object:
            if isinstance(part, Call) and part.function is intervened:
                return part.arguments[0]
            return replace(part, edits="") if isinstance(part, EDITED) else part

        return self.replaced(plain)

    def replaced(self, change: Callable[[object], object]) -> "Call":
        """The same call with each argument replaced by `change(argument)`, in calls among the arguments too."""

        def changed(part: object) -> object:
            part = tuple(map(changed, part)) if isinstance(part, tuple) else change(part)
            if isinstance(part, Between):
                return Between(part.call.replaced(change))
            return part.replaced(change) if isinstance(part, Call) else part

        return replace(
            self,
            arguments=tuple(map(changed, self.arguments)),
            options=tuple((name, changed(part)) for name, part in self.options),
        )

    def returns(self, *kinds: type) -> bool:
        """Whether the function is annotated to return one of these types. Nothing is computed."""
        return inspect.signature(self.function).return_annotation in kinds

    @property
    def file_name(self) -> str:
        """A name for files of the result, without an ending: `tiny-olmo_step6000_attention_maps_L2H5`.

        It holds the checkpoints, the functions, words among the arguments, the head, the measure and the
        interventions; ASCII letters, digits, "-", "_" and "." only.
        """
        sources = [part for part in self.needs() if not isinstance(part, TokensOf | TextsOf | TokenizerOf)]
        checkpoints = list(dict.fromkeys(part.name.split("/")[-1] for part in sources))
        words = [part for each in self.calls() for part in each.parts if isinstance(part, str) and WORD.fullmatch(part)]
        options = dict(self.options)
        chosen = [(letter, options.get(name)) for letter, name in (("L", "layers"), ("H", "heads"))]
        ones = [(letter, one[0]) for letter, one in chosen if isinstance(one, tuple) and len(one) == 1]
        places = [head_name(*one) if isinstance(one, tuple) else f"{letter}{one}" for letter, one in ones]
        functions = [each.function.__name__ for each in self.calls()]
        edits = ["with", *self.edits.split("\n")] if self.edits else []
        names = [*checkpoints[:2], *functions, *words, "".join(places), self.measure or "", *edits]
        return re.sub(r"[^A-Za-z0-9._-]+", "_", "_".join(filter(None, names))).strip("._")[:MOST_NAME]

    def filled(self, checkpoints: Mapping[str, str]) -> "Call":
        """The same call with its placeholders replaced; `checkpoints` maps their names to ids of checkpoints."""

        return self.replaced(lambda part: part.of(checkpoints[part.name]) if isinstance(part, Placeholder) else part)


@dataclass(frozen=True)
class Between:
    """A function of two checkpoints, as an argument of an analysis: a call with the placeholders `a` and `b`."""

    call: Call

    def needs(self) -> Iterator[Argument]:
        """The models, tokenizers and texts that the call needs, without the two placeholders."""
        return (needed for needed in self.call.needs() if not isinstance(needed, Placeholder))

    def calls(self) -> Iterator[Call]:
        """The call, and the calls among its arguments."""
        return self.call.calls()

    @property
    def edits(self) -> str:
        """The interventions in the call's models, one a line."""
        return self.call.edits

    def value(self, bench: Bench) -> Callable[[Checkpoint, Checkpoint], Any]:
        """The function: it takes two checkpoints and returns the call's result for them."""
        return lambda a, b: run(self.call.filled({"a": a.id, "b": b.id}), bench)


def run(call: Call, bench: Bench, progress: Progress | None = None) -> Any:  # noqa: ANN401 - whatever the call returns
    """The return value of a call, computed on the bench's models, with the interventions of its models applied."""
    edited: list[tuple[OlmoForCausalLM, str, str]] = []

    def value(part: object) -> object:
        if isinstance(part, tuple):
            return [value(each) for each in part]
        if isinstance(part, Call):
            found = bench.results.get(part)
            found = run(part, bench, progress) if found is None else found
        else:
            found = part.value(bench) if isinstance(part, Argument | Between) else part
        source = model_of(part)
        if source is not None and source.edits and isinstance(found, OlmoForCausalLM):
            edited.append((found, source.name, source.edits))
        return found

    options = {name: value(part) for name, part in call.options}
    if progress is not None and call.takes_progress:
        options["progress"] = progress
    arguments = [value(part) for part in call.arguments]
    with tapped(bench, *edited):
        found = call.function(*arguments, **options)
    return found if call.measure is None else found[call.measure]


def model_of(part: object) -> ModelOf | None:
    """The model that an argument stands for. For a call whose value is a model, this is the last of its models, of
    which the value is a copy with some part changed; its interventions hold for the value."""
    if isinstance(part, Call) and part.returns(OlmoForCausalLM):
        return next((source for source in reversed(part.parts) if isinstance(source, ModelOf)), None)
    return part if isinstance(part, ModelOf) else None


def flat(values: tuple[Any, ...]) -> Iterator[Any]:
    """The items of a tuple, with nested tuples flattened."""
    for value in values:
        yield from flat(value) if isinstance(value, tuple) else [value]


def prompt_arguments(request: TabRequest) -> tuple[ModelOf, TokensOf]:
    """The model and the prompt's tokens of a request: the first two arguments of most analyses."""
    query = request.query
    return ModelOf(query.checkpoint, query.edits), TokensOf(query.checkpoint, query.prompt)


def texts_arguments(request: TabRequest) -> tuple[ModelOf, TextsOf]:
    """The model and the set of texts of a request, which must follow "texts"."""
    query = request.query
    return ModelOf(query.checkpoint, query.edits), TextsOf(query.checkpoint, request.selection.texts or "")


def tokenizer_argument(request: TabRequest) -> TokenizerOf:
    """The tokenizer of a request's checkpoint; analyses use it to label tokens by their text."""
    return TokenizerOf(request.query.checkpoint)


prompt_of, texts_of, tokenizer_of = prompt_arguments, texts_arguments, tokenizer_argument
"""Former names, kept for tabs outside of this project."""
