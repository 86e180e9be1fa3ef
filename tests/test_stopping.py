"""Stop: a page's work ends at its next step, nobody else's does, and nothing stays behind."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest
from gradio.utils import deep_hash
from small_series import PROMPT, small_bench

from workbench.tabs import attention, attribution, compare, training
from workbench.tabs.bench import Selection, Subject
from workbench.tabs.calls import result
from workbench.tabs.place import Due, Wanted, guarded, tells
from workbench.tabs.stopping import STOPPED, Permits

EVENT = SimpleNamespace(_data=None)


@pytest.fixture
def permits():
    return Permits()


def shown(render, wanted, permits=None):
    """What a view shows, value by value."""
    permit_for = (lambda wanted, _: wanted.permit) if permits is None else (lambda _, page: permits.of(page))
    return guarded(render, 1, tells(render), permit_for)(EVENT, request="page", due=wanted)


def counting(wanted, told, progress):
    """A view of three steps, that lets others do something before each."""
    for done in range(3):
        wanted.due[done]()
        progress(done / 3, "counting")
    return "counted"


def test_a_run_ends_at_its_next_step_and_the_last_result_stays(permits):
    def stop():
        permits.end("one")

    def never():
        raise AssertionError("it went on after Stop")

    (values,) = shown(counting, Wanted([int, stop, never], (), permits.of("one")))
    assert values[0] == STOPPED == "stopped" and "value" not in values[1]


def test_stop_ends_no_other_page(permits):
    wanted = Wanted([int, lambda: permits.end("one"), int], (), permits.of("other"))
    assert list(shown(counting, wanted)) == [["", "counted"]]


def test_what_was_asked_for_before_stop_does_not_begin_after_it(permits):
    before = Wanted([int] * 3, (), permits.of("one"))
    permits.end("one")
    ((said, _),) = shown(counting, before)
    assert said == STOPPED
    assert list(shown(counting, before._replace(permit=permits.of("one")))) == [["", "counted"]]


def test_a_text_that_grows_ends_at_its_next_frame(permits):
    closed = []

    def growing(due, told):
        try:
            yield from "abc"
        finally:
            closed.append(True)

    frames = shown(growing, "due", permits)
    assert next(frames) == ["", "a"]
    permits.end("page")
    assert [said for said, _ in frames] == [STOPPED] and closed
    assert [text for _, text in shown(growing, "due", permits)] == ["a", "b", "c"]


def test_a_stopped_run_is_not_kept_and_can_be_run_at_once(bench, due, permits):
    call = attribution.ablation_view(bench, due, "", "", next(iter(attribution.ABLATIONS))).call
    steps = []

    def ablated(wanted, told, progress):
        def step(fraction, text):
            steps.append(fraction)
            if len(steps) == 2:
                permits.end("one")
            progress(fraction, text)

        return result(call, bench, step)

    ((said, _),) = shown(ablated, Wanted(due, (), permits.of("one")))
    assert said == STOPPED and len(steps) == 2 and bench.results.get(call) is None
    ((said, again),) = shown(ablated, Wanted(due, (), permits.of("one")))
    assert said == "" and np.isfinite(again.values).all() and bench.results.get(call) is again


def test_pages_that_compute_nothing_leave_nothing_behind(permits):
    for page in map(str, range(100)):
        assert list(shown(counting, Wanted([int] * 3, (), permits.of(page)))) == [["", "counted"]]
    permits.end("99")
    permits.end("nobody")
    gc.collect()
    assert len(permits) == 0


def test_another_permit_is_no_reason_to_draw_anew(permits, due):
    before = Wanted(due, ("a", 1), permits.of("one"))
    permits.end("one")
    after = Wanted(due, ("a", 1), permits.of("one"))
    assert before.permit is not after.permit and deep_hash(before) == deep_hash(after)
    assert deep_hash(after) != deep_hash(after._replace(controls=("a", 2)))


@pytest.mark.parametrize(
    ("view", "controls"),
    [
        (attention.attention, lambda bench: []),
        (compare.compare_maps, lambda bench: [next(iter(bench.known))]),
        (training.head_through_training, lambda bench: [1]),
    ],
)
def test_views_of_maps_say_how_far_they_are(tmp_path, make_model, tokenizer, view, controls):
    bench, told = small_bench(tmp_path, make_model, tokenizer), []
    due = Due(Subject(bench.default, PROMPT, 1), Selection())
    assert tells(view)
    view(bench, due, *controls(bench), progress=lambda fraction, text: told.append(fraction))
    assert len(told) > 1 and told == sorted(told) and told[0] == 0 and told[-1] == 1
