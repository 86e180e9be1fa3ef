"""The steps at which rows held an n-gram, as ticks on the Training chart, and the loss on those rows."""

import importlib

import planted_cache
import plotly.graph_objects as go
import pytest
import torch

from workbench import WorkbenchError, checkpoints, corpus, token_losses, tokenizer_of, trajectory
from workbench.analyses.support.cost import planned
from workbench.corpus.training_text import RECIPES
from workbench.page.build.panel import View
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.code import code
from workbench.page.session.prices import Planner
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.session.training_text import read_ngram
from workbench.page.tabs.training import ON_ROWS, X_AXES, reading_ticks, training_view
from workbench.plots import marked

STEPS = ("step0", "step2000", "step6000")
PROMPT = "She lives in Lisbon and sells lemons"
STEP_AXIS, TOKEN_AXIS = (
    next(name for name, axis in X_AXES.items() if axis == (kind, False)) for kind in ("step", "tokens")
)


@pytest.fixture
def index(index, replay, monkeypatch) -> corpus.SuffixIndex:
    monkeypatch.setattr(importlib.import_module("workbench.corpus.chosen_rows"), "replay_of", lambda _: replay)
    return index


@pytest.fixture(scope="module")
def bench() -> Bench:
    known = [one for one in checkpoints.series("tiny-olmo") if one.id.partition("@")[2] in STEPS]
    return Bench(known, 10**9)


def request(token: int | None = None, prompt: str = PROMPT) -> TabRequest:
    return TabRequest(Query(planted_cache.CHECKPOINT, prompt, 1), Selection(token=token), agreed=True)


def test_chosen_rows_are_the_replays_and_are_named_by_step_and_number(index, replay):
    found = corpus.chosen_rows("tiny-olmo", [(7, 1), (0, 4)])
    assert found.labels == ("step 7 row 1", "step 0 row 4")
    assert torch.equal(found[0], replay.rows(7)[1]) and torch.equal(found[1], replay.rows(0)[4])
    with pytest.raises(WorkbenchError, match="no row 5 at step 0; it has the rows 0 to 4"):
        corpus.chosen_rows("tiny-olmo", [(0, 5)])


@pytest.mark.parametrize(("prompt", "token"), [(PROMPT, 2), (PROMPT, 4), ("Then Anna lives in", None)])
def test_the_rows_of_an_ngram_hold_it(bench, index, prompt, token):
    ids = tokenizer_of(planted_cache.CHECKPOINT)(prompt)["input_ids"]
    read = read_ngram(bench, planted_cache.CHECKPOINT, prompt, token)
    end = len(ids) if token is None else token + 1
    ngram = ids[end - read.length : end]
    assert read.places and set(read.steps) == set(index.rows_with(ngram)["step"])
    assert read.length == len(ids[:end]) or not index.occurs(ids[end - read.length - 1 : end])
    for row in corpus.chosen_rows("tiny-olmo", read.places).ids.tolist():
        assert any(row[at : at + len(ngram)] == ngram for at in range(len(row)))


def test_the_chart_gets_a_tick_for_each_step_of_the_selected_token(bench, index):
    for token in (2, 4):
        read = read_ngram(bench, planted_cache.CHECKPOINT, PROMPT, token)
        view = training_view(bench, request(token), "held-out loss", STEP_AXIS, "", marks=True)
        assert isinstance(view, View) and view.marks == read.steps and read.told in view.note
        plain = training_view(bench, request(token), "held-out loss", STEP_AXIS, "")
        assert plain.call == view.call and plain.marks == ()
    tokens = reading_ticks(bench, request(), TOKEN_AXIS, read.steps)
    assert tokens == tuple(RECIPES["tiny-olmo"].tokens(step) for step in read.steps)
    assert reading_ticks(bench, request(), STEP_AXIS, [3, 5999, 6000]) == (3, 5999), (
        "step 6,000 is after the last checkpoint"
    )


def test_the_loss_on_rows_is_that_of_row_losses(bench, index, tmp_path):
    read = read_ngram(bench, planted_cache.CHECKPOINT, PROMPT, 4)
    view = training_view(bench, request(4), ON_ROWS, STEP_AXIS, "")
    found = result(view.call, bench)
    few = corpus.chosen_rows("tiny-olmo", [read.places[0], read.places[-1]])
    expected = corpus.row_losses(list(bench.known.values()), few, cache=None)
    assert view.marks == read.steps and found.x.tolist() == [0, 2000, 6000]
    for line, label in ((1, few.labels[0]), (2, few.labels[1])):
        assert found.values[found.lines.index(label)] == pytest.approx(expected.values[line], rel=1e-4)


def test_the_price_of_the_losses_is_that_of_reading_the_rows_at_each_checkpoint(bench, index):
    call = training_view(bench, request(4), ON_ROWS, STEP_AXIS, "", marks=False).call
    metric = Planner(bench).value(call.arguments[1])
    each = planned(token_losses, bench.outline(planted_cache.CHECKPOINT), metric.arguments["rows"])
    new = planned(trajectory, list(bench.known.values()), metric, cache=None)
    assert new.flops == len(STEPS) * each.flops > 0 and new.read > 0


def test_the_copied_python_gives_the_same_losses(bench, index, monkeypatch):
    call = training_view(bench, request(4), ON_ROWS, STEP_AXIS, "").call
    source = code(call, bench)
    assert "from workbench.corpus.row_losses import loss_on_rows" in source and "plot(result).show()" in source
    monkeypatch.setattr(checkpoints, "series", lambda _: list(bench.known.values()))
    names: dict = {}
    exec(source.replace("plot(result).show()", ""), names)
    assert (names["result"].values == result(call, bench).values).all()


def test_without_an_index_the_metric_is_drawn_without_ticks(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    view = training_view(bench, request(), "held-out loss", STEP_AXIS, "", marks=True)
    assert isinstance(view, View) and view.marks == () and "corpus build tiny-olmo" in view.note
    assert "corpus build tiny-olmo" in training_view(bench, request(), ON_ROWS, STEP_AXIS, "")


def test_an_ngram_that_no_row_held_is_said_in_words(bench, index):
    found = training_view(bench, request(prompt="zebra §"), ON_ROWS, STEP_AXIS, "")
    assert isinstance(found, str) and ("does not occur" in found or "No row" in found)


def test_ticks_stand_on_the_axis_within_the_points():
    figure = marked(go.Figure(go.Scatter(x=[25.0, 50.0, 400.0], y=[3.0, 2.0, 1.0])), [0, 60])
    (ticks,) = [trace for trace in figure.data if trace.yaxis == "y2"]
    assert ticks.x == (25.0, 25.0, None, 60, 60, None) and ticks.hoverinfo == "skip"
    assert figure.layout.yaxis2.overlaying == "y" and figure.data[0].y == (3.0, 2.0, 1.0)
