"""The price of a view, estimated before it is computed: seconds and memory, from the stated work of its calls.

Views that take longer than `Bench.asks_above` seconds are computed only after a click that agrees to their price.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hooks import OlmoForCausalLM
from workbench import interventions
from workbench.analyses.directions import label_direction
from workbench.analyses.support.cost import Work, duration, is_planned, pass_flops, planned
from workbench.analyses.trajectory import Metric
from workbench.checkpoints import Checkpoint
from workbench.page.session.arguments import Argument, IdsOf, ModelOf, ModelsOf, PairsOf, ResidOf, TextsOf, TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.calls import Between, Call
from workbench.page.session.edit_lines import crosscoders_run, direction_key, sets_of
from workbench.page.session.requests import TabRequest
from workbench.progress import Progress
from workbench.text_pairs import TextPairs
from workbench.texts import Texts

NOTHING = Work(0)
PRICE_SHOWN = 1.0
"""Seconds from which the price is shown while a view is computed."""


@dataclass(frozen=True)
class Price:
    """The expected time of a view in seconds, its time in the worst case, and its peak memory besides the models."""

    seconds: float
    at_most: float
    nbytes: float

    def __str__(self) -> str:
        times = f"about {duration(self.seconds)}"
        if self.at_most > 3 * self.seconds:
            times = f"{duration(self.seconds)} to {duration(self.at_most)}"
        return f"{times}, {max(0.1, self.nbytes / 1e9):.1f} GB" if self.nbytes > 5e7 else times


class Expensive(Exception):
    """Raised instead of computing a view whose price the user has not agreed to."""

    def __init__(self, price: Price) -> None:
        super().__init__(str(price))
        self.price = price


def price_of(bench: Bench, *calls: Call, before: Work = NOTHING) -> Price:
    """The price of calls one after the other; those whose results are cached cost nothing.

    `before` is other work that comes before the calls, on the same model.

    Errors: WorkbenchError for a call that does not fit into memory, with both numbers.
    """
    plan, work = Planner(bench), before
    new = [call for call in dict.fromkeys(calls) if bench.results.get(call) is None]
    for call in new:
        work += plan.work(call)
        work += plan.work_of_sources(call)
    work += directions_work(bench, (needed for call in new for needed in call.needs()))
    work += Work(0, read=sum(plan.to_load.values()))
    names = [needed.name for call in (new or calls) for needed in call.needs() if needed.name in bench.known]
    seconds = bench.speed_of(names[0]).seconds(work) if names else (0.0, 0.0)
    return Price(*seconds, work.nbytes)


def directions_work(bench: Bench, needs: Iterable[Argument]) -> Work:
    """The work of the directions of labels that edits of models add, without those in the result cache."""
    edited = {(part.name, part.edits) for part in needs if isinstance(part, ModelOf) and part.edits}
    works = {}
    for checkpoint, edits in edited:
        for change in interventions.read(edits, bench.tokenizer(checkpoint), sets_of(bench, checkpoint)):
            key = direction_key(checkpoint, change)
            if change.labels is not None and bench.results.get(key) is None:
                model, texts = bench.outline(checkpoint), change.labels.texts
                works[key] = planned(label_direction, model, texts, layer=change.layer)
    return sum(works.values(), start=NOTHING)


def price_of_edits(bench: Bench, checkpoint: str, edits: str) -> Price:
    """The price of the directions of labels that edits add: what the first view with them takes longer."""
    work = directions_work(bench, [ModelOf(checkpoint, edits)])
    return Price(*bench.speed_of(checkpoint).seconds(work), work.nbytes)


def agree(bench: Bench, request: TabRequest, *calls: Call, before: Work = NOTHING) -> Price:
    """The price of calls. Raises Expensive if it is above `bench.asks_above` and the request does not agree to it."""
    price = price_of(bench, *calls, before=before)
    if price.seconds > bench.asks_above and not request.agreed:
        raise Expensive(price)
    return price


def is_cheap(bench: Bench, *calls: Call) -> bool:
    """Whether calls take less than `PRICE_SHOWN` seconds, or are cached."""
    return price_of(bench, *calls).seconds <= PRICE_SHOWN


def priced(progress: Progress | None, price: Price) -> Progress | None:
    """A callback that shows the price beside each step, if it is above `PRICE_SHOWN` seconds."""
    if progress is None or price.seconds <= PRICE_SHOWN:
        return progress
    return lambda fraction, text: progress(fraction, f"{text}, {price}")


class Planner:
    """The work of calls. `to_load` are the files of the models that they need and that are not loaded: bytes by id."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.to_load: dict[str, int] = {}

    def work(self, call: Call) -> Work:
        """The work of a call and of the calls among its arguments."""
        work = Work(0)
        for part in call.parts:
            is_new = isinstance(part, Call) and self.bench.results.get(part) is None
            work += self.work(part) if is_new else Work(0)
        if is_planned(call.function):
            options = {name: self.value(part) for name, part in call.options}
            work += planned(call.function, *map(self.value, call.arguments), **options)
        return work

    def work_of_sources(self, call: Call) -> Work:
        """The work of crosscoders whose features edits switch off or scale: a pass of each source over each text of the
        call. Equal texts in a row are read once (see `features.switch_off_in`)."""
        needs = list(call.needs())
        tokens = sum(map(self._tokens, needs))
        edited = {(one.name, one.edits) for one in needs if isinstance(one, ModelOf) and one.edits}
        sources = [name for one in edited for found in crosscoders_run(self.bench, *one) for name in found.sources]
        return sum((Work(pass_flops(self._model(name), tokens)) for name in sources), start=NOTHING)

    def _tokens(self, part: Argument) -> int:
        """The number of tokens of a text, of a set of texts or of pairs of texts; 0 for another argument."""
        if isinstance(part, TokensOf | IdsOf):
            return len(part.ids) if isinstance(part, IdsOf) else self.bench.tokens(part.name, part.text).numel()
        found = part.value(self.bench) if isinstance(part, TextsOf | PairsOf) else None
        if isinstance(found, TextPairs):
            return found.clean.tokens + found.corrupted.tokens
        return found.tokens if isinstance(found, Texts) else 0

    def value(self, part: object) -> Any:  # noqa: ANN401 - whatever the argument is
        """The value of an argument in a plan: no model is loaded, so models may have no weights."""
        if isinstance(part, tuple):
            return [self.value(each) for each in part]
        if isinstance(part, ModelOf):
            return self._model(part.name)
        if isinstance(part, ModelsOf):
            return {one: self._model(one) for one in part.ids}
        if isinstance(part, ResidOf):
            return True  # that it is given
        if isinstance(part, Between):
            return self._between(part)
        if isinstance(part, Call):
            return self._of_call(part)
        return part.value(self.bench) if isinstance(part, Argument) else part

    def _model(self, name: str) -> OlmoForCausalLM:
        if not self.bench.is_loaded(name):
            self.to_load[name] = self.bench.file_bytes(name)
        return self.bench.outline(name)

    def _of_call(self, call: Call) -> object:
        """The value of a call among the arguments: its cached result; else a model if the call needs one, such as a
        model with other parts."""
        found = self.bench.results.get(call)
        if found is not None:
            return found
        models = [self.value(needed) for needed in call.needs() if isinstance(needed, ModelOf)]
        if models and not call.returns(Metric):
            return models[-1]
        options = {name: self.value(part) for name, part in call.options}
        return call.function(*map(self.value, call.arguments), **options)

    def _between(self, part: Between) -> object:
        def compare(a: Checkpoint, b: Checkpoint) -> None:
            raise AssertionError("a plan compares nothing")

        compare.__dict__["work"] = lambda a, b: self.work(part.call.filled({"a": a.id, "b": b.id}))
        return compare
