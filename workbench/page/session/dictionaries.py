"""The dictionaries of features that a page shows, and which of them fit a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.errors import WorkbenchError
from workbench.features import Dictionary
from workbench.page.session.arguments import Argument, VariableNames
from workbench.page.session.bench import Bench

NONE_FITS = (
    "No dictionary of features fits this checkpoint: train one with `python -m workbench features train CHECKPOINT "
    "--site blocks.2.resid_post --out FOLDER`, and start the page with `python app.py --dictionary FOLDER`."
)


@dataclass(frozen=True)
class DictionaryOf(Argument):
    """A dictionary of features by its name, `chosen`, for a checkpoint."""

    chosen: str

    def value(self, bench: Bench) -> Dictionary:
        return bench.dictionary(self.chosen)

    def code(self, variables: VariableNames) -> str:
        return f"features.load({self.chosen!r})"


@dataclass(frozen=True)
class DictionariesOf(Argument):
    """Dictionaries of features by their names, for a checkpoint: a mapping."""

    chosen: tuple[str, ...]

    def value(self, bench: Bench) -> dict[str, Dictionary]:
        return {name: bench.dictionary(name) for name in self.chosen}

    def code(self, variables: VariableNames) -> str:
        return f"{{name: features.load(name) for name in {list(self.chosen)!r}}}"


@dataclass(frozen=True)
class NamesOf(Argument):
    """Names of features by number, as pairs. The copied Python holds them, because their file is on this machine."""

    names: tuple[tuple[int, str], ...]

    def value(self, bench: Bench) -> dict[int, str]:
        return dict(self.names)

    def code(self, variables: VariableNames) -> str:
        return repr(dict(self.names))


def fitting(bench: Bench, checkpoint: str) -> tuple[str, ...]:
    """The names of the dictionaries that fit a checkpoint, the one to show first at the front.

    Those of the checkpoint itself come before those of another one of its shape, sparse autoencoders before
    transcoders, larger ones before smaller ones. Crosscoders are left out: they read several models at once (`usable`).
    """
    ranks = {}
    for name in bench.dictionaries:
        found = bench.dictionary(name)
        if not found.sources and misfit(bench, checkpoint, found) is None:
            ranks[name] = (found.model == checkpoint, found.kind == "SAE", len(found))
    return tuple(sorted(ranks, key=lambda name: ranks[name], reverse=True))


def misfit(bench: Bench, checkpoint: str, found: Dictionary) -> str | None:
    """Why a dictionary does not fit a checkpoint; None if it does."""
    try:
        found.check_fits(bench.outline(checkpoint))
    except WorkbenchError as error:
        return str(error)
    return None


def why_not(bench: Bench, checkpoints: Sequence[str], found: Dictionary) -> str | None:
    """Why a dictionary cannot be used for some checkpoints; None if it can. A crosscoder is used for its sources, and
    needs all of them."""
    if not found.sources:
        return next((why for name in checkpoints if (why := misfit(bench, name, found))), None)
    if missing := [name for name in checkpoints if name not in found.sources]:
        return f"the crosscoder was not trained on {' and '.join(missing)}"
    if absent := [name for name in found.sources if name not in bench.known]:
        return f"it reads {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not on this page"
    return next((why for name in found.sources if (why := misfit(bench, name, found))), None)


def usable(bench: Bench, checkpoint: str) -> tuple[str, ...]:
    """The names of the dictionaries that can be shown for a checkpoint: those of `fitting`, then crosscoders."""
    crosscoders = [name for name in bench.dictionaries if bench.dictionary(name).sources]
    shown = [name for name in crosscoders if why_not(bench, [checkpoint], bench.dictionary(name)) is None]
    return (*fitting(bench, checkpoint), *shown)


def chosen_dictionary(bench: Bench, checkpoint: str, name: object) -> str:
    """The name of the dictionary to show: `name`, or the first that fits the checkpoint if it is empty.

    Errors: WorkbenchError if none fits, with the command that makes one; if the named one does not, with those that do.
    """
    there = usable(bench, checkpoint)
    if not name:
        if not there:
            raise WorkbenchError(NONE_FITS)
        return there[0]
    found = bench.dictionary(name)
    if name not in there:
        why = why_not(bench, [checkpoint], found)
        raise WorkbenchError(f"{name} is not shown for {checkpoint}: {why}; those that fit: {', '.join(there)}")
    return str(name)
