"""Saved result: what the file of `--result` holds, with the provenance that it was saved with."""

from pathlib import Path

from workbench.page import components
from workbench.page.build.panel import Panel, View, menu
from workbench.page.build.slot import Slot
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.menus import choice
from workbench.page.session.requests import TabRequest
from workbench.page.session.saved import saved_calls

TITLE = "Saved result"
HOW = "What the opened file holds, as it was saved. It does not follow the checkpoint, the prompt or the edits above."


def build(slot: Slot) -> None:
    """The panel of the file's results, and their provenance below it."""
    names = list(saved_calls(slot.bench.saved))
    chosen = slot.link("saved", menu(names, "Result of the file"))
    chosen.visible = len(names) > 1
    Panel("saved", Path(slot.bench.saved).name, menus=[chosen]).draws(slot, saved_view, inputs=[chosen])
    about = components.sentence(elem_id="saved-provenance")
    slot.shows(provenance_of, inputs=[chosen], outputs=[about])


def saved_view(bench: Bench, request: TabRequest, name: str) -> View:
    """One of the file's results."""
    return View(choice(name, saved_calls(bench.saved), "result"), f"Read from {bench.saved}.")


def provenance_of(bench: Bench, request: TabRequest, name: str) -> str:
    """The provenance that a result was saved with: a line for each entry."""
    found = result(saved_view(bench, request, name).call, bench)
    return "\n".join(f"{key}: {value}" for key, value in found.provenance.items()) or "It was saved without provenance."
