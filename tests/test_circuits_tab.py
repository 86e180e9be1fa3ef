"""The tab Circuits: its graph and proof show the numbers of the analyses; what is asked for twice is computed once."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from copied import run_copied
from random_transcoders import transcoders
from small_series import PROMPT, small_bench

from workbench import TextPairs, checkpoints, circuit, embedded_texts, faithfulness, features, metrics, trajectory
from workbench.errors import WorkbenchError
from workbench.page.build.field import FieldError
from workbench.page.session import circuit_along_run, circuit_graphs, circuit_requests, prompt_graphs
from workbench.page.session.cached_results import report_of_call, result
from workbench.page.session.circuit_along_run import HIGHEST, needed
from workbench.page.session.circuit_graphs import PROVED, circuit_frames
from workbench.page.session.circuit_proofs import Proofs, exact_edge, more_edges, whole_curve
from workbench.page.session.circuit_requests import MOST_DRAWN, CircuitChoice, circuit_call, proof_call
from workbench.page.session.code import code
from workbench.page.session.feature_graphs import circuit_tracer_json, edges_csv, graph_call
from workbench.page.session.prices import Expensive, Price
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.session.result_cache import ResultCache
from workbench.page.tabs import circuits as tab
from workbench.report import as_csv, as_html
from workbench.results import Curves

PAIRS, MEASURE = "repeat-pairs", "logit difference"
HEADS, NEURONS, FEATURES = circuit_requests.OF
CHOSEN = CircuitChoice(PAIRS, MEASURE)
ROWS = [
    {"clean": "w1 w2 w3 w1", "corrupted": "w1 w4 w3 w1", "answer": " w2", "other": " w4"},
    {"clean": "w5 w6 w7 w5", "corrupted": "w5 w8 w7 w5", "answer": " w6", "other": " w8"},
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory, make_model, tokenizer):
    folder = tmp_path_factory.mktemp("texts")
    (folder / f"{PAIRS}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded_texts, "FOLDER", folder)
        patch.setitem(trajectory.__kwdefaults__, "cache", None)
        yield small_bench(tmp_path_factory.mktemp("series"), make_model, tokenizer)


@pytest.fixture
def request_of(bench, monkeypatch):
    monkeypatch.setattr(bench, "results", ResultCache(64, 10**8))
    return TabRequest(Query(bench.default, PROMPT, 1), Selection())


@pytest.fixture(scope="module")
def by_hand(bench):
    """The model, and the pairs as arguments."""
    model, tokenizer = bench.load(bench.default)
    pairs = TextPairs.read(f"tiny-olmo/{PAIRS}", tokenizer)
    return model, (pairs.clean, pairs.corrupted, pairs.answers, pairs.others), {"tokenizer": tokenizer}


def last(bench, request, proofs=None, measure=MEASURE):
    """The last frame of the graph."""
    return list(circuit_frames(bench, request, CircuitChoice(PAIRS, measure), proofs))[-1]


def test_the_graph_holds_the_scores_of_the_analysis_and_its_first_proof(bench, request_of, by_hand):
    model, pairs, options = by_hand
    first, (value, price, drawn) = list(circuit_frames(bench, request_of, CHOSEN))
    assert first.value["proof"] == [] and price is None and first.key == drawn == value["key"]
    found = circuit(model, *pairs, **options)
    assert value["every"] == len(found.names) and value["effect"] == found.effect and value["unit"] == "logits"
    names, scores, errors, exact = zip(*value["edges"], strict=True)
    assert list(names) == list(found.top(len(names)).names)
    np.testing.assert_array_equal(scores, found.top(len(names)).values)
    assert len(errors) == sum(error is not None for error in errors)
    np.testing.assert_array_equal(exact[:20], found.top(20).exact)
    assert set(exact[20:]) == {None}
    proof = faithfulness(model, found, *pairs, **options, sizes=[PROVED])
    row = next(row for row in value["proof"] if row[0] == PROVED)
    shares = proof.values[:, 1].tolist()
    wanted = [PROVED, shares[0], proof.errors[0, 1], *shares[1:3], proof.deviation[1], *shares[3:]]
    assert row[:-1] == pytest.approx(wanted) and row[-1] == proof.connected[1]
    assert json.loads(json.dumps(value)) == value  # no NaN


def test_clicks_add_proofs_of_this_circuit_only(bench, request_of, by_hand):
    model, pairs, options = by_hand
    proofs = more_edges(bench, request_of, {"edges": 7}, HEADS, PAIRS, MEASURE, Proofs())
    proofs = more_edges(bench, request_of, {"edges": 9}, HEADS, PAIRS, MEASURE, proofs)
    assert [row[0] for row in last(bench, request_of, proofs)[0]["proof"]][1:3] == [7, 9]
    other = last(bench, request_of, proofs, "probability")[0]
    assert not {7, 9} & {row[0] for row in other["proof"]} and other["unit"] == ""

    weak = circuit(model, *pairs, **options).top(30).names[-1]
    proofs = exact_edge(bench, request_of, {"edge": weak}, HEADS, PAIRS, MEASURE, proofs)
    row = next(row for row in last(bench, request_of, proofs)[0]["edges"] if row[0] == weak)
    patched = circuit(model, *pairs, **options, exact=[weak])
    assert row[3] == patched.exact[patched.names.index(weak)] and np.isfinite(patched.exact).sum() == 1

    proofs = whole_curve(bench, request_of, {}, HEADS, PAIRS, MEASURE, proofs)
    value = last(bench, request_of, proofs)[0]
    whole = result(proof_call(request_of, CHOSEN), bench)
    assert {row[0] for row in value["proof"]} == {7, 9, *whole.x.astype(int).tolist()} and "curve" not in value[
        "prices"
    ]
    assert "Faithfulness" in type(whole).__name__ and value["curve"]["key"] in bench.offered

    for data, words in (({"edges": "7"}, "no circuit of '7' edges"), ({"edges": 0}, "no circuit of 0 edges")):
        with pytest.raises(WorkbenchError, match=words):
            more_edges(bench, request_of, data, HEADS, PAIRS, MEASURE, proofs)
    with pytest.raises(WorkbenchError, match="no edge None"):
        exact_edge(bench, request_of, {}, HEADS, PAIRS, MEASURE, proofs)
    with pytest.raises(WorkbenchError, match="no edge 'L9H9' in this model"):
        last(bench, request_of, replace(proofs, edges=("L9H9",)))
    with pytest.raises(WorkbenchError, match="no set of pairs 'mine'; choose from repeat-pairs, number-pairs"):
        list(circuit_frames(bench, request_of, CircuitChoice("mine", MEASURE)))


def test_an_expensive_circuit_states_its_price(bench, request_of, monkeypatch):
    price = Price(120.0, 120.0, 0.0)

    def refuse(*_, **__):
        raise Expensive(price)

    monkeypatch.setattr(circuit_graphs, "agree", refuse)
    (value, button, drawn), *more = list(tab.graph_view(bench, request_of, HEADS, PAIRS, "whole prediction (KL)"))
    assert more == [] and drawn == "" and "edges" not in value and "48 pairs" in value["empty"]
    assert (value["layers"], value["heads"]) == bench.shape_of(request_of.query.checkpoint)  # the nodes that are drawn
    assert button["visible"] and str(price) in button["value"]


def test_the_copied_python_gives_the_same_numbers(bench, request_of):
    for call in (circuit_call(request_of, CHOSEN), proof_call(request_of, CHOSEN, (5,))):
        source = code(call, bench)
        assert f"pairs = TextPairs.read('tiny-olmo/{PAIRS}', tokenizer)" in source
        names = run_copied(source)
        np.testing.assert_array_equal(names["result"].values, result(call, bench).values)
        assert "pairs" in result(call, bench).provenance
        assert len(as_csv(report_of_call(call, bench)).splitlines()) > 10


SCORES, SHARES = tab.ASSEMBLY


def agreed(bench, request):
    """The same request with an agreement to prices, and the key of the circuit, which is computed."""
    key = last(bench, request)[2]
    return replace(request, agreed=True), key


def test_the_assembly_waits_for_a_click_and_then_shows_the_numbers_of_the_analysis(bench, request_of, by_hand):
    request, key = agreed(bench, request_of)
    assert tab.assembly_view(bench, request, HEADS, PAIRS, MEASURE, "", SCORES) == tab.FOR_CIRCUIT
    with pytest.raises(Expensive) as asked:
        tab.assembly_view(bench, request_of, HEADS, PAIRS, MEASURE, key, SCORES)
    assert 0 < asked.value.price.seconds < 100
    assert tab.graph_along_training(bench, request_of, HEADS, PAIRS, MEASURE, key, 1) == [{}, {}]

    steps: list[float] = []
    view = tab.assembly_view(
        bench, request, HEADS, PAIRS, MEASURE, key, SCORES, progress=lambda fraction, _: steps.append(fraction)
    )
    assert steps == sorted(steps) and steps[-1] == 1
    shares = tab.assembly_view(bench, request_of, HEADS, PAIRS, MEASURE, key, SHARES)  # nothing is left to agree to
    assert shares.note.startswith(view.note) and "Not drawn where" in shares.note

    options = by_hand[2]
    series, pairs = checkpoints.series(bench.series_of(bench.default)), TextPairs.read(f"tiny-olmo/{PAIRS}", **options)
    scores = trajectory(series, metrics.edge_scores(pairs, **options), cache=None)
    found = result(view.call, bench)
    assert found.lines == metrics.strongest_lines(scores, 8).lines and found.log_x
    np.testing.assert_array_equal(found.values, metrics.strongest_lines(scores, 8).values)

    player, value = tab.graph_along_training(bench, request_of, HEADS, PAIRS, MEASURE, key, 1)
    assert player["names"] == value["along"]["names"] and len(player["names"]) == 2 and player["at"] == 1
    np.testing.assert_array_equal(value["along"]["scores"], scores.values.T)
    assert [edge for edge, *_ in value["edges"]] == list(scores.lines) and value["every"] == len(scores.lines)
    assert value["unit"] == "logits" and set(value["along"]) == {"slider", "at", "names", "scores", "edges"}
    assert json.loads(json.dumps(value)) == value  # no NaN


def test_the_copied_python_of_the_assembly_gives_the_same_numbers(bench, request_of):
    request, key = agreed(bench, request_of)
    for of in (SCORES, SHARES):
        call = tab.assembly_view(bench, request, HEADS, PAIRS, MEASURE, key, of).call
        names = run_copied(code(call, bench))
        np.testing.assert_array_equal(names["result"].values, result(call, bench).values)
        assert "pairs" in result(call, bench).provenance
        assert len(as_csv(report_of_call(call, bench)).splitlines()) > 8


def test_more_edges_than_can_be_drawn_are_not_followed(bench, request_of, monkeypatch):
    monkeypatch.setattr(circuit_along_run, "MOST_DRAWN", 100)
    request, key = agreed(bench, request_of)
    _, value = tab.graph_along_training(bench, request, HEADS, PAIRS, MEASURE, key, 99)
    assert len(value["edges"]) == PROVED < value["every"] and value["along"]["at"] == 2


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (
            [np.nan, 0.1, 0.9, 0.8],
            "Needed from step 200 on: there the 60 best edges (not the number on the slider) alone keep 0.90 of ",
        ),
        (
            [np.nan, 0.1, 0.9, 0.1],
            "Not above random circuits at the last checkpoint: there the 60 best edges (not the number",
        ),
        ([0.9, 0.9, 0.9, np.nan], "At the last checkpoint the effect of all edges is too small to divide by it."),
    ],
)
def test_a_sentence_says_from_which_step_the_circuit_is_needed(own, words):
    rest = [[0.0] * 4, [-0.001] * 4, [0.2] * 4]
    lines = ["the circuit", "all other edges", "random edges", HIGHEST]
    said = needed(Curves([own, *rest], lines, [0, 100, 200, 300]), 60)
    assert said.startswith(words) and ("too small" in said or said.endswith("keep 0.00, at most 0.20."))


@pytest.fixture(scope="module")
def folders(bench, tmp_path_factory):
    """Folders of transcoders of the bench's default checkpoint, by the name of their layer."""
    model, root = bench.load(bench.default)[0], tmp_path_factory.mktemp("transcoders")
    found = {}
    for name, one in transcoders(model).items():
        features.save(replace(one, model=bench.default), root / name)
        found[name] = str(root / name)
    return found


@pytest.fixture
def graph_request(bench, request_of, folders, monkeypatch):
    monkeypatch.setattr(bench, "dictionaries", tuple(folders.values()))
    return request_of


def of_features(bench, request, proofs=None):
    """All values of the graph of features."""
    return [value for value, *_ in tab.graph_view(bench, request, FEATURES, PAIRS, MEASURE, proofs)]


def test_the_graph_of_features_holds_the_numbers_of_the_analysis(bench, graph_request, folders):
    first, value = of_features(bench, graph_request)
    model, tokenizer = bench.load(bench.default)
    loaded = {path: features.load(path) for path in folders.values()}
    found = features.attribution_graph(model, bench.tokens(bench.default, PROMPT), loaded, tokenizer=tokenizer)
    assert first["checked"]["nodes"] == 0 and first["key"] == value["key"] and first["edges"] == value["edges"]
    edges = found.strongest_edges(MOST_DRAWN)
    names, influence, direct, share = zip(*value["edges"], strict=True)
    assert list(names) == (edges["source_name"] + " → " + edges["target_name"]).tolist()
    np.testing.assert_allclose(np.abs(influence), edges["influence"])
    np.testing.assert_allclose(direct, edges["value"], rtol=1e-5)
    assert (np.sign(influence) == np.sign(direct)).all() and share == pytest.approx(edges["share"])
    assert {end for name in names for end in name.split(" → ")} <= set(value["nodes"])

    table = found.table().set_index("name")
    for name, node in value["nodes"].items():
        row = table.loc[name]
        assert (node["kind"], node["layer"], node["position"]) == (row["kind"], row["layer"], row["position"])
        assert node["verdict"] == row["verdict"]
        if row["verdict"]:
            assert node["measured"] == pytest.approx(row["measured"], rel=1e-4, abs=1e-5)
        if node["kind"] == "feature":
            assert node["dictionary"] == found.transcoders[node["layer"]] and node["meaning"].startswith("raises ")
            assert node["feature"] == row["feature"]
    counts = found.verdicts.value_counts()
    assert value["checked"]["nodes"] == 20 == sum(value["checked"][name] for name in counts.index if name)
    assert value["checked"]["correlation"] == pytest.approx(found.agreement, abs=1e-4)
    assert json.loads(json.dumps(value)) == value and value["more"] == 40


def test_the_graph_explains_the_tokens_that_are_typed(bench, graph_request, folders):
    model, tokenizer = bench.load(bench.default)
    tokens = bench.tokens(bench.default, PROMPT)
    likeliest = int(model.run(tokens).logits[0, -1].argmax())
    loaded = {path: features.load(path) for path in folders.values()}
    for typed, targets in ((("w7", ""), (7,)), (("w7", "w9"), (7, 9)), (("", "w9"), (likeliest, 9))):
        *_, (value, _, _) = tab.graph_view(bench, graph_request, FEATURES, PAIRS, MEASURE, Proofs(), *typed)
        found = features.attribution_graph(model, tokens, loaded, *targets, checks=0, tokenizer=tokenizer)
        assert value["title"] == found.title
        (logit,) = [node["text"] for node in value["nodes"].values() if node["kind"] == "logit"]
        assert logit == found.logits[0]
        np.testing.assert_allclose([row[2] for row in value["edges"]], found.strongest_edges(MOST_DRAWN)["value"])
    with pytest.raises(FieldError, match="“Next token” cannot be used"):
        list(tab.graph_view(bench, graph_request, FEATURES, PAIRS, MEASURE, Proofs(), "two words"))


def test_clicks_take_more_nodes_away(bench, graph_request):
    *_, before = of_features(bench, graph_request)
    weak = next(name for name, node in before["nodes"].items() if node["verdict"] == "" and node["effect"])
    proofs = exact_edge(bench, graph_request, {"edge": weak}, FEATURES, PAIRS, MEASURE, Proofs())
    *_, value = of_features(bench, graph_request, proofs)
    assert value["checked"]["nodes"] == 21 and value["nodes"][weak]["verdict"]
    proofs = more_edges(bench, graph_request, {"edges": 40}, FEATURES, PAIRS, MEASURE, proofs)
    *_, value = of_features(bench, graph_request, proofs)
    assert value["checked"]["nodes"] in (40, 41) and value["offer"]["key"] in bench.offered
    proofs = replace(proofs, edges=(weak, "L1 error @7"))
    first, value = of_features(bench, graph_request, proofs)
    assert first["checked"]["nodes"] == 40 and value["nodes"][weak]["verdict"]
    other = replace(graph_request, query=replace(graph_request.query, prompt="w1 w2 w3"))
    assert of_features(bench, other, proofs)[-1]["checked"]["nodes"] == 20
    with pytest.raises(WorkbenchError, match="no feature or error 'L9 F1 @0' in this graph"):
        of_features(bench, graph_request, replace(proofs, edges=("L9 F1 @0",)))


def test_the_graph_can_be_taken_along(bench, graph_request):
    *_, value = of_features(bench, graph_request)
    call = bench.offered[value["offer"]["key"]]
    names = run_copied(code(call, bench))
    np.testing.assert_array_equal(names["result"].values, result(call, bench).values)
    np.testing.assert_allclose(names["result"].nodes["measured"], result(call, bench).nodes["measured"], atol=1e-6)
    assert len(as_csv(report_of_call(call, bench)).splitlines()) > 20
    assert "Attribution graph of" in as_html(report_of_call(call, bench))
    told = json.loads(circuit_tracer_json(bench, call))
    assert {"metadata", "nodes", "links"} <= set(told)
    kept = result(call, bench).pruned()
    assert len(told["nodes"]) == len(kept.nodes) and len(told["links"]) == np.count_nonzero(kept.values)
    assert any(node["clerp"].startswith("raises") for node in told["nodes"])
    edges = pd.read_csv(io.StringIO(edges_csv(bench, call)), comment="#", keep_default_na=False)
    assert list(edges) == list(kept.edges())
    np.testing.assert_allclose(edges["value"], kept.edges()["value"], rtol=1e-6)
    for taken in (circuit_tracer_json, edges_csv):
        with pytest.raises(WorkbenchError, match="gives no attribution graph"):
            taken(bench, circuit_call(graph_request, CHOSEN))


def test_a_graph_of_features_needs_transcoders_of_the_checkpoint_and_an_agreement(bench, graph_request, monkeypatch):
    other = replace(graph_request, query=replace(graph_request.query, checkpoint=next(iter(bench.known))))
    assert other.query.checkpoint != bench.default
    (told,) = of_features(bench, other)
    assert told["empty"].startswith(f"there are no transcoders of {other.query.checkpoint}") and "edges" not in told
    assert f"Choose {bench.default}, or train some" in told["empty"]
    price = Price(120.0, 120.0, 0.0)

    def refuse(*_, **__):
        raise Expensive(price)

    monkeypatch.setattr(prompt_graphs, "agree", refuse)
    ((value, button, key),) = list(tab.graph_view(bench, graph_request, FEATURES, PAIRS, MEASURE))
    assert "edges" not in value and str(price) in button["value"] and key == ""


def test_the_graph_of_a_changed_model_is_that_of_its_edits(bench, graph_request):
    *_, plain = of_features(bench, graph_request)
    edited = replace(graph_request, query=replace(graph_request.query, edits="L1H1 off"))
    *_, value = of_features(bench, edited)
    assert value["key"] != plain["key"] and value["edges"] != plain["edges"] and "With L1H1 off." in value["note"]
    assert graph_call(bench, edited).edits == "L1H1 off"


def test_neurons_can_be_nodes(bench, request_of, by_hand):
    model, pairs, options = by_hand
    *_, (value, _, key) = list(tab.graph_view(bench, request_of, NEURONS, PAIRS, MEASURE))
    found = circuit(model, *pairs, **options, neurons=circuit_requests.NEURONS)
    assert value["every"] == len(found.names) and [edge for edge, *_ in value["edges"]][:9] == list(found.top(9).names)
    ends = {end.removesuffix(" q") for edge, *_ in value["edges"] for end in edge.split(" → ")}
    assert {f"L{layer} N{neuron}" for layer, neuron in value["neurons"]} == {end for end in ends if " N" in end}
    assert len(value["neurons"]) == circuit_requests.NEURONS and value["proof"]
    request = replace(request_of, agreed=True)
    _, along = tab.graph_along_training(bench, request, NEURONS, PAIRS, MEASURE, key, 1)
    assert [edge for edge, *_ in along["edges"]] == list(found.top(PROVED).names) and along["neurons"]
