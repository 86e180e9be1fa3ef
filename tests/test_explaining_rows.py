"""Rows between two checkpoints: candidates against the rows themselves, scores against `influence`."""

import importlib
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import planted_cache
import pytest
import torch

from workbench import WorkbenchError, checkpoints, corpus, load, tokenizer_of
from workbench.analyses.support.cost import planned
from workbench.checkpoints import Checkpoint
from workbench.corpus.excerpts import plain_text
from workbench.corpus.explaining_rows import (
    BESIDE,
    MOST_SHOWN,
    candidates,
    first_and_last_step,
    piece_of_row,
    random_between,
)
from workbench.corpus.training_text import RECIPES
from workbench.page.build.panel import View
from workbench.page.build.slot import guarded
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.cancellation import STOPPED, Cancellations
from workbench.page.session.prices import Expensive
from workbench.page.session.requests import Query, Selection, TabRequest, ViewRequest
from workbench.page.tabs.compare import explaining_view
from workbench.progress import Progress

STEPS = {0: 0, 4: 50, 6: 400, 9: 6000}  # of the small run, and of the checkpoint of tiny-olmo whose weights it has
PROMPT = "Someone lives in Lisbon and sells nothing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "run"
    for step, of in STEPS.items():
        load(f"tiny-olmo@step{of}")[0].save_pretrained(folder / f"step{step}")
    tokenizer_of(planted_cache.CHECKPOINT).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> corpus.SuffixIndex:
    folder = tmp_path_factory.mktemp("index")
    building = importlib.import_module("workbench.corpus.building")
    building.build_index(planted_cache.made(), folder)
    return building.open_folder(folder)


@pytest.fixture
def run(folder, replay, monkeypatch) -> list[Checkpoint]:
    monkeypatch.setitem(RECIPES, str(folder), planted_cache.RECIPE)
    monkeypatch.setattr(importlib.import_module("workbench.corpus.chosen_rows"), "replay_of", lambda _: replay)
    return checkpoints.main_run(checkpoints.series(str(folder)))


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return tokenizer_of(planted_cache.CHECKPOINT)(PROMPT)["input_ids"]


def longest_piece(row: list[int], text: list[int]) -> int:
    """The number of tokens of the longest n-gram of a text that stands in a row."""
    return max(
        (
            end - start
            for start in range(len(text))
            for end in range(start + 1, len(text) + 1)
            if any(row[at : at + end - start] == text[start:end] for at in range(len(row)))
        ),
        default=0,
    )


def test_candidates_are_rows_of_the_steps_between_that_held_the_longest_ngrams(index, replay, run, ids):
    found = candidates(index, ids, range(2, 8), 1, 10_000)
    assert found and all(2 <= step < 8 for step, _ in found)
    lengths = [end - start for start, end in found.values()]
    assert lengths == sorted(lengths, reverse=True) and min(lengths) >= 2
    for (step, row), (start, end) in found.items():
        held = replay.rows(step)[row].tolist()
        assert any(held[at : at + end - start] == ids[start:end] for at in range(len(held)))
        assert longest_piece(held, ids) >= end - start
    pairs = [ids[at : at + 2] for at in range(len(ids) - 1) if index.occurs(ids[at : at + 2])]
    rows = {(r.step, r.row) for pair in pairs for r in index.rows_with(pair).itertuples() if 2 <= r.step < 8}
    assert set(found) == rows
    assert list(candidates(index, ids, range(2, 8), 1, 3).items()) == list(found.items())[:3]


def test_scores_are_influences_and_the_random_rows_lie_between(index, run, ids):
    found = corpus.explaining_rows(run[1:], [torch.tensor(ids)], index, most=5, background=8)
    names, held = found["score"].names, candidates(index, ids, range(4, 9), 1, 5)
    random = random_between(run[1:], 8, 0)
    assert all(4 <= step < 9 for step, _ in random) and len(set(random)) == 8
    rows = corpus.chosen_rows(run[-1].id, list(held))
    direct = corpus.influence(run[1:-1], [torch.tensor(ids)], rows, predicted=None)["score"]
    by_label = dict(zip(direct.names, direct.values, strict=True))
    assert {name.partition(" · ")[2] for name in names[:-2]} == set(by_label)
    for name, value in zip(names[:-2], found["score"].values, strict=False):
        assert value == pytest.approx(by_label[name.partition(" · ")[2]], rel=1e-4)
    scores = found["score"].values[:-2]
    assert (np.diff(scores) <= 0).all() and names[-2:] == ("highest of 8 random rows", "median of 8 random rows")
    beside = corpus.influence(run[1:-1], [torch.tensor(ids)], corpus.chosen_rows(run[-1].id, random), predicted=None)
    assert found["score"].values[-2] == pytest.approx(beside["score"].values.max(), rel=1e-4)
    expected = [(beside["score"].values < score).mean() for score in scores]
    assert found["quantile"].values[:-2] == pytest.approx(expected, abs=0.07)  # ties count half


def test_a_name_has_the_piece_of_the_row_with_the_ngram_in_quotation_marks(index, run, ids, replay):
    tokenizer = tokenizer_of(planted_cache.CHECKPOINT)
    held = candidates(index, ids, range(9), 1, 10_000)
    for (step, number), (start, end) in held.items():
        row = replay.rows(step)[number]
        piece = piece_of_row(ids[start:end], row, index.end, tokenizer)
        left, match, right = re.fullmatch("(.*?)“(.*)”(.*)", piece).groups()
        assert len(left) <= BESIDE + 1 and len(right) <= BESIDE + 1 and len(match) <= MOST_SHOWN
        whole = plain_text(row.tolist(), tokenizer)
        assert match.removeprefix("…") in plain_text(ids[start:end], tokenizer)
        assert left.removeprefix("…") in whole and right.removesuffix("…") in whole


def test_a_piece_of_a_row_stays_in_its_document_and_is_safe_to_show(index):
    tokenizer = tokenizer_of(planted_cache.CHECKPOINT)
    hostile, lemons = ([*tokenizer(planted_cache.TEXTS[n])["input_ids"], index.end] for n in (2, 1))
    sells = tokenizer(" sells")["input_ids"]
    row = torch.tensor(hostile + lemons)
    assert piece_of_row(sells, row, index.end, tokenizer) == f"…bon and “sells” {planted_cache.HOSTILE[:6]}…"
    last = lemons[-3:-1]
    piece = piece_of_row(last, torch.tensor(lemons + hostile), index.end, tokenizer)
    assert piece.endswith("”") and "markup" not in piece
    override = tokenizer("\u202enothing")["input_ids"]
    assert "\u202e" not in (piece := piece_of_row(override, row, index.end, tokenizer)) and "U+202E" in piece
    assert piece_of_row(sells, row, index.end, None) == repr(sells)


def test_the_price_is_that_of_passes_over_all_rows_at_all_but_the_last_checkpoint(index, run, ids):
    one, three = (planned(corpus.explaining_rows, chosen, [torch.tensor(ids)], index) for chosen in (run[-2:], run))
    assert three.flops == 3 * one.flops > 0 and three.read == 3 * one.read > 0


@pytest.mark.parametrize(
    ("pick", "said"), [([3, 0], "later step"), ([0, 0], "later step"), (["tiny-olmo", 3], "not known")]
)
def test_checkpoints_that_are_not_a_and_b_of_one_run_are_refused(run, pick, said):
    chosen = [checkpoints.series(one)[0] if isinstance(one, str) else run[one] for one in pick]
    with pytest.raises(WorkbenchError, match=said):
        first_and_last_step(chosen)


def test_other_data_orders_share_rows_up_to_the_branch_only():
    known = {one.id.partition("@")[2]: one for one in checkpoints.series("tiny-olmo")}
    assert first_and_last_step([known["step4000"], known["step6000-order2"]]) == (4000, 6000)
    with pytest.raises(WorkbenchError, match="on runs of different data order"):
        first_and_last_step([replace(known["step6000-order2"], step=5000), known["step6000"]])


def test_a_text_without_candidates_is_refused_in_words(index, run):
    absent = np.setdiff1d(np.arange(5, 4096), index.tokens)[:3]
    with pytest.raises(WorkbenchError, match="no row of the steps 0 to 8 held 2 neighbouring tokens"):
        corpus.explaining_rows(run, [torch.tensor(absent)], index)


def test_the_view_waits_for_a_click_then_ranks_the_rows_and_stop_ends_it(index, run, monkeypatch):
    bench = Bench(run, 10**9)
    monkeypatch.setattr(corpus, "open", lambda _: index)
    asked = TabRequest(Query(run[-1].id, PROMPT, 1), Selection())
    with pytest.raises(Expensive):
        explaining_view(bench, asked, run[1].id)
    view = explaining_view(bench, TabRequest(asked.query, Selection(), agreed=True), run[1].id)
    assert isinstance(view, View) and "2 checkpoints" in view.note
    cancellations, steps = Cancellations(), []

    def draw(asked: ViewRequest, _: object, progress: Progress):
        def stopped(fraction: float, text: str) -> None:
            steps.append(text)
            cancellations.stop("page")
            progress(fraction, text)

        return result(view.call, bench, stopped)

    work = guarded(draw, 1, True, lambda asked, _: asked.cancellation)
    ((said, _),) = work(SimpleNamespace(_data=None), request=ViewRequest(asked, (), cancellations.token("page")))
    assert said == STOPPED and len(steps) == 1 and bench.results.get(view.call) is None
    found = result(view.call, bench)
    assert found.names[-2].startswith("highest of") and "lives in Lisbon" in found.names[0]
    again = explaining_view(bench, asked, run[1].id)
    assert isinstance(again, View), "what was computed is shown without a click"


def test_the_view_says_in_words_why_there_are_no_rows(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bench = Bench(checkpoints.series("tiny-olmo"), 10**9)
    asked = TabRequest(Query("tiny-olmo@step6000", PROMPT, 1), Selection(), agreed=True)
    assert "corpus build tiny-olmo" in explaining_view(bench, asked, "tiny-olmo@step2000")
    assert "later step" in explaining_view(bench, asked, "tiny-olmo@step6000")
