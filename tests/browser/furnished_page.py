"""The page's server for tests that need more than the embedded series, or a computation that does not end.

`python tests/browser/furnished_page.py HOLD ARGUMENTS…` runs `app.py ARGUMENTS…`. The embedded series has a short
recipe, whose text is the planted one. While the file HOLD exists, an influence of rows and a patching do not begin:
they report progress, so that they can be stopped, and the file HOLD.held exists while they wait. The panels of Compare
that are tested elsewhere are left out, because they take seconds.
"""

import importlib
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests import planted_cache
from workbench.corpus.replay import Replay
from workbench.corpus.training_text import RECIPES
from workbench.progress import Progress, report, steps
from workbench.tiny_olmo.recipe import Recipe
from workbench.tiny_olmo.rows import Stage

LATER = Stage(until=60, length=16, rows=2, repeats=0, random=0)
"""Steps after those of the planted recipe, up to a committed checkpoint and beyond."""
LEFT_OUT = ("by_token_view", "by_token_floor", "set_view", "difference_view", "difference_floor", "mixed_text")


class Hold:
    """Lets computations wait while a file exists."""

    def __init__(self, file: Path) -> None:
        self.file, self.held = file, file.with_name(f"{file.name}.held")

    def wait(self, progress: Progress | None, text: str) -> None:
        """Report progress while the file exists."""
        if not self.file.exists():
            return
        self.held.touch()
        try:
            while self.file.exists():
                report(progress, 0.1, text)
                time.sleep(0.05)
        finally:
            self.held.unlink()


def main() -> None:
    hold = Hold(Path(sys.argv[1]))
    recipe = Recipe(stages=(*planted_cache.RECIPE.stages, LATER), branch=planted_cache.RECIPE.branch)
    RECIPES["tiny-olmo"] = recipe
    replay = Replay.of(planted_cache.made().text.source(), recipe)
    explaining = importlib.import_module("workbench.corpus.explaining_rows")
    measured = explaining.influence

    def held(*arguments: Any, progress: Progress | None = None, **options: Any) -> object:
        hold.wait(progress, "the first row")
        return measured(*arguments, progress=progress, **options)

    def held_steps(items: Sequence[Any], progress: Progress | None, text: str) -> Iterator[Any]:
        hold.wait(progress, text)
        return steps(items, progress, text)

    importlib.import_module("workbench.corpus.chosen_rows").replay_of = lambda _: replay
    explaining.influence = held
    importlib.import_module("workbench.analyses.activation_patching").steps = held_steps
    compare = importlib.import_module("workbench.page.tabs.compare")
    for name in (*LEFT_OUT, "text_of_a", "text_of_b"):
        setattr(compare, name, lambda *_, **__: "left out")
    compare.features_view = lambda *_, **__: [{}, compare.features_about(), compare.asked(None)]
    compare.compare_maps = lambda *_, **__: [{}, compare.asked(None)]
    sys.argv = ["app.py", *sys.argv[2:]]
    runpy.run_path("app.py", run_name="__main__")


if __name__ == "__main__":
    main()
