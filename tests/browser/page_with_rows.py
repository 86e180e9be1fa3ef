"""The page's server with a short recipe for the embedded series, whose text is the planted one.

`python tests/browser/page_with_rows.py HOLD ARGUMENTS…` runs `app.py ARGUMENTS…`. An influence of rows does not begin
while the file HOLD exists: it reports progress, so that it can be stopped. The other panels of Compare, which are
tested elsewhere, are left out, because they take seconds.
"""

import importlib
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from tests import planted_cache
from workbench.corpus.replay import Replay
from workbench.corpus.training_text import RECIPES
from workbench.progress import Progress, report
from workbench.tiny_olmo.recipe import Recipe
from workbench.tiny_olmo.rows import Stage

LATER = Stage(until=60, length=16, rows=2, repeats=0, random=0)
"""Steps after those of the planted recipe, up to a committed checkpoint and beyond."""
LEFT_OUT = ("by_token_view", "by_token_floor", "set_view", "difference_view", "difference_floor", "mixed_text")


def main() -> None:
    hold = Path(sys.argv[1])
    recipe = Recipe(stages=(*planted_cache.RECIPE.stages, LATER), branch=planted_cache.RECIPE.branch)
    RECIPES["tiny-olmo"] = recipe
    replay = Replay.of(planted_cache.made().text.source(), recipe)
    explaining = importlib.import_module("workbench.corpus.explaining_rows")
    measured = explaining.influence

    def held(*arguments: Any, progress: Progress | None = None, **options: Any) -> object:
        while hold.exists():
            report(progress, 0.1, "the first row")
            time.sleep(0.05)
        return measured(*arguments, progress=progress, **options)

    importlib.import_module("workbench.corpus.chosen_rows").replay_of = lambda _: replay
    explaining.influence = held
    compare = importlib.import_module("workbench.page.tabs.compare")
    for name in (*LEFT_OUT, "text_of_a", "text_of_b"):
        setattr(compare, name, lambda *_, **__: "left out")
    compare.features_view = lambda *_, **__: [{}, compare.features_about(), compare.asked(None)]
    compare.compare_maps = lambda *_, **__: [{}, compare.asked(None)]
    sys.argv = ["app.py", *sys.argv[2:]]
    runpy.run_path("app.py", run_name="__main__")


if __name__ == "__main__":
    main()
