"""Sets of texts on the page: read by the reader of `Texts`, kept in memory, and their numbers are those of the set."""

import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from copied import run_copied
from headless import Headless, served
from pandas.testing import assert_frame_equal
from small_series import PROMPT, small_bench

from workbench.analyses.ablation import ablation
from workbench.analyses.directions import label_direction
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.linear_probe import linear_probe, misread, probe_layer
from workbench.analyses.steering import steering
from workbench.analyses.support.labels import halves
from workbench.analyses.text_overview import mean_losses, text_overview
from workbench.analyses.token_losses import token_losses
from workbench.analyses.trajectory import trajectory
from workbench.errors import WorkbenchError
from workbench.generation import steered_texts
from workbench.interventions import LabelContrast
from workbench.page.build.desk import heads
from workbench.page.guard import MOST_SET_BYTES, SET_ROUTE
from workbench.page.session import text_sets
from workbench.page.session.arguments import ModelOf, TextsOf, TokensOf
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call
from workbench.page.session.code import code
from workbench.page.session.edit_lines import checked_edits
from workbench.page.session.menus import SET
from workbench.page.session.prices import Expensive, directions_work, price_of
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.session.steered import (
    NEW_TOKENS,
    WRITTEN_AT,
    ChosenDirection,
    steering_call,
    telling_answers,
    written_call,
)
from workbench.page.session.text_sets import NO_LABELS, OWN, TextSets, format_of, named_set
from workbench.page.tabs import attribution, compare, hidden_states, training
from workbench.page.tabs import texts as tab
from workbench.texts import Texts

TEXTS = [f"w{n} w{n + 1} w{n % 3}" + " w7" * (n % 2) for n in range(1, 25)]
LABELS = ["odd" if n % 2 else "even" for n in range(1, 25)]
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(TEXTS, LABELS, strict=True))
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def bench(tmp_path_factory, make_model, tokenizer):
    return small_bench(tmp_path_factory.mktemp("series"), make_model, tokenizer)


@pytest.fixture(scope="module")
def client(bench):
    with served(bench) as client:
        yield client


def request_for(bench, name, **chosen):
    return TabRequest(Query(bench.default, PROMPT, 1), Selection(texts=name, **chosen))


@pytest.fixture
def own(bench):
    return bench.sets.add("mine.csv", CSV)


def test_the_sets_numbers_are_those_of_the_analysis(bench, own):
    model, tokenizer = bench.load(bench.default)
    texts = Texts.of(tokenizer, TEXTS, LABELS)
    request = request_for(bench, own.name)
    table = text_overview(model, texts, tokenizer=tokenizer)
    value, button = tab.set_table_view(bench, request)
    titles = [title for title, _ in value["columns"]]
    loss = [row[1 + titles.index("loss")] for row in value["rows"]]
    assert np.allclose(loss, table["loss"]) and [row[0] for row in value["rows"]] == list(range(24))
    assert [row[1 + titles.index("label")] for row in value["rows"]] == LABELS
    means, view = mean_losses(table), tab.means_view(bench, request)
    assert np.allclose(result(view.call, bench).values, means.values) and not button["visible"]
    assert (
        f"mine.csv (24 texts). Mean loss in nats ± standard error: all texts {means.values[0]:.3f}" in value["summary"]
    )
    probe = result(tab.probe_view(bench, request).call, bench)
    assert np.allclose(probe.values, linear_probe(model, texts).values)


def test_the_copied_python_reads_the_same_set(bench, own, tmp_path, monkeypatch):
    csv = tmp_path / "set.csv"
    csv.write_text(CSV)
    bench.sets._kept[str(csv)] = text_sets.read_set(str(csv), csv, "set.csv")
    for name in (own.name, str(csv)):
        for view in (tab.means_view, tab.probe_view):
            call = view(bench, request_for(bench, name)).call
            copied = run_copied(code(call, bench), name)["result"]
            assert np.allclose(copied.values, result(call, bench).values), name
    monkeypatch.setattr(text_sets, "WRITTEN_OUT", 10)  # too long to be written out: a file, and a note which
    call = tab.probe_view(bench, request_for(bench, own.name)).call
    assert "texts = Texts.read('mine.csv', tokenizer, label='label')  # your own set" in code(call, bench)


def test_both_tables_are_exported_in_full(bench, client, capsys):
    model, tokenizer = bench.load(bench.default)
    labels = LABELS[12:] + LABELS[13:] + LABELS[:1]  # of half of the texts the wrong ones, so that some are misread
    lines = [f"{text},{label}\n" for text, label in zip(TEXTS, labels, strict=True)]
    own = bench.sets.add("mine.csv", f"text,label\n{''.join(lines)}")
    request = request_for(bench, own.name, layer=0)
    whole = text_overview(model, Texts.of(tokenizer, TEXTS, labels), tokenizer=tokenizer)
    probe = probe_layer(model, Texts.of(tokenizer, TEXTS, labels), layer=0, folds=tab.FOLDS)
    assert probe.wrong
    views = tab.set_table_view(bench, request)[0], tab.wrong_view(bench, request)[0]
    for value, expected in zip(views, (whole, misread(probe)), strict=True):
        sent = client.get(f"data/export/{value['offer']['key']}.csv")
        assert sent.headers["Content-Disposition"].endswith(f'{value["offer"]["file"]}.csv"')
        skipped = int(re.search(r"skiprows=(\d+)", sent.text)[1])
        table = pd.read_csv(io.StringIO(sent.text), skiprows=skipped, keep_default_na=False, na_values=[""])
        assert_frame_equal(table, expected.reset_index(drop=True), rtol=1e-6)
        assert "# texts: mine.csv (24 texts)" in sent.text
        copied = run_copied(value["offer"]["code"], own.name)["result"]
        assert_frame_equal(copied, expected)
        assert capsys.readouterr().out.split()[: len(expected.columns)] == list(expected.columns)


def test_a_built_in_set_is_named_in_the_copied_python(bench):
    call = tab.probe_view(bench, request_for(bench, "tiny-olmo/language")).call
    assert "texts = Texts.read('tiny-olmo/language', tokenizer)\n" in code(call, bench)


def test_results_say_which_texts_they_are_of(bench, own):
    view = tab.probe_view(bench, request_for(bench, own.name))
    assert result(view.call, bench).provenance["texts"] == "mine.csv (24 texts)"
    assert "linear_probe" in view.call.file_name and OWN not in view.call.file_name


def test_what_the_probe_gets_wrong_is_what_it_predicts_otherwise(bench, own):
    value, _ = tab.wrong_view(bench, request_for(bench, own.name, layer=1))
    titles = [title for title, _ in value["columns"]]
    rows = [dict(zip(titles, cells, strict=True)) for _, *cells in value["rows"]]
    assert all(row["label"] != row["read as"] and row["probability of its label"] <= 0.5 for row in rows)
    right = float(re.search(r"After layer 1: (\d+) %", value["summary"])[1])
    assert math.isclose(right, 100 * (1 - len(rows) / 24), abs_tol=0.51)


def test_a_clicked_row_is_the_whole_text(bench, own):
    long = " ".join(["w5"] * 200)
    name = bench.sets.add("", f"{long}\n{HOSTILE}").name
    request = request_for(bench, name)
    value, _ = tab.set_table_view(bench, request)
    assert len(value["rows"][0][-1]) == tab.SHOWN and value["rows"][1][-1] == HOSTILE  # text_table.js sets textContent
    assert tab.clicked_text(bench, request, {"text": 0}) == long
    for number in (2, -1, None, "0"):
        with pytest.raises(WorkbenchError, match="has 2"):
            tab.clicked_text(bench, request, {"text": number})


def test_without_labels_it_says_what_is_missing(bench):
    name = bench.sets.add("", "w1 w2\nw3 w4\nw5").name
    request = request_for(bench, name)
    assert "no labels" in tab.probe_view(bench, request) and "no labels" in tab.means_view(bench, request)
    assert tab.wrong_view(bench, request)[0] == {}
    value, _ = tab.set_table_view(bench, request)
    assert value["rows"][2][3] is None and "label" not in [title for title, _ in value["columns"]]  # NaN is not JSON
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        ("w1 w2\nw3", ".txt"),
        ('{"text": "w1"}\n', ".jsonl"),
        ("text,label\nw1,a\n", ".csv"),
        ('label,"text"\na,w1\n', ".csv"),
        ("text", ".txt"),
        ("Some text, with a comma\nw1", ".txt"),
    ],
)
def test_the_format_of_a_pasted_text_is_recognised(content, ending):
    assert format_of(content) == ending


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"content": ""}, "holds no texts"),
        ({"content": "text,label\nw1\n"}, r"pasted.csv, line 2: 1 cells for the 2 columns text, label"),
        ({"content": '{"text": "w1"}\n{oops'}, r"pasted.jsonl, line 2: not JSON"),
        ({"content": CSV, "file": "a.csv", "label": "kind"}, r"a.csv, line 1: no column 'kind'; columns: text, label"),
        ({"content": CSV, "file": "a.csv", "text": "label", "label": "label"}, "both in the column"),
        ({"content": "w1", "file": "a.parquet"}, "cannot send parquet"),
        ({"content": "w1", "file": "a.docx"}, "a.docx is not a supported file of texts; supported: .csv"),
        ({"content": "x" * 1_000_001}, "the set has 1,000,001 bytes; the page takes at most 1,000,000"),
        ({"content": "w\n" * 10_001}, "more than 10,000 texts"),
        ({"content": "w1", "surplus": 1}, None),
    ],
)
def test_a_set_that_cannot_be_read_is_refused_with_its_line(client, bench, sent, said):
    reply = client.post(SET_ROUTE, json=sent)
    assert reply.status_code == 422
    assert said is None or re.search(said, reply.json()["detail"]), reply.text


def test_a_body_that_is_too_large_for_a_set_is_refused(client):
    assert client.post(SET_ROUTE, content=b"x" * (MOST_SET_BYTES + 1)).status_code == 413
    assert client.post("/data/text/offer", content=b"x" * 300_000).status_code == 413


def test_names_of_sets_are_checked(bench):
    for name in ("/etc/passwd", "tiny-olmo/number-pairs", "tiny-olmo/none", 3):
        with pytest.raises(WorkbenchError, match="no set of texts"):
            bench.sets.get(name)
    with pytest.raises(WorkbenchError, match="no longer in memory"):
        bench.sets.get(f"{OWN}0")


def test_only_the_most_recent_sets_are_kept(monkeypatch):
    monkeypatch.setattr(text_sets, "MOST_KEPT", 2)
    sets = TextSets()
    first, second = sets.add("", "w1"), sets.add("", "w2")
    sets.get(first.name)
    sets.add("", "w3")
    assert sets.get(first.name) is first
    with pytest.raises(WorkbenchError, match="no longer in memory"):
        sets.get(second.name)


def test_a_text_that_is_too_long_is_named(bench):
    name = bench.sets.add("", "w1\n" + "w2 " * 4097).name
    with pytest.raises(WorkbenchError, match=r"text 2 of pasted\.txt has 4,097 tokens; this model takes at most 4,096"):
        bench.texts(bench.default, name)


def test_a_set_named_at_start_is_the_default(tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "w1 w2", "kind": "a"}))
    found = named_set(str(tmp_path / "mine.jsonl"), "prompt", "kind")
    sets = TextSets(found)
    assert sets.get("") is found and sets.choices()[0]["sets"][0][0] == found.name
    assert found.code("tokenizer") == f"Texts.read({found.name!r}, tokenizer, text='prompt', label='kind')"
    assert named_set("tiny-olmo/place").labels is not None
    with pytest.raises(WorkbenchError, match="cannot be read"):
        named_set(str(tmp_path / "none.csv"))


def test_a_sent_set_is_shown_and_a_row_becomes_the_prompt(bench, client):
    name = client.post(SET_ROUTE, json={"content": CSV}).json()["name"]
    page = Headless(client, "sets", "tab=Texts")
    page.open()
    page.fire("sets", "choose", {"texts": name})
    assert page.value("set-table")["rows"][0][-1] == TEXTS[0] and page.failed == []
    page.fire("set-table", "open", {"text": 4})
    assert page.value("prompt") == TEXTS[4]
    assert len(page.value("spine")["texts"]) == 4 and page.failed == []


def test_a_link_opens_a_named_set_and_says_what_is_wrong_with_another(bench, client):
    page = Headless(client, "linked", "tab=Texts&set=tiny-olmo/nothing")
    page.open()
    assert "no set of texts 'tiny-olmo/nothing'" in " ".join(
        value for value in page.values.values() if isinstance(value, str)
    )


def test_the_direction_is_that_of_the_command_and_leaves_out_its_prompts(bench, own):
    model, tokenizer = bench.load(bench.default)
    texts = Texts.of(tokenizer, TEXTS, LABELS)
    made_of, prompts = halves(texts, "odd", "even")
    assert len(made_of) == len(prompts) == 12 and not {*map(str, made_of)} & {*map(str, prompts)}
    direction = label_direction(model, made_of, "odd", "even", layer=1)
    answer, instead = (tokenizer(word).input_ids[0] for word in ("w9", "w10"))
    found = steering(model, prompts, direction, [answer], [instead])
    request, boxes = request_for(bench, own.name, layer=1), ("odd", "", "w9", "w10")
    for effect, (measure, _) in tab.EFFECTS.items():
        if measure == "loss":
            continue
        view = tab.steering_view(bench, request, effect, "the selected layer", *boxes)
        assert np.allclose(result(view.call, bench).values, found[measure].values, atol=1e-6), effect
    copied = run_copied(code(view.call, bench), "steering")["result"]
    assert np.allclose(copied.values, result(view.call, bench).values, atol=1e-6)


def test_texts_written_with_the_direction_stand_beside_those_with_a_random_one(bench, own, client):
    model, tokenizer = bench.load(bench.default)
    direction = label_direction(model, halves(Texts.of(tokenizer, TEXTS, LABELS), "odd", "even")[0], "odd", layer=1)
    ids = bench.tokens(bench.default, PROMPT)
    how = {"max_new_tokens": NEW_TOKENS, "controls": 1, "tokenizer": tokenizer}
    grid = steered_texts(model, ids, direction, WRITTEN_AT, **how)
    request = request_for(bench, own.name, layer=1)
    value, about, button = tab.written_view(bench, request, "the selected layer", "odd", "")
    strengths, steered, _, random, surprisals = zip(*(cells for _, *cells in value["rows"]), strict=True)
    assert strengths == WRITTEN_AT and steered == (*grid.text[0],) and random == (*grid.text[1],)
    assert steered[2] == random[2] and np.allclose(surprisals, grid.values[1], atol=1e-5)
    assert "'odd' minus 'even' after layer 1" in about["note"] and not button["visible"]
    copied = run_copied(about["code"], "written")["result"]
    assert np.array_equal(copied.text, grid.text)
    assert "steered_texts" in client.get(f"data/export/{about['key']}.html").text
    edited = replace(request, query=replace(request.query, edits="L0H0 off"))
    assert tab.written_view(bench, edited, "the selected layer", "", "")[1]["note"].endswith(" With L0H0 off.")
    bare = bench.sets.add("", "w1 w2\nw3 w4").name
    assert tab.written_view(bench, request_for(bench, bare), *(next(iter(tab.LAYERS)), "", ""))[1]["note"] == NO_LABELS


def test_the_direction_is_offered_as_an_edit_of_the_page(bench, own):
    request, effect = request_for(bench, own.name, layer=1), next(iter(tab.EFFECTS))
    view = tab.steering_view(bench, request, effect, "the selected layer", "odd", "", "w9", "w10")
    assert view.edit == f"+1 label {own.name}/odd at layer 1"
    opened = bench.read(bench.default, PROMPT)
    assert checked_edits(bench, opened, view.edit.replace("+1", "+ 3")) == view.edit.replace("+1", "+3")
    with pytest.raises(WorkbenchError, match=r"no set of texts|is not an edit"):
        checked_edits(bench, opened, "+1 label /etc/passwd/x at layer 1")
    model, tokenizer = bench.load(bench.default)
    direction = label_direction(model, Texts.of(tokenizer, TEXTS, LABELS), "odd", layer=1)
    edited = Call.of(token_losses, ModelOf(bench.default, view.edit), TokensOf(bench.default, PROMPT))["loss"]
    with model.tapped(edits=direction.edit()):
        wanted = token_losses(model, opened.ids)["loss"].values
    np.testing.assert_allclose(result(edited, bench).values, wanted, atol=1e-5)
    copied = run_copied(code(edited, bench), "edited")["result"]
    np.testing.assert_allclose(copied.values, wanted, atol=1e-5)


def test_the_direction_of_the_probe_is_offered_as_an_edit_which_states_its_price(bench, own):
    request = request_for(bench, own.name, layer=1)
    view = tab.probe_view(bench, request)
    assert view.edit == f"+1 probe {own.name}/odd at layer 1"  # of the first label
    assert re.search(
        r"to all tokens that the model then reads or writes.* takes about [\d.]+ s the first time", view.note
    )
    model, tokenizer = bench.load(bench.default)
    direction = probe_layer(model, Texts.of(tokenizer, TEXTS, LABELS), layer=1).direction("odd")
    call = Call.of(token_losses, ModelOf(bench.default, view.edit), TokensOf(bench.default, PROMPT))["loss"]
    before = price_of(bench, call), price_of(bench, call.unedited)
    with model.tapped(edits=direction.edit()):
        wanted = token_losses(model, bench.tokens(bench.default, PROMPT))["loss"].values
    np.testing.assert_allclose(result(call, bench).values, wanted, atol=1e-5)
    np.testing.assert_allclose(run_copied(code(call, bench), "probed")["result"].values, wanted, atol=1e-5)
    twice = ModelOf(bench.default, view.edit.replace("+1", "-2"))
    assert before[0].seconds > before[1].seconds and directions_work(bench, [twice]).flops == 0  # kept


@pytest.mark.parametrize("written", [False, True])
def test_the_price_of_finding_the_layer_includes_what_follows(tmp_path, make_model, tokenizer, written):
    new = small_bench(tmp_path, make_model, tokenizer)
    request, new.asks_above = request_for(new, new.sets.add("mine.csv", CSV).name), 0.0
    probe = price_of(new, tab.probe_call(request)).seconds
    chosen = ChosenDirection("odd", "even", new.shape_of(new.default)[0] - 1)
    after = written_call(request, chosen) if written else steering_call(request, chosen, (0, 1), "answers")
    with pytest.raises(Expensive) as raised:
        tab.chosen_direction(new, request, next(iter(tab.LAYERS)), "", "", lambda _: after, None)
    assert raised.value.price.seconds > probe
    assert raised.value.price.seconds == pytest.approx(price_of(new, tab.probe_call(request), after).seconds)


def test_labels_that_no_line_can_hold_are_not_offered(bench):
    rows = "".join(f"{text},{label}/x\n" for text, label in zip(TEXTS, LABELS, strict=True))
    found = bench.sets.add("slashes.csv", f"text,label\n{rows}")
    texts = bench.texts(bench.default, found.name)
    contrast = LabelContrast(found.name, "odd/x", None, texts)
    assert tab.label_edit(bench, bench.default, "label", contrast, "layer 1") == ""
    three = bench.sets.add("three.csv", "text,label\nw1,a\nw2,b\nw3,c\n")
    contrast = LabelContrast(three.name, "a", "c", texts)
    line = tab.label_edit(bench, bench.default, "label", contrast, "the embedding")
    assert line == f"+1 label {three.name}/a against c at the embedding"


def test_without_typed_answers_they_are_those_by_which_the_labels_differ_most(bench, own):
    request = request_for(bench, own.name)
    toward, against = telling_answers(bench, request, ChosenDirection("odd", "even", 1))
    model, tokenizer = bench.load(bench.default)
    half = halves(Texts.of(tokenizer, TEXTS, LABELS), "odd", "even")[0].by_label()
    chances = {
        label: np.mean([model.run(ids[None]).logits[0, -1].softmax(-1).numpy() for ids in some], axis=0)
        for label, some in half.items()
    }
    difference = chances["odd"] - chances["even"]
    assert (toward, against) == (difference.argmax(), difference.argmin())
    view = tab.steering_view(bench, request, *(next(iter(menu)) for menu in (tab.EFFECTS, tab.LAYERS)), *4 * [""])
    assert result(view.call, bench).lines[0] == "direction" and "'odd' minus that of 'even'" in view.note


def test_ablation_and_training_are_means_over_the_set(bench, own, monkeypatch, tmp_path):
    monkeypatch.setitem(trajectory.__kwdefaults__, "cache", tmp_path)
    model, tokenizer = bench.load(bench.default)
    texts, request = Texts.of(tokenizer, TEXTS, LABELS), request_for(bench, own.name)
    view = attribution.ablation_view(bench, request, "", "", "replaced by zeros", SET)
    expected = ablation(model, texts, method="zero")["loss"]
    shown = result(view.call, bench)
    assert np.allclose(shown.values, expected.values) and np.allclose(shown.errors, expected.errors)
    view = training.training_view(bench, request, "held-out loss", "step", "", 0, SET)
    loss = float(mean_losses(text_overview(model, texts)).values[0])
    assert result(view.call, bench).values[0, -1] == pytest.approx(loss, rel=1e-5) and "mine.csv" in view.note
    for metric in set(training.METRICS) - {training.ON_ROWS}:  # its rows are not known
        view = training.training_view(bench, request, metric, "step", "w7", 0, SET)
        of_set = any(isinstance(needed, TextsOf) for needed in view.call.needs())
        assert of_set == ("24 texts" in view.note) != ("does not depend on the set" in view.note), metric
        result(view.call, bench)


def test_labels_are_read_along_training(bench, own):
    """The last checkpoint has the accuracies of the tab Texts; a set without labels says so."""
    request = request_for(bench, own.name)
    call = training.training_view(bench, request, "labels of the set, read by a probe", "step", "").call
    curves, last = result(call, bench), result(tab.probe_view(bench, request).call, bench)
    assert curves.values.shape[0] == last.values.shape[1] and np.allclose(curves.values[:, -1], last.values[0])
    assert np.allclose(run_copied(code(call, bench), "probe")["result"].values, curves.values)
    plain = bench.sets.add("plain.txt", "\n".join(TEXTS))
    said = training.training_view(
        bench, request_for(bench, plain.name), "labels of the set, read by a probe", "step", ""
    )
    assert said == NO_LABELS


def test_scores_of_the_rail_are_means_over_the_set_with_their_errors(bench, own):
    model, tokenizer = bench.load(bench.default)
    texts, request = Texts.of(tokenizer, TEXTS, LABELS), replace(request_for(bench, own.name), agreed=True)
    *_, (rail, card, _, told) = heads(bench, request, SET)
    expected = head_atlas(model, texts, samples=0)
    assert rail is card and told == "Scores: mean over mine.csv (24 texts). Maps: this prompt."
    assert np.allclose(rail["orders"]["previous"], expected["previous"].values.ravel())
    assert np.allclose(rail["errors"]["previous"], expected["previous"].errors.ravel())
    *_, (rail, _, _, told) = heads(bench, request)
    assert rail["errors"] == {} and told == ""
    json.dumps(rail, allow_nan=False)


def test_hidden_states_are_of_the_set_where_an_analysis_takes_one(bench, own):
    request = request_for(bench, own.name, layer=1)
    for state, (what, _) in hidden_states.STATES.items():
        view = hidden_states.states_view(bench, request, state, SET)
        of_set = any(isinstance(needed, TextsOf) for needed in view.call.needs())
        assert of_set == (what in hidden_states.OF_SETS) == ("24 texts" in view.note), state
        assert of_set != ("shows a single text" in view.note), state
        result(view.call, bench)


def test_two_checkpoints_are_compared_over_the_set(bench, own):
    first = next(iter(bench.known))
    call = compare.set_view(bench, request_for(bench, own.name), first).call
    shown = dict(zip(result(call, bench).names, result(call, bench).values, strict=True))
    losses = [
        mean_losses(text_overview(bench.load(name)[0], bench.texts(name, own.name))).values[0]
        for name in (first, bench.default)
    ]
    assert (shown["loss of A"], shown["loss of B"]) == pytest.approx(losses, rel=1e-5)
    assert np.allclose(run_copied(code(call, bench), "compared")["result"].values, result(call, bench).values)


def test_an_expensive_set_waits_for_a_click(bench, own, monkeypatch):
    monkeypatch.setattr(bench, "asks_above", 0.0)
    request = request_for(bench, bench.sets.add("", "w11 w12 w13\nw14 w15").name)
    value, button = tab.set_table_view(bench, request)
    assert value == {"summary": "pasted.txt (2 texts)"} and button["visible"] and "Compute (" in button["value"]
    value, button = tab.set_table_view(bench, replace(request, agreed=True))
    assert len(value["rows"]) == 2 and not button["visible"]


def test_a_set_with_too_few_texts_of_a_label_is_steered_and_not_probed(bench):
    name = bench.sets.add("", "text,label\nw1 w2,a\nw3 w4,b\nw5 w6,a\nw7 w8,b\n").name
    request = request_for(bench, name, layer=2)
    assert tab.wrong_view(bench, request)[0] == {}
    with pytest.raises(WorkbenchError, match="label 'a' has 2 texts; with 5 folds each label needs at least 5"):
        result(tab.probe_view(bench, request).call, bench)
    first = (next(iter(menu)) for menu in (tab.EFFECTS, tab.LAYERS))
    view = tab.steering_view(bench, request, *first, "b", "", "w9", "w10")
    assert "after layer 2" in view.note and "'b' minus that of 'a'" in view.note  # the selected one
    assert result(view.call, bench).values.shape == (4, 9)
    for labels, said in ((("c", "a"), "no text has the label 'c'"), (("a", "a"), "both labels are 'a'")):
        with pytest.raises(WorkbenchError, match=said):
            tab.steering_view(
                bench, request, *(next(iter(menu)) for menu in (tab.EFFECTS, tab.LAYERS)), *labels, "", ""
            )
