"""The price of a view is known before it is paid: from stated work, at the speed so far, without loading a model."""

from itertools import count

import pytest
from headless import Headless
from small_series import PROMPT, small_bench
from test_stopping import served

from workbench.analyses.ablation import ablation
from workbench.analyses.support import memory
from workbench.analyses.support.cost import Work, duration, planned
from workbench.disk_cache import DiskCache
from workbench.errors import WorkbenchError
from workbench.page.build.desk import heads
from workbench.page.session import prices
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call, prompt_arguments
from workbench.page.session.prices import Expensive, Planner, Price, agree, price_of
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.session.speed import BYTES, OPERATIONS, Rate, Speed
from workbench.page.tabs import attribution, compare, hidden_states, training

NUMBERS = count()


def zero_ablation(request):
    return Call.of(ablation, *prompt_arguments(request), method="zero")


@pytest.fixture
def new_bench(tmp_path, make_model, tokenizer):
    """A bench without results, speeds or loaded models."""
    return small_bench(tmp_path, make_model, tokenizer)


def request_of(bench, prompt=PROMPT):
    return TabRequest(Query(bench.default, prompt, 1), Selection())


def test_a_price_is_the_work_at_the_speed_so_far_and_the_files_to_load(new_bench):
    request = request_of(new_bench)
    call = zero_ablation(request)
    first = price_of(new_bench, call)
    loading = new_bench.file_bytes(new_bench.default)
    model, ids = new_bench.outline(new_bench.default), new_bench.tokens(new_bench.default, PROMPT)
    assert not new_bench.is_loaded(new_bench.default) and model.device.type == "meta"
    work = planned(ablation, model, ids, method="zero") + Work(0, read=loading)
    assert first == Price(*Speed().seconds(work), work.nbytes)
    new_bench.load(new_bench.default)
    loaded = price_of(new_bench, call)
    assert loaded.seconds == Speed().seconds(Work(work.flops))[0] < first.seconds
    new_bench.speed_of(new_bench.default).runs.measured(1e6, 1e6)  # one operation a second
    assert price_of(new_bench, call).seconds > 1e3 * loaded.seconds
    result(call, new_bench)
    assert price_of(new_bench, call) == Price(0, 0, 0)


def test_runs_and_loads_are_measured(new_bench):
    call = zero_ablation(request_of(new_bench))
    speed = new_bench.speed_of(new_bench.default)
    result(call, new_bench)
    assert speed.loads.seconds(BYTES[0]) != BYTES[1]  # the model was loaded
    assert speed.runs.seconds(OPERATIONS[0]) == OPERATIONS[1]  # a run with a load in it tells nothing of runs
    result(zero_ablation(request_of(new_bench, PROMPT + " w4")), new_bench)
    assert speed.runs.seconds(OPERATIONS[0]) != OPERATIONS[1]


def test_rates_follow_what_is_measured_and_short_runs_change_little():
    rate = Rate(1e10, 0.25)
    rate.measured(1e8, 1.0)
    assert 0.25 < rate.seconds(1e10) < 1.3
    rate.measured(1e12, 100.0)
    assert rate.seconds(1e10) == pytest.approx(1.0, rel=0.05)
    rate.measured(1e12, 10.0)
    assert rate.seconds(1e10) == pytest.approx(0.1, rel=0.05)


def test_expensive_views_ask_and_agreed_ones_do_not(new_bench):
    request, new_bench.asks_above = request_of(new_bench), 0.0
    call = zero_ablation(request)
    with pytest.raises(Expensive) as raised:
        agree(new_bench, request, call)
    assert raised.value.price == price_of(new_bench, call)
    agreed = TabRequest(request.query, request.selection, agreed=True)
    assert agree(new_bench, agreed, call) == raised.value.price
    result(call, new_bench)
    assert agree(new_bench, request, call).seconds == 0


def test_what_does_not_fit_is_refused_before_it_is_computed(new_bench, monkeypatch):
    monkeypatch.setattr(memory, "budget", lambda model: 10_000)
    with pytest.raises(WorkbenchError, match=r"needs .* but only 10 kB may be used"):
        price_of(new_bench, zero_ablation(request_of(new_bench)))


def views_of(bench, request):
    """A view of each panel, on this request."""
    other = next(iter(bench.known))
    yield attribution.direct_view(bench, request, "", "", next(iter(attribution.DIRECT)))
    yield attribution.ablation_view(bench, request, "", "", next(iter(attribution.ABLATIONS)))
    yield attribution.sources_view(bench, request, "", "")
    yield attribution.saliency_view(bench, request, "", "", next(iter(attribution.SALIENCIES)))
    yield attribution.patching_view(
        bench,
        request,
        "",
        "",
        "w5 w17 w3 w42 w8 w5 w17 w9",
        next(iter(attribution.PATCHED_SITES)),
        next(iter(attribution.MEASURES)),
    )
    of_one_lens = [what for what in hidden_states.LENS if what != hidden_states.BOTH]  # there is no tuned lens here
    yield from (hidden_states.lens_view(bench, request, what) for what in of_one_lens)
    yield from (hidden_states.states_view(bench, request, what) for what in hidden_states.STATES)
    yield from (compare.difference_view(bench, request, other, what) for what in compare.DIFFERENCES)
    yield compare.by_token_view(bench, request, other, next(iter(compare.BY_TOKEN)))
    yield compare.text_of_b(bench, request, other, 3, 0, 1, 0, 0)
    yield compare.mixed_text(bench, request, other, next(iter(compare.PARTS)), 3, 0, 1, 0, 0)
    known = [what for what in training.METRICS if what != training.ON_ROWS]  # the rows of this series are not known
    yield from (training.training_view(bench, request, what, "step", "") for what in known)


def test_every_panel_has_a_price(bench, tab_request):
    for view in views_of(bench, tab_request):
        work = Planner(bench).work(view.call)
        assert work.flops > 0 or work.read > 0 or view.call.function.__name__ == "trajectory", view.call
    edited = TabRequest(Query(bench.default, PROMPT, 1, "L1H2 off"), Selection())
    assert all(price_of(bench, view.call).seconds >= 0 for view in views_of(bench, edited))


def test_nothing_is_loaded_for_the_price_of_another_checkpoint(new_bench):
    request, new_bench.asks_above = request_of(new_bench, "w9 w8 w7 w6 w9 w8"), 0.0  # not kept on disk by other tests
    other = next(iter(new_bench.known))
    new_bench.load(new_bench.default)
    view = compare.by_token_view(new_bench, request, other, next(iter(compare.BY_TOKEN)))
    assert Planner(new_bench).work(view.call).flops > 0
    for make in (
        lambda: agree(new_bench, request, view.call),
        lambda: compare.text_of_a(new_bench, request, other, 3, 0, 1, 0, 0),
        lambda: compare.mixed_text(new_bench, request, other, next(iter(compare.PARTS)), 3, 0, 1, 0, 0),
        lambda: training.training_view(
            new_bench, request, next(iter(training.METRICS)), next(iter(training.X_AXES)), ""
        ),
    ):
        with pytest.raises(Expensive):
            make()
    value, button = compare.compare_maps(new_bench, request, other)
    assert value == {} and button["visible"]
    value, player, button = training.head_through_training(new_bench, request, 1)
    assert value == {} and player["names"] and button["visible"]
    assert new_bench.residents.ids == (new_bench.default,)


def test_the_rail_comes_without_scores_first_if_they_take_a_while(new_bench, monkeypatch):
    request, new_bench.asks_above = request_of(new_bench), 0.0
    ((rail, card, button, _),) = heads(new_bench, request)
    assert rail["layers"] == 4 and rail == card and "orders" not in rail
    assert button["visible"] and button["value"].startswith("Score the heads (about")
    monkeypatch.setattr(prices, "PRICE_SHOWN", 0.0)
    monkeypatch.setattr("workbench.page.build.desk.PRICE_SHOWN", 0.0)
    first, scored = heads(new_bench, TabRequest(request.query, request.selection, agreed=True))
    assert "orders" not in first[0] and set(scored[0]["orders"]) >= {"induction"} and not scored[2]["visible"]
    ((rail, _, button, _),) = heads(new_bench, request)  # the scores are cached
    assert rail == scored[0] and not button["visible"]


def test_a_panel_waits_for_a_click_and_shows_cached_results_at_once(new_bench, monkeypatch):
    monkeypatch.setattr(DiskCache, "holds", lambda *_: False)  # other tests keep the same results along a run
    new_bench.asks_above = 0.0
    with served(new_bench) as client:
        page = Headless(client, f"priced{next(NUMBERS)}", f"tab=Attribution&prompt={PROMPT}")
        page.open()
        assert page.failed == [] and page.value("ablation-price").startswith("Compute (about ")
        waiting = page.value("ablation-tools")
        assert "code" not in waiting and waiting["question"] and waiting["note"].startswith("Change of −log p")
        page.fire("ablation-price", "click")
        assert page.failed == [] and "code" in page.value("ablation-tools")
        assert "code" not in page.value("patching-tools")
        other = Headless(client, f"priced{next(NUMBERS)}", f"tab=Attribution&prompt={PROMPT}")
        other.open()
        assert "code" in other.value("ablation-tools") and "code" not in other.value("patching-tools")
        along = Headless(client, f"priced{next(NUMBERS)}", f"tab=Training&prompt={PROMPT}")
        along.open()
        assert along.value("training-price") and along.value("training-tools")["note"] == training.WAITING


def test_prices_are_said_in_round_numbers():
    assert [duration(seconds) for seconds in (0.04, 0.44, 1.26, 15.4, 89, 100, 5600, 20000)] == [
        "0.1 s", "0.4 s", "1 s", "15 s", "89 s", "2 min", "2 h", "6 h",
    ]  # fmt: skip
    assert str(Price(15.2, 15.2, 8.2e8)) == "about 15 s, 0.8 GB"
    assert str(Price(60, 3600, 0)) == "60 s to 60 min"


def test_the_price_of_patching_contains_the_choice_of_the_other_prompt(new_bench, monkeypatch):
    request, new_bench.asks_above = request_of(new_bench), 0.0
    new_bench.load(new_bench.default)
    question = attribution.question_of(new_bench, request, "w3", "")
    monkeypatch.setattr(attribution, "exchanges", lambda prompt, question: [([1] * 8, "w9" + PROMPT[2:], "other")] * 9)
    asked = []

    def call_on(prompt):
        asked.append(attribution.patching_view(new_bench, request, "w3", "", prompt, *menus).call)
        return asked[0]

    menus = next(iter(attribution.PATCHED_SITES)), next(iter(attribution.MEASURES))
    with pytest.raises(Expensive) as raised:
        attribution.agree_to_choose(new_bench, request, question, call_on)
    assert raised.value.price.seconds > price_of(new_bench, *asked).seconds > 0
    with pytest.raises(Expensive):
        attribution.patching_view(new_bench, request, "w3", "", "", *menus)
