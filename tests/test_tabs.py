"""Every view of the page is a call: it runs, and its Python gives the same numbers."""

import asyncio
import dataclasses
import math
import re
from itertools import cycle, islice, product

import gradio as gr
import numpy as np
import pandas as pd
import pytest
import torch
from copied import check_copied
from headless import request_of
from small_series import PROMPT, small_bench

from workbench import checkpoints
from workbench.analyses.support.translators import TunedLens
from workbench.analyses.trajectory import trajectory
from workbench.errors import WorkbenchError
from workbench.page.build.page import Page, build, from_address
from workbench.page.build.panel import Panel, note_of, strip_of_result
from workbench.page.build.slot import asked, guarded
from workbench.page.session.arguments import ModelOf, ResidOf, TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.checkpoint_labels import amount, label
from workbench.page.session.code import code
from workbench.page.session.map_requests import MapRequest, all_maps, map_call
from workbench.page.session.offers import definition, keep
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.session.result_cache import ResultCache
from workbench.page.session.text_requests import checked_settings
from workbench.page.tabs import TABS, attribution, compare, hidden_states, training
from workbench.plots import plot, same_colours
from workbench.report import as_csv, report_of
from workbench.tokens import is_whole

SECOND = "w5 w17 w4 w42 w8 w5 w17 w3"
EACH, SITE, MEASURE = (
    next(iter(menu)) for menu in (attribution.DIRECT, attribution.PATCHED_SITES, attribution.MEASURES)
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory, make_model, tokenizer):
    bench = small_bench(tmp_path_factory.mktemp("series"), make_model, tokenizer, orders=["step10-order2"])
    lens = TunedLens(0.1 * torch.randn(4, 32, 32), torch.zeros(4, 32), bench.default)
    bench.lenses = (str(lens.save(tmp_path_factory.mktemp("lens"))),)
    return bench


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, cache):
    monkeypatch.setitem(trajectory.__kwdefaults__, "cache", cache)


@pytest.fixture
def tab_request(bench):
    return TabRequest(Query(bench.default, PROMPT, 1), Selection(token=4, layer=1, head=2))


def tuned(tab_request):
    return dataclasses.replace(tab_request, selection=dataclasses.replace(tab_request.selection, tuned=1))


def views(bench, tab_request):
    """The views of every panel of every tab for each entry of its menus, by name."""
    other, written = next(iter(bench.known)), (6, 0, 1, 0, 0)
    for measure in hidden_states.LENS:
        yield f"lens: {measure}", hidden_states.lens_view(bench, tab_request, measure)
        if measure != hidden_states.BOTH:
            yield f"lens: {measure} (tuned)", hidden_states.lens_view(bench, tuned(tab_request), measure)
    for state in hidden_states.STATES:
        yield f"states: {state}", hidden_states.states_view(bench, tab_request, state)
    for question in (("", ""), ("w9", "w10")):
        for direct in attribution.DIRECT:
            yield f"direct: {direct} {question}", attribution.direct_view(bench, tab_request, *question, direct)
        for method in attribution.ABLATIONS:
            yield f"ablation: {method} {question}", attribution.ablation_view(bench, tab_request, *question, method)
        for saliency in attribution.SALIENCIES:
            yield f"saliency: {saliency} {question}", attribution.saliency_view(bench, tab_request, *question, saliency)
        yield f"sources {question}", attribution.sources_view(bench, tab_request, *question)
        sites, measures = list(attribution.PATCHED_SITES), list(attribution.MEASURES)
        for site, measure in islice(zip(cycle(sites), cycle(measures)), max(len(sites), len(measures))):
            patching = attribution.patching_view(bench, tab_request, *question, SECOND, site, measure)
            yield f"patching: {site}, {measure} {question}", patching
    yield "text of A", compare.text_of_a(bench, tab_request, other, *written)
    yield "text of B", compare.text_of_b(bench, tab_request, other, *written)
    for part in compare.PARTS:
        yield f"text of B with {part}", compare.mixed_text(bench, tab_request, other, part, *written)
    for what in compare.BY_TOKEN:
        yield f"by token: {what}", compare.by_token_view(bench, tab_request, other, what)
        yield f"floor of {what}", compare.by_token_floor(bench, tab_request, other, what)
    for what in compare.DIFFERENCES:
        yield f"difference: {what}", compare.difference_view(bench, tab_request, other, what)
        yield f"floor of {what}", compare.difference_floor(bench, tab_request, other, what)
    for metric, axis in [
        *((metric, "step") for metric in training.METRICS if metric != training.ON_ROWS),  # its rows are not known
        *product(["held-out loss"], training.X_AXES),
    ]:
        if "tokens" not in axis:  # the small series has no token counts
            yield f"training: {metric}, {axis}", training.training_view(bench, tab_request, metric, axis, "w7 w8")


def calls(bench, tab_request):
    """The call of each view, by name."""
    for name, view in views(bench, tab_request):
        yield name, view.call
    yield "a head", map_call(MapRequest(bench.default, PROMPT, layer=1, head=2))
    yield "a layer by value", map_call(MapRequest(bench.default, PROMPT, layer=1, combine="mean", weigh="value"))
    yield "a difference", map_call(MapRequest(bench.default, PROMPT, other=next(iter(bench.known)), layer=1, head=2))


def test_streams_are_those_of_one_run_and_no_block_runs_twice(bench, monkeypatch):
    model = bench.load(bench.default)[0]
    monkeypatch.setattr(bench, "results", ResultCache(64, 10**9))  # other tests may have computed some of them
    whole = model.run(bench.read(bench.default, PROMPT).ids, capture="blocks.*.resid_pre")
    run, blocks = model.run, []
    monkeypatch.setattr(
        model, "run", lambda ids, **to: blocks.append((to["start_at_layer"], to["stop_at_layer"])) or run(ids, **to)
    )
    for layer in (2, 3, 1, 2):
        assert torch.equal(ResidOf(bench.default, PROMPT, layer).value(bench), whole[f"blocks.{layer}.resid_pre"])
    assert blocks == [(0, 1), (1, 2), (2, 3)]


def test_every_views_python_gives_the_same_numbers(bench, tab_request):
    for name, call in calls(bench, tab_request):
        shown, names = check_copied(call, bench, name)
        assert names["result"].table().columns.equals(shown.table().columns), name
        assert len(names["shown"]) == (call.show is not None), name


def test_every_result_says_where_it_comes_from_and_its_csv_is_exact(bench, tab_request, tmp_path):
    for name, call in calls(bench, tab_request):
        shown = result(call, bench)
        assert bench.default.split("@")[0] in shown.provenance["checkpoints"], name
        assert {"call", "torch", "transformers", "python"} <= set(shown.provenance), name
        kinds = {type(source) for source in call.needs()}
        assert (TokensOf in kinds) <= ("tokens" in shown.provenance) and (ModelOf in kinds) <= (
            "dtype" in shown.provenance
        )
        path = tmp_path / "view.csv"
        path.write_text(as_csv(report_of(shown)))
        lines = path.read_text().splitlines()
        read = pd.read_csv(path, skiprows=int(lines[0].split("skiprows=")[1].rstrip(")")))
        expected = shown.table().select_dtypes(np.float32)
        assert len(expected.columns) >= 1, name
        for column in expected:
            found = read[column].to_numpy(np.float32)
            assert np.array_equal(found, expected[column], equal_nan=True), (name, column)


def test_what_an_analysis_warns_of_stands_by_its_picture(bench, tab_request, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setitem(trajectory.__kwdefaults__, "cache", tmp_path / "file")
    view = training.training_view(bench, tab_request, "norm of the residual stream", next(iter(training.X_AXES)), "")
    with pytest.warns(UserWarning, match="not kept"):
        said = note_of(view, result(view.call, bench))
    assert said.startswith(view.note) and said.endswith("file cannot be written: the results are not kept.")


def test_files_are_named_after_what_they_hold(bench, tab_request):
    names = {name: call.file_name for name, call in calls(bench, tab_request)}
    assert all(re.fullmatch(r"[\w.-]{10,120}", name, re.ASCII) for name in names.values())
    series = bench.series_of(bench.default).rpartition("/")[2]
    assert all(name.startswith(f"{series}_") for name in names.values())
    of_lens = [name for shown, name in names.items() if shown.startswith("lens")]
    assert len(set(of_lens)) == len(of_lens) > 1
    request = MapRequest("tiny-olmo@step10", "w5", layer=2, head=1)
    assert map_call(request).file_name == "tiny-olmo_step10_attention_maps_L2H1"
    assert re.search(r"_head_sources_L\dH\d$", attribution.sources_view(bench, tab_request, "", "").call.file_name)
    assert all_maps("../é:x", "w5").file_name == "x_attention_maps"


def test_what_is_offered_for_download_is_bounded(bench, tab_request):
    for place in range(300):
        keep(bench, map_call(MapRequest(bench.default, f"w{place % 98 + 1} w{place // 98 + 1}")))
    assert len(bench.offered) == 256


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda b, d: hidden_states.lens_view(b, d, "no"), "no measure 'no'; choose from"),
        (lambda b, d: hidden_states.states_view(b, d, ["norm"]), r"no view \['norm'\]"),
        (lambda b, d: attribution.check_token(b, d, "w1 w2"), "'w1 w2' is 2 tokens"),
        (lambda b, d: attribution.direct_view(b, d, "w1 w2", "", EACH), "“Next token” cannot be used"),
        (lambda b, d: attribution.ablation_view(b, d, "", "", None), "no ablation None"),
        (lambda b, d: attribution.saliency_view(b, d, "", "", "no"), "no saliency 'no'"),
        (lambda b, d: attribution.patching_view(b, d, "", "", "", "mlp", "kl"), "no site 'mlp'"),
        (lambda b, d: compare.difference_view(b, d, "/etc", next(iter(compare.DIFFERENCES))), "no checkpoint '/etc'"),
        (lambda b, d: compare.by_token_view(b, d, b.default, 3), "no difference 3"),
        (lambda b, d: compare.mixed_text(b, d, b.default, "its soul", 6, 0, 1, 0, 0), "no part 'its soul'"),
        (lambda b, d: compare.text_of_a(b, d, b.default, float("nan"), 0, 1, 0, 0), "a whole number"),
        (lambda b, d: training.training_view(b, d, "no", "step", ""), "no metric 'no'"),
        (lambda b, d: training.training_view(b, d, "held-out loss", "time", ""), "no axis 'time'"),
        (lambda b, d: training.checkpoint_at(b, d, {}, float("nan")), "no checkpoint number nan"),
        (lambda b, d: training.clicked(b, d, {"point": 99}), "no checkpoint 99"),
        (lambda b, d: training.clicked(b, d, {}), "no checkpoint None"),
    ],
)
def test_bad_input_is_said(bench, tab_request, make, said):
    with pytest.raises(WorkbenchError, match=said):
        make(bench, tab_request)


def test_an_error_leaves_the_last_result(bench, tab_request):
    def broken(request, told):
        raise WorkbenchError("mend this")

    (shown,) = list(guarded(broken, 2, False)(type("Event", (), {"_data": None}), request=tab_request))
    assert shown[0] == "mend this"
    assert shown[1]["__type__"] == shown[2]["__type__"] == "update" and "value" not in shown[1]
    refusing = guarded(broken, 2, False, refused=[gr.skip(), asked(None)])
    (shown,) = list(refusing(type("Event", (), {"_data": None}), request=tab_request))
    assert "value" not in shown[1] and shown[2]["visible"] is False  # an older price is not offered any longer


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (lambda b, d: hidden_states.states_view(b, d, "principal components of a layer"), "0 tokens are left"),
        (lambda b, d: hidden_states.states_view(b, d, "similarity of layers (CKA)"), "have none left"),
        (
            lambda b, d: attribution.patching_view(b, d, "", "", "w5 w6", SITE, MEASURE),
            "“Second prompt” cannot be used",
        ),
        (lambda b, d: compare.by_token_view(b, d, b.default, next(iter(compare.BY_TOKEN))), "at least 2"),
        (lambda b, d: compare.difference_view(b, d, b.default, next(iter(compare.DIFFERENCES))), "at least 2"),
        (lambda b, d: training.training_view(b, d, next(iter(training.METRICS)), "step", ""), "at least 2"),
    ],
)
def test_a_prompt_of_one_token_is_refused_where_it_shows_nothing(bench, view, said):
    tab_request = TabRequest(Query(bench.default, "w5", 1), Selection())
    with pytest.raises(WorkbenchError, match=said):
        result(view(bench, tab_request).call, bench)


def test_a_prompt_of_one_token_is_shown_where_it_can_be(bench):
    tab_request = TabRequest(Query(bench.default, "w5", 1), Selection())
    for measure in [measure for measure in hidden_states.LENS if measure != hidden_states.BOTH]:
        assert result(hidden_states.lens_view(bench, tab_request, measure).call, bench).columns == ("w5",)
    assert result(attribution.direct_view(bench, tab_request, "", "", EACH).call, bench).values.shape == (4, 5)
    assert training.head_through_training(bench, tab_request, 1)[0]["texts"] == ["w5"]


def test_checkpoints_are_loaded_along_a_run_as_the_page_loads_them(tmp_path, make_model, tokenizer):
    """In the page's dtype, which differs from that of the files; comparisons of files read the files' dtype."""
    bench = small_bench(tmp_path, make_model, tokenizer, orders=["step10-order2"], dtype="bfloat16")
    tab_request = TabRequest(Query(bench.default, PROMPT, 1), Selection())
    call = training.training_view(bench, tab_request, "norm of the residual stream", "step", "").call
    model, ids = bench.load(bench.default)[0], bench.read(bench.default, PROMPT).ids
    norms = model.run(ids, capture="blocks.*.resid_post").stack("resid_post")[:, 0, 1:].float().norm(dim=-1).mean(-1)
    assert np.allclose(result(call, bench).values[-4:, -1], norms, rtol=1e-5)
    assert "loading=Loading(dtype='bfloat16')" in code(call, bench)
    floor = compare.difference_floor(bench, tab_request, bench.default, "weights by matrix and layer").call
    assert "lambda a, b: compare_weights(a, b)" in code(floor, bench)


def test_nothing_is_downloaded_unasked(bench, tab_request, monkeypatch):
    """If only the last checkpoint of a run is on this machine: a sentence; the others are fetched on request."""
    here, asked = {bench.default}, []
    for module in ("session.bench", "tabs.training"):
        monkeypatch.setattr(f"workbench.page.{module}.is_here", lambda checkpoint: checkpoint.id in here)
    monkeypatch.setattr(
        "workbench.page.tabs.training.locate", lambda checkpoint: here.add(checkpoint.id) or asked.append(1)
    )
    metric = "attention to the previous token"
    said = training.training_view(bench, tab_request, metric, "step", "")
    assert "1 of its 2 checkpoints are on this machine" in said
    assert "has no two final checkpoints" in compare.difference_floor(
        bench, tab_request, bench.default, "attention of each head"
    )
    assert training.checkpoint_at(bench, tab_request, {}, 2) == bench.default
    assert list(training.download_missing(bench, tab_request, 0)) == [1] and asked == [1]
    assert len(result(training.training_view(bench, tab_request, metric, "step", "").call, bench).x) == 2


def test_a_single_checkpoint_has_a_page_too(tmp_path, make_model, tokenizer):
    make_model("olmo2").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    alone = Bench(checkpoints.series(str(tmp_path)), 10**9)

    async def made():
        return build(alone, TABS)

    assert asyncio.run(made()).fns
    tab_request = TabRequest(Query(alone.default, PROMPT, 1), Selection())
    assert "it has only one checkpoint" in training.training_view(alone, tab_request, "held-out loss", "step", "")
    assert training.head_through_training(alone, tab_request, 2)[0]["checkpoint"] == alone.default


def test_a_long_run_is_thinned_and_its_python_names_what_is_shown(bench, tab_request, monkeypatch):
    monkeypatch.setattr("workbench.page.session.bench.MOST_OF_A_RUN", 2)
    whole = bench.main_run(bench.series_of(bench.default))
    longer = [whole[0], dataclasses.replace(whole[0], revision="step3", step=3), whole[1]]
    monkeypatch.setattr(type(bench), "main_run", lambda self, series: longer)
    call = training.training_view(bench, tab_request, "held-out loss", "step", "").call
    assert result(call, bench).x.tolist() == [0, 10]
    assert all(repr(one.id) in code(call, bench) for one in whole) and "step3" not in code(call, bench)


def test_a_selection_of_a_larger_model_is_brought_within_this_one(bench):
    tab_request = TabRequest(Query(bench.default, PROMPT, 1), Selection(token=99, layer=50, head=50))
    assert hidden_states.states_view(bench, tab_request, "principal components of a layer").call.arguments[-1] == 3
    sources = attribution.sources_view(bench, tab_request, "", "")
    (layer, head), strongest = dict(sources.call.options)["heads"][0], sources.pick.options[sources.pick.chosen]
    assert strongest == (f"L{layer}H{head}", {"layer": layer, "head": head}) and layer < 4 and head < 4
    assert result(sources.call, bench).values.shape == (1, 8)


def test_a_checkpoint_does_not_differ_from_itself(bench, tab_request):
    for what in compare.DIFFERENCES:
        found = result(compare.difference_view(bench, tab_request, bench.default, what).call, bench)
        still = found.values.diagonal() if what == "hidden states (CKA)" else found.values
        assert np.allclose(still, what == "hidden states (CKA)", atol=1e-4), what


def test_checkpoints_that_read_the_prompt_differently_are_not_compared(bench, monkeypatch):
    unread = TabRequest(Query(bench.default, "w61 w62 w63", 1), Selection())  # the tokens of prompts are kept
    other = next(iter(bench.known))
    tokenizer = bench.tokenizer

    def another(name):
        known = tokenizer(name)
        return (lambda text, **_: {"input_ids": known(text)["input_ids"][::-1]}) if name == other else known

    monkeypatch.setattr(bench, "tokenizer", another)
    with pytest.raises(WorkbenchError, match="tokenise this prompt differently"):
        compare.difference_view(bench, unread, other, next(iter(compare.DIFFERENCES)))


def test_a_series_without_other_data_orders_has_no_noise_floor_and_says_so(tmp_path, make_model, tokenizer):
    bench = small_bench(tmp_path, make_model, tokenizer)
    tab_request = TabRequest(Query(bench.default, PROMPT, 1), Selection())
    for floor, menu in ((compare.difference_floor, compare.DIFFERENCES), (compare.by_token_floor, compare.BY_TOKEN)):
        told = floor(bench, tab_request, bench.default, next(iter(menu)))
        assert isinstance(told, str) and told.startswith("No noise floor")


def test_a_noise_floor_is_the_most_that_finals_differ(bench, tab_request):
    what = "attention of each head"
    floor = result(compare.difference_floor(bench, tab_request, bench.default, what).call, bench)
    pair = [checkpoint.id for checkpoint in bench.finals(bench.series_of(bench.default))]
    assert len(pair) == 2 and bench.default in pair
    (other,) = set(pair) - {bench.default}
    assert np.allclose(
        floor.values, result(compare.difference_view(bench, tab_request, other, what).call, bench).values
    )


def test_a_noise_floor_has_the_colours_of_what_it_is_the_floor_of(bench, tab_request):
    """Also for signed differences, whose noise floors have no sign."""
    other, what = next(iter(bench.known)), "parts of A put into B, weights"
    shown, floor = (
        compare.difference_view(bench, tab_request, other, what),
        compare.difference_floor(bench, tab_request, other, what),
    )
    own, drawn = plot(result(shown.call, bench)), plot(result(floor.call, bench))
    coloured = same_colours(drawn, plot(result(floor.scale, bench)))
    for name in ("zmin", "zmax", "colorscale"):
        assert getattr(coloured.data[0], name) == getattr(own.data[0], name)
    floor = compare.by_token_floor(bench, tab_request, other, "loss of B − loss of A")
    assert strip_of_result(bench, floor.call, *(result(call, bench) for call in (floor.call, floor.scale)))["signed"]


def test_the_prompt_is_changed_where_that_moves_the_prediction_most(bench, tab_request):
    question = attribution.question_of(bench, tab_request, "", "")
    text, change = attribution.other_prompt(bench, tab_request, question)
    assert text != PROMPT and len(text.split()) == 8 and "in place of its first" in change
    own = bench.read(bench.default, PROMPT).model.run(question.opened.ids).logits[0, question.position].log_softmax(-1)

    def moved(ids):
        other = question.opened.model.run(torch.tensor([ids])).logits[0, question.position].log_softmax(-1)
        return float((own.exp() * (own - other)).sum())

    tried = attribution.exchanges(PROMPT, question)
    most = max(moved(ids) for ids, _, _ in tried)
    assert moved(bench.read(bench.default, text).ids[0].tolist()) == pytest.approx(most, abs=1e-4)


def test_a_panel_says_how_it_is_read_and_defined(bench, tab_request):
    async def made():
        with gr.Blocks():
            return Panel("plain"), Panel("strip", of_tokens=True)

    plain, strip = asyncio.run(made())
    for name, view in views(bench, tab_request):
        told = definition(view.call)
        assert view.note and told.startswith("workbench.") and len(told) > 100, (name, told)
    lens = hidden_states.lens_view(bench, tab_request, "entropy")
    figure, tools = plain.show(bench, lens)
    assert figure.layout.title.text is None and tools["title"] == "Entropy of the next token"
    assert tools["chooses"] == {"token": ("x", 0, 8), "layer": ("y", -1, 4)}
    floor = compare.by_token_floor(bench, tab_request, bench.default, next(iter(compare.BY_TOKEN)))
    shown, tools = strip.show(bench, floor)
    assert len(shown["texts"]) == 8 and shown["scores"][0] is None and "noise floor" in tools["title"]


def test_only_the_tab_in_sight_and_the_desk_are_due(bench):
    async def made():
        with gr.Blocks():
            page = Page(bench)
            page.add_desk()
            for tab in TABS:
                page.slot(tab.TITLE)
            return page

    page = asyncio.run(made())
    states, http = (Query(bench.default, ""), Selection(), "Attention"), request_of("one")
    asked = page._read_prompt(None, bench.default, PROMPT, False, "", "edited", *states, http)
    *dues, desk = asked[-len(TABS) - 1 :]
    assert [isinstance(one, TabRequest) for one in dues] == [tab.TITLE == "Attention" for tab in TABS]
    assert isinstance(desk, TabRequest)  # the rail and the inspector are always in sight
    refused = page._read_prompt(None, "nobody", PROMPT, False, "", "edited", *states, http)
    assert "no checkpoint 'nobody'" in refused[0] and not any(isinstance(one, TabRequest) for one in refused)


def test_a_checkpoint_is_called_as_people_say_it(bench):
    assert label(bench.known[bench.default]).endswith(" · step 10")
    assert [amount(n) for n in (12, 4_000, 24_576_000, 4_030_000_000_000)] == ["12", "4 k", "24.6 M", "4.03 T"]


def test_every_tab_says_how_it_is_read():
    assert len({tab.TITLE for tab in TABS}) == len(TABS)
    assert all(len(tab.HOW) > 60 and callable(tab.build) for tab in TABS)


@pytest.mark.parametrize("text", ["²", "٣", "9" * 5000, "nan", "inf", "1e400", "abc", ""])
def test_a_link_with_nonsense_empties_a_number_box_and_leaves_a_slider_alone(text):
    assert not is_whole(text)
    assert from_address(text, gr.Number(7)) is None
    assert "value" not in from_address(text, gr.Slider(1, 9))


def test_a_link_restores_numbers():
    texts = ("0", "0.8", "4294967295", "-5", "1e9")
    assert [from_address(text, gr.Number(7)) for text in texts] == [0.0, 0.8, 4294967295.0, -5.0, 1e9]
    assert [from_address(text, gr.Slider(1, 9)) for text in ("-4", "3", "999")] == [1.0, 3.0, 9.0]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ((-5, 0, 1, 0, 0), "Length is -5; it should be a whole number from 1 to 512"),
        ((None, 0, 1, 0, 0), "Length is empty; it should be a whole number from 1 to 512"),
        ((9, math.nan, 1, 0, 0), "Temperature is nan; it should be a number from 0 to 100"),
        ((9, 1, 7, 0, 0), "Top-p is 7; it should be a number from 1e-06 to 1"),
        ((9, 1, 1, 0, 10**25), "Seed is 1.*; it should be a whole number from 0"),
    ],
)
def test_a_setting_out_of_range_is_named_as_its_field(settings, told):
    with pytest.raises(WorkbenchError, match=told):
        checked_settings(settings)


def test_memory_that_runs_out_is_a_sentence():
    def full(request, told):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")

    ((said, _),) = guarded(full, 1, False)(type("Event", (), {"_data": None}), request="due")
    assert said.startswith("the device is out of memory: use a shorter prompt")


def test_copied_python_puts_tokens_where_the_model_is(bench, tab_request, monkeypatch):
    call = hidden_states.lens_view(bench, tab_request, next(iter(hidden_states.LENS))).call
    assert "device" not in code(call, bench)
    monkeypatch.setitem(bench.options, "device", "cuda")
    assert "device='cuda')" in code(call, bench) and "input_ids], device=model.device)" in code(call, bench)
