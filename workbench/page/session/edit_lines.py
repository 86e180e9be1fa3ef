"""Interventions on the page's models: run with them, and written as Python that makes the same edits."""

from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from hooks import Edit, OlmoForCausalLM
from workbench import interventions
from workbench.analyses.support.direction import Direction
from workbench.errors import WorkbenchError
from workbench.features import Dictionary
from workbench.interventions import Intervention
from workbench.page.session.bench import Bench
from workbench.page.session.opened_prompt import OpenedPrompt
from workbench.page.session.prompts import Prompt, for_browser
from workbench.page.session.text_sets import TextSets

SHOWN = ("edited", "change", "unedited")  # what a page shows: the edited model, its change, or the unedited one
MOST_EDITS, MOST_CHARACTERS = 16, 4096


@dataclass(frozen=True)
class EditRequest:
    """A request to read edits for a checkpoint and a prompt. Data routes parse it from the request's body."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str
    prompt: Prompt
    edits: str


@contextmanager
def tapped(bench: Bench, *edited: tuple[OlmoForCausalLM, str, str]) -> Iterator[None]:
    """Apply interventions to models in this thread, while the `with` block is open.

    Each item of `edited` is a model, its checkpoint and its interventions as text. The checkpoint's tokenizer reads the
    tokens and prompts in the interventions. A model that occurs twice is edited once.
    """
    with ExitStack() as blocks:
        for model, checkpoint, text in {id(each[0]): each for each in edited if each[2]}.values():
            changes = interventions.read(text, bench.load(checkpoint)[1], sets_of(bench, checkpoint))
            blocks.enter_context(model.tapped(edits=edits_on(bench, checkpoint, model, changes)))
        yield


def edits_on(bench: Bench, checkpoint: str, model: OlmoForCausalLM, changes: Iterable[Intervention]) -> list[Edit]:
    """The edits that make these changes in a model; directions of labels are computed once for each checkpoint.

    The caller holds the model's lock.
    """

    def direction_of(change: Intervention) -> Direction:
        key = direction_key(checkpoint, change)
        found = bench.results.get(key)
        if found is None:
            found = change.direction(model)
            bench.results.put(key, found)
        return found

    return interventions.edits_of(model, changes, bench.dictionary, direction_of, lambda name: bench.load(name)[0])


def direction_key(checkpoint: str, change: Intervention) -> Hashable:
    """The key of a direction in the result cache."""
    return "direction", checkpoint, change.kind, str(change.labels), change.layer


def checked_edits(bench: Bench, opened: OpenedPrompt, text: object) -> str:
    """Interventions that a browser sent, in their canonical spelling, after a check that they fit the model and prompt.

    Errors: WorkbenchError for too many edits, a line that is not an edit, or an edit that does not fit.
    """
    text = bounded(text)
    changes = interventions.read(text, opened.tokenizer, sets_of(bench, opened.checkpoint))
    for change in changes:
        change.check(opened.model, bench.dictionary)
    interventions.check_text(changes, opened.ids.shape[1])
    return "\n".join(map(str, changes))


def crosscoders_run(bench: Bench, checkpoint: str, edits: str) -> list[Dictionary]:
    """The crosscoders whose features edits switch off or scale, one for each such edit: their sources run on each
    text."""
    changes = interventions.read(edits, bench.tokenizer(checkpoint), sets_of(bench, checkpoint))
    found = [bench.dictionary(change.target.site) for change in changes if change.runs_sources]
    return [dictionary for dictionary in found if dictionary.sources]


def sets_of(bench: Bench, checkpoint: str) -> interventions.ReadSet:
    """Returns a function that reads the page's sets of texts, built-in or not, for a checkpoint."""
    return lambda name, tokenizer: bench.texts(checkpoint, name)


def canonical_edits(bench: Bench, checkpoint: str, text: object) -> str:
    """Interventions that a browser sent, in their canonical spelling, without a check that they fit the model.

    Errors: those of `bounded`, and WorkbenchError for a line that is not an edit.
    """
    return interventions.canonical(bounded(text), bench.load(checkpoint)[1], sets_of(bench, checkpoint))


def bounded(text: object) -> str:
    """The lines of interventions that a browser sent. Raises WorkbenchError for too many edits or characters."""
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        raise WorkbenchError(f"the edits are not a text, or have more than {MOST_CHARACTERS:,} characters")
    if (found := len(interventions.active_lines(text))) > MOST_EDITS:
        raise WorkbenchError(f"there are {found} edits; this page takes at most {MOST_EDITS}")
    return text


def stack_value(bench: Bench, opened: OpenedPrompt, text: object, shown: object) -> dict[str, Any]:
    """The value of the stack of edits (see interventions.js): its lines in canonical spelling. Lines that are switched
    off stay as they were typed.

    Errors: those of `checked_edits`, for the lines that are switched on.
    """
    on = iter(interventions.active_lines(checked_edits(bench, opened, text)))
    lines = [line.strip() for line in bounded(text).split("\n") if line.strip()]
    return {
        "lines": [line if line.startswith("#") else next(on) for line in lines],
        "shown": shown if shown in SHOWN else SHOWN[0],
        "problem": "",
        "checkpoint": opened.checkpoint,
        "prompt": for_browser(opened.prompt),
    }


def refused_stack(text: object, problem: str) -> dict[str, Any]:
    """The value of the stack for refused edits: the lines as they were sent, and `problem`, a sentence on the error."""
    lines = text.split("\n")[: 2 * MOST_EDITS] if isinstance(text, str) else []
    return {"lines": [line.strip()[:200] for line in lines if line.strip()], "problem": problem}


def in_force(lines: Iterable[str], shown: object) -> str:
    """The lines of a stack that are in force, as text: none if the unedited model is shown."""
    return "" if shown == "unedited" else "\n".join(interventions.active_lines("\n".join(lines)))


def edit_code(
    change: Intervention,
    model: str,
    tokenizer: str,
    device: str = "",
    sets: TextSets | None = None,
    load: interventions.LoadDictionary | None = None,
) -> str:
    """An intervention as a Python expression: a call of `hooks.edits`, `features`, `label_direction` or `probe_layer`.

    `model` and `tokenizer` are the names of variables, `device` is an argument of `torch.tensor`, such as
    ", device=model.device", or empty. `sets` are those of the page, for the direction of a label, and `load` gives its
    dictionaries: the edit with a crosscoder's feature depends on the model, so the expression finds it out.
    """
    target, arguments = change.target, [repr(change.target.site)]
    if change.labels is not None:
        name, toward, against = change.labels.name, change.labels.toward, change.labels.against
        texts, layer = (sets or TextSets()).get(name).expression(tokenizer), repr(change.layer)
        labels = repr(toward) if against is None else f"{toward!r}, {against!r}"
        made = f"directions.label_direction({model}, {texts}, {labels}, layer={layer})"
        if change.kind == "probe":
            made = f"probe_layer({model}, {texts}, layer={layer}).direction({labels})"
        return f"{made}.edit({change.number!r})"
    if target.feature is not None and load is not None and load(target.site).sources:
        return f"interventions.read({str(change)!r})[0].edit({model})"
    if target.feature is not None:
        function = {"zero": "switch_off", "scale": "scale", "add": "steer"}[change.kind]
        arguments = [f"features.load({target.site!r})", str(target.feature)]
        arguments += [] if change.kind == "zero" else [repr(change.number)]
        arguments += [] if target.positions is None else [f"positions={list(target.positions)}"]
        return f"features.{function}({', '.join(arguments)})"
    match change.kind:
        case "scale":
            arguments.append(repr(change.number))
        case "add":
            arguments.append(f"interventions.toward({model}, {change.ids[0]}, {change.number!r})")
        case "patch":
            ids = f"torch.tensor([{tokenizer}({change.text!r}).input_ids]{device})"
            arguments.append(f"{model}.run({ids}, capture={target.site!r}, captures_only=True)")
    arguments += [
        f"{name}={list(numbers)}"
        for name, numbers in (("heads", target.heads), ("positions", target.positions))
        if numbers is not None
    ]
    return f"edits.{change.kind}({', '.join(arguments)})"
