"""A saved result on the page: read from its file, with the provenance that it was saved with."""

from pathlib import Path

import numpy as np
import pytest
from headless import Headless, served
from small_series import PROMPT, small_bench

from workbench.errors import WorkbenchError
from workbench.page.build.panel import of_edits
from workbench.page.session.cached_results import result
from workbench.page.session.offers import offer
from workbench.page.session.requests import Query
from workbench.page.session.saved import saved_calls
from workbench.page.tabs import saved
from workbench.result_files import save_results
from workbench.results import Grid, Measures, Scores

GRID = Grid([[1.0, 2.0]], ["0"], ["a", "b"], title="a grid", provenance={"checkpoints": "olmo@step1", "seed": 3})
SCORES = Scores([1.0, -2.0], ["L0H0", "L0H1"], title="scores", signed=True)


def bench_of(path: Path, tmp_path: Path, make_model, tokenizer):
    return small_bench(tmp_path / "series", make_model, tokenizer, saved=str(path))


def test_every_plot_of_a_file_has_a_call_that_reads_it(tmp_path):
    one, measures, several = (str(tmp_path / f"{name}.npz") for name in ("one", "measures", "several"))
    GRID.save(one)
    Measures(grid=GRID, other=GRID).save(measures)
    save_results({"first": SCORES, "second": Measures(grid=GRID)}, several)
    assert list(saved_calls(one)) == ["a grid"]
    assert list(saved_calls(measures)) == ["grid", "other"]
    assert list(saved_calls(several)) == ["first", "second: grid"]


def test_the_tab_shows_the_file_with_its_own_provenance(tmp_path, make_model, tokenizer):
    path = tmp_path / "several.npz"
    save_results({"first": SCORES, "second": Measures(grid=GRID)}, path)
    bench = bench_of(path, tmp_path, make_model, tokenizer)
    for name, expected in (("first", SCORES), ("second: grid", GRID)):
        view = saved.saved_view(bench, None, name)
        found = result(view.call, bench)
        assert np.array_equal(found.values, expected.values) and found.provenance == expected.provenance
        names: dict[str, object] = {"__name__": "copied"}
        exec(offer(bench, view.call)["code"].replace(".show()", ""), names)  # what the page offers to copy
        assert np.array_equal(names["result"].values, expected.values)
        assert of_edits(view, Query(bench.default, PROMPT, 1, "L0H1 off", True)) is view
    with served(bench) as client:
        page = Headless(client, "saved", f"tab=Saved+result&saved=second%3A+grid&prompt={PROMPT}")
        page.open()
        assert page.failed == [] and page.value("saved-tools")["title"] == "a grid"
        assert page.value("saved-provenance") == "checkpoints: olmo@step1\nseed: 3"


def test_a_wrong_file_is_refused_with_a_sentence(tmp_path, make_model, tokenizer):
    wrong = tmp_path / "prompts.txt"
    wrong.write_text("no result")
    bench = bench_of(wrong, tmp_path, make_model, tokenizer)
    with (
        pytest.raises(WorkbenchError, match=r"prompts\.txt is not a saved result, or is damaged: it is not a whole"),
        served(bench),
    ):
        pass
    with pytest.raises(WorkbenchError, match=r"absent\.npz cannot be read"):
        saved_calls(str(tmp_path / "absent.npz"))
