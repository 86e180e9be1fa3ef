"""A saved result on the page: the calls that read it from its file."""

from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.page.session.calls import Call
from workbench.report import plotted
from workbench.result_files import Storable, load_result, part_of_result
from workbench.results import Labelled, Measures


def saved_calls(path: str) -> dict[str, Call]:
    """The results of a file that have a plot, by name: of each a call that reads it.

    Errors: those of `load_result`, and WorkbenchError if nothing in the file has a plot.
    """
    found, whole = load_result(path), Call.quick(load_result, path)
    if isinstance(found, dict):
        calls = {name: call for key, one in found.items() for name, call in parts(key, one, whole[key]).items()}
    else:
        calls = parts(getattr(found, "title", "") or Path(path).name, found, whole)
    if not calls:
        kind = type(found).__name__
        raise WorkbenchError(f"{path} holds a {kind}, which has no plot; `python -m workbench show` prints its numbers")
    return calls


def parts(name: str, found: Storable, call: Call) -> dict[str, Call]:
    """The call of a result with a plot; of another result, such as `Measures`, those of its parts that have one."""
    if isinstance(found, Labelled):
        return {name: call}
    named = found.stored_fields()
    pictures = plotted(found)
    keys = [key for key, one in named.items() if any(one is picture for picture in pictures)]
    if isinstance(found, Measures) and call.measure is None:
        return {key: call[key] for key in keys}
    return {f"{name}: {key}": Call.quick(part_of_result, call, key) for key in keys}


def is_saved(call: Call) -> bool:
    """Whether a call reads its result from a file, with the provenance that it was saved with."""
    return any(each.function is load_result for each in call.calls())
