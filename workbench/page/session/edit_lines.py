"""Interventions on the page's models: run with them, and written as Python that makes the same edits."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from hooks import OlmoForCausalLM
from workbench import interventions
from workbench.errors import WorkbenchError
from workbench.interventions import Intervention
from workbench.page.session.bench import Bench, OpenedPrompt

MOST_EDITS, MOST_CHARACTERS = 16, 4096


@contextmanager
def tapped(bench: Bench, *edited: tuple[OlmoForCausalLM, str, str]) -> Iterator[None]:
    """Apply interventions to models in this thread, while the `with` block is open.

    `edited` are models, each with the checkpoint whose tokenizer reads the tokens and prompts in its interventions, and
    the interventions as text. A model that occurs twice is edited once.
    """
    with ExitStack() as blocks:
        for model, checkpoint, text in {id(each[0]): each for each in edited if each[2]}.values():
            changes = interventions.read(text, bench.load(checkpoint)[1])
            blocks.enter_context(model.tapped(edits=interventions.edits_of(model, changes)))
        yield


def checked_edits(opened: OpenedPrompt, text: object) -> str:
    """Interventions that a browser sent, in their canonical spelling, after a check that they fit the model and prompt.

    Errors: WorkbenchError for too many edits, a line that is no edit, or an edit that does not fit.
    """
    text = bounded(text)
    changes = interventions.read(text, opened.tokenizer)
    for change in changes:
        change.check(opened.model)
    interventions.check_text(changes, opened.ids.shape[1])
    return "\n".join(map(str, changes))


def bounded(text: object) -> str:
    """The lines of interventions that a browser sent. Raises WorkbenchError for too many edits or characters."""
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        raise WorkbenchError(f"the edits are no text of at most {MOST_CHARACTERS:,} characters")
    if (found := len(interventions.active_lines(text))) > MOST_EDITS:
        raise WorkbenchError(f"there are {found} edits; this page takes at most {MOST_EDITS}")
    return text


def edit_code(change: Intervention, model: str, tokenizer: str, device: str = "") -> str:
    """An intervention as a Python expression: a call of `hooks.edits`.

    `model` and `tokenizer` are the names of variables, `device` is an argument of `torch.tensor`, such as
    ", device=model.device", or empty.
    """
    target, arguments = change.target, [repr(change.target.site)]
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
