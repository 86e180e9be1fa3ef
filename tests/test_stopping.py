"""Stop: a page's work ends at its next step, other pages continue, and nothing is left over."""

import asyncio
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from gradio.queueing import Queue
from gradio.utils import deep_hash
from headless import Headless, served
from small_series import PROMPT, small_bench

from workbench.errors import WorkbenchError
from workbench.page.build.slot import guarded
from workbench.page.session.cached_results import result
from workbench.page.session.cancellation import REMEMBERED_STOPS, STOPPED, Cancellations
from workbench.page.session.requests import Query, Selection, TabRequest, ViewRequest
from workbench.page.tabs import attention, attribution, compare, training

EVENT = SimpleNamespace(_data=None)
NUMBERS = count()


@pytest.fixture
def cancellations():
    return Cancellations()


def shown(render, view, cancellations=None):
    """The values that a view shows, in order."""
    if cancellations is None:
        return guarded(render, 1, True, lambda view, _: view.cancellation)(EVENT, "page", request=view)
    return guarded(render, 1, True, lambda _, page: cancellations.token(page))(EVENT, "page", request=view)


def counting(view, told, progress):
    """A view with three steps, which calls a function of the test before each."""
    for done in range(3):
        view.tab[done]()
        progress(done / 3, "counting")
    return "counted"


def test_a_run_ends_at_its_next_step_and_the_last_result_stays(cancellations):
    def stop():
        cancellations.stop("one")

    def never():
        raise AssertionError("it went on after Stop")

    (values,) = shown(counting, ViewRequest([int, stop, never], (), cancellations.token("one")))
    assert values[0] == STOPPED == "stopped" and "value" not in values[1]


def test_stop_ends_no_other_page(cancellations):
    view = ViewRequest([int, lambda: cancellations.stop("one"), int], (), cancellations.token("other"))
    assert list(shown(counting, view)) == [["", "counted"]]


def test_what_was_asked_for_before_stop_does_not_begin_after_it(cancellations):
    before = ViewRequest([int] * 3, (), cancellations.token("one"))
    cancellations.stop("one")
    ((said, _),) = shown(counting, before)
    assert said == STOPPED
    assert list(shown(counting, before._replace(cancellation=cancellations.token("one")))) == [["", "counted"]]


def test_a_text_that_grows_ends_at_its_next_frame(cancellations):
    closed = []

    def growing(request, told, progress):
        try:
            yield from "abc"
        finally:
            closed.append(True)

    frames = shown(growing, "due", cancellations)
    assert next(frames) == ["", "a"]
    cancellations.stop("page")
    assert [said for said, _ in frames] == [STOPPED] and closed
    assert [text for _, text in shown(growing, "due", cancellations)] == ["a", "b", "c"]


def test_a_stopped_run_is_not_kept_and_can_be_run_at_once(bench, tab_request, cancellations):
    call = attribution.ablation_view(bench, tab_request, "", "", next(iter(attribution.ABLATIONS))).call
    steps = []

    def ablated(view, told, progress):
        def step(fraction, text):
            steps.append(fraction)
            if len(steps) == 2:
                cancellations.stop("one")
            progress(fraction, text)

        return result(call, bench, step)

    ((said, _),) = shown(ablated, ViewRequest(tab_request, (), cancellations.token("one")))
    assert said == STOPPED and len(steps) == 2 and bench.results.get(call) is None
    ((said, again),) = shown(ablated, ViewRequest(tab_request, (), cancellations.token("one")))
    assert said == "" and np.isfinite(again.values).all() and bench.results.get(call) is again


def test_pages_leave_little_behind(cancellations):
    for page in map(str, range(2 * REMEMBERED_STOPS)):
        assert list(shown(counting, ViewRequest([int] * 3, (), cancellations.token(page)))) == [["", "counted"]]
    assert len(cancellations) == 0
    for page in map(str, range(2 * REMEMBERED_STOPS)):
        cancellations.stop(page)
    assert len(cancellations) == REMEMBERED_STOPS


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give memory back themselves, or never")
def test_memory_that_a_long_view_frees_is_given_back(cancellations, monkeypatch):
    monkeypatch.setattr("workbench.page.build.slot.LONG", 0.0)
    held, at_end, process = [], [], psutil.Process()

    def heavy(view, told, progress):
        torch.ones(2**21)  # once such a block is freed, glibc keeps smaller ones
        parts = [torch.ones(2**18) for _ in range(256)]  # 1 MB each
        held.append(parts[-1])  # above the others, so that glibc does not shorten its heap by itself
        at_end.append(process.memory_info().rss)
        raise WorkbenchError(f"{len(parts)} MB are not enough")

    list(shown(heavy, ViewRequest([], (), cancellations.token("one"))))
    assert process.memory_info().rss < at_end[0] - 200e6


def test_stop_ends_what_was_asked_for_before_it_and_nothing_later(cancellations):
    cancellations.stop("one", until=50)
    cancellations.stop("one", until=40)  # a busy server handles this event later
    assert [cancellations.token("one", asked).cancelled() for asked in (30, 50, 51)] == [True, True, False]
    assert not cancellations.token("other", 30).cancelled()


def test_another_token_is_no_reason_to_draw_anew(cancellations, tab_request):
    before = ViewRequest(tab_request, ("a", 1), cancellations.token("one"))
    cancellations.stop("one")
    after = ViewRequest(tab_request, ("a", 1), cancellations.token("one"))
    assert before.cancellation is not after.cancellation and deep_hash(before) == deep_hash(after)
    assert deep_hash(after) != deep_hash(after._replace(controls=("a", 2)))


@pytest.mark.parametrize(
    ("view", "controls"),
    [
        (attention.attention_value, lambda bench: []),
        (compare.compare_maps, lambda bench: [next(iter(bench.known))]),
        (training.head_through_training, lambda bench: [1]),
    ],
)
def test_views_of_maps_say_how_far_they_are(tmp_path, make_model, tokenizer, view, controls):
    bench, told = small_bench(tmp_path, make_model, tokenizer), []
    tab_request = TabRequest(Query(bench.default, PROMPT, 1), Selection())
    view(bench, tab_request, *controls(bench), progress=lambda fraction, text: told.append(fraction))
    assert len(told) > 1 and told == sorted(told) and told[0] == 0 and told[-1] == 1


class Gate:
    """A place in the program where a thread waits for the test."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(60)

    def wait(self) -> None:
        """Wait until a thread waits at the gate."""
        assert self.reached.wait(60)


@pytest.fixture(scope="module")
def client(bench):
    with served(bench) as client:
        yield client


def visit(client, tab="Attention"):
    """An open page that shows its prompt, with another prompt typed in its bar."""
    page = Headless(client, f"page{next(NUMBERS)}", f"tab={tab}&prompt={PROMPT}&length=3")
    page.open()
    assert page.failed == [] and page.value("problem") == "" and len(page.value("spine")["ids"]) == 8
    page.values[page.ids["prompt"]] = "w1 w2 w3"
    return page


def click_and_stop_while_reading(page, button, bench, monkeypatch):
    """Click a button, and press Stop while the server reads the prompt for it."""
    gate, read = Gate(), bench.read
    with monkeypatch.context() as patched, ThreadPoolExecutor(1) as thread:
        patched.setattr(bench, "read", lambda *args, **more: [read(*args, **more), gate()][0])
        run = thread.submit(page.fire, button, "click")
        gate.wait()
        page.stop()
        gate.opened.set()
        run.result(60)


def test_stop_while_a_prompt_is_read_leaves_everything_as_it_was(client, bench, monkeypatch):
    page = visit(client)
    before = dict(page.values)
    click_and_stop_while_reading(page, "run", bench, monkeypatch)
    assert page.value("problem") == STOPPED
    assert page.values == before | {page.ids["problem"]: STOPPED}
    page.fire("run", "click")
    assert page.value("problem") == "" and page.value("attention")["prompt"] == "w1 w2 w3"


@pytest.mark.parametrize("done", [1, 2, 3])
def test_stop_between_any_two_events_of_a_run_ends_it(client, done):
    """Stop after the click, after the prompt was read, and after the view was requested."""
    page = visit(client)
    run = page.events("run", "click")
    for _ in range(done):
        next(run)
    page.stop()
    list(run)
    assert page.value("attention")["prompt"] == PROMPT and page.failed == []
    assert STOPPED in page.values.values()
    page.fire("run", "click")
    assert page.value("attention")["prompt"] == "w1 w2 w3" and STOPPED not in page.values.values()


def test_stop_before_a_text_is_written_ends_it(client, bench, monkeypatch):
    page = visit(client, "Generate")
    before = page.value("written")
    click_and_stop_while_reading(page, "Generate", bench, monkeypatch)
    assert page.value("written") == before and STOPPED in page.values.values()
    page.fire("Generate", "click")
    assert page.value("written")["final"] and STOPPED not in page.values.values()


def test_what_is_stopped_does_not_run_the_prompt_it_would_have_changed(client, bench):
    page = visit(client, "Training")
    page.values[page.ids["moment"]] = 1
    run = page.events("Open it on all tabs", "click")
    next(run)
    page.stop()
    list(run)
    assert len(page.value("spine")["ids"]) == 8 and STOPPED in page.values.values()
    page.fire("Open it on all tabs", "click")
    assert page.value("checkpoint") == next(iter(bench.known)) and len(page.value("spine")["ids"]) == 3


def test_what_is_queued_only_after_its_stop_does_not_wait_for_others(bench, monkeypatch):
    """The busy server handles Stop before it has queued an event that was sent earlier."""
    reading, queueing, late, read, push = Gate(), Gate(), [], bench.read, Queue.push

    async def pushed(self, body, request, username):
        if body.session_hash in late:
            await asyncio.to_thread(queueing)
        return await push(self, body, request, username)

    monkeypatch.setattr(Queue, "push", pushed)
    with served(bench) as client, ThreadPoolExecutor(2) as threads, monkeypatch.context() as patched:
        one, other = visit(client), visit(client)
        rest = other.events("run", "click")
        next(rest)  # the prompt has been requested; the next event reads it
        patched.setattr(bench, "read", lambda *args, **more: [read(*args, **more), reading()][0])
        running = threads.submit(one.fire, "run", "click")
        reading.wait()
        late.append(other.name)
        waiting = threads.submit(list, rest)
        queueing.wait()
        other.stop()
        queueing.opened.set()
        waiting.result(60)
        assert other.value("problem") == STOPPED and not running.done()
        reading.opened.set()
        running.result(60)
        assert one.value("problem") == "" and one.value("attention")["prompt"] == "w1 w2 w3"


def test_stop_ends_the_loading_of_a_model(client, bench, monkeypatch):
    page, gate, load = visit(client), Gate(), bench.residents.load

    def loading(name, progress):
        gate()
        progress(0.5, "reading")
        return load(name, progress)

    with monkeypatch.context() as patched, ThreadPoolExecutor(1) as thread:
        patched.setattr(bench.residents, "load", loading)
        run = thread.submit(page.fire, "run", "click")
        gate.wait()
        page.stop()
        gate.opened.set()
        run.result(60)
    assert page.value("problem") == STOPPED and bench.status()["loading"] is None
