"""The stack of edits on a page without a browser: in force on every tab, in the link, refusing what does not fit."""

from itertools import count
from urllib.parse import quote

import numpy as np
import pytest
from copied import run_copied
from headless import Headless, served
from small_series import PROMPT, small_bench

from hooks import edits
from workbench import checkpoints
from workbench.analyses.token_losses import token_losses
from workbench.page.build.panel import of_edits
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.code import code
from workbench.page.session.edit_lines import refused_stack, stack_value
from workbench.page.session.map_requests import MapRequest, head_map, head_picture, map_call
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.session.text_requests import TextRequest, text_call
from workbench.page.tabs import compare, hidden_states, training

NUMBERS = count()
EDITS = "L1H2 off\n# MLP 0 off\nMLP 2 × 0.5"
HELD = "L1H2 off\nMLP 2 × 0.5"


@pytest.fixture(scope="module")
def bench(tmp_path_factory, make_model, tokenizer):
    folder = tmp_path_factory.mktemp("series")
    made = small_bench(folder, make_model, tokenizer)
    make_model("olmo2", num_hidden_layers=2, max_position_embeddings=4096).save_pretrained(folder / "step11")
    return Bench(checkpoints.series(str(folder)), 10**9, default=made.default)


@pytest.fixture(scope="module")
def client(bench):
    with served(bench) as client:
        yield client


def page_of(client, query=""):
    page = Headless(client, f"edits{next(NUMBERS)}", f"prompt={quote(PROMPT)}&length=3&tab=Hidden+states{query}")
    page.values[page.ids["prompt"]] = PROMPT
    page.open()
    return page


def losses(bench, *made):
    model, ids = bench.load(bench.default)[0], bench.read(bench.default, PROMPT).ids
    with model.tapped(edits=made):
        return token_losses(model, ids)["loss"].values[0]


BY_HAND = edits.zero("blocks.1.attn.z", heads=[2]), edits.scale("blocks.2.mlp_out", 0.5)


def test_what_is_added_holds_for_the_strip_and_the_tab_and_stands_in_the_link(client, bench):
    page = page_of(client)
    assert page.value("interventions")["lines"] == [] and "With" not in page.value("lens-tools")["note"]
    page.fire("interventions", "edit", {"edits": "zero blocks.1.attn.z heads=2\nmlp 2 x .5", "shown": "edited"})
    assert page.failed == [] and page.value("problem") == ""
    assert page.value("interventions")["lines"] == HELD.split("\n") and page.value("interventions")["problem"] == ""
    assert np.allclose(page.value("spine")["scores"][1:], losses(bench, *BY_HAND)[1:], atol=1e-5)
    tools = page.value("lens-tools")
    assert tools["note"].endswith("With L1H2 off, MLP 2 × 0.5.") and "with_L1H2_off" in tools["file"]
    assert "edits.zero('blocks.1.attn.z', heads=[2])" in tools["code"]
    assert page.value("edits").startswith("zero")  # the control whose value is kept in the address
    page.fire("interventions", "edit", {"edits": "", "shown": "edited"})
    assert np.allclose(page.value("spine")["scores"][1:], losses(bench)[1:], atol=1e-5)


def test_a_link_opens_with_its_edits(client, bench):
    page = page_of(client, f"&edits={quote(EDITS)}")
    assert page.value("interventions")["lines"] == EDITS.split("\n") and page.value("edits") == EDITS
    assert np.allclose(page.value("spine")["scores"][1:], losses(bench, *BY_HAND)[1:], atol=1e-5)
    old = page_of(client, f"&edits={quote('zero blocks.1.attn.z heads=2')}")  # as the Generate tab wrote it
    assert old.value("interventions")["lines"] == ["L1H2 off"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("burn it", "is not an edit"),
        ("<img src=x onerror=alert(1)> off", "is not an edit"),
        ("MLP 9 off", "the layers of this model are 0 to 3"),
        ("MLP 1 off\n" * 40, "at most 16"),
        ("token 99 at layer 1 off", "the tokens of this prompt are"),
    ],
)
def test_a_link_with_edits_that_do_not_fit_is_refused_with_a_sentence(client, text, said):
    page = page_of(client, f"&edits={quote(text)}")
    stack = page.value("interventions")
    assert said in stack["problem"] and stack["lines"] and page.failed == [] and page.value("problem") == ""
    page.fire("interventions", "edit", {"edits": "", "shown": "edited"})
    assert page.value("interventions")["problem"] == "" and page.value("spine")["scores"]


def test_a_checkpoint_with_fewer_layers_refuses_them_and_nothing_is_lost(client, bench):
    page = page_of(client, f"&edits={quote('MLP 3 off')}")
    before = page.value("spine"), page.value("lens-tools")
    small = next(name for name in bench.known if name.endswith("step11"))
    page.values[page.ids["checkpoint"]] = small
    page.fire("run", "click")
    stack = page.value("interventions")
    assert "“MLP 3 off” needs layer 3; the layers of this model are 0 to 1" in stack["problem"]
    assert stack["lines"] == ["MLP 3 off"] and (page.value("spine"), page.value("lens-tools")) == before
    page.fire("interventions", "edit", {"edits": "# MLP 3 off", "shown": "edited"})
    assert page.value("interventions")["problem"] == "" and page.value("spine") != before[0]


def test_two_pages_have_different_edits(client, bench):
    one, other = page_of(client, f"&edits={quote(HELD)}"), page_of(client)
    one.fire("run", "click")
    other.fire("run", "click")
    assert np.allclose(one.value("spine")["scores"][1:], losses(bench, *BY_HAND)[1:], atol=1e-5)
    assert np.allclose(other.value("spine")["scores"][1:], losses(bench)[1:], atol=1e-5)


def test_the_difference_and_the_unedited_model_can_be_shown(client, bench):
    page = page_of(client, f"&edits={quote(HELD)}&shown=change")
    moved = losses(bench, *BY_HAND) - losses(bench)
    assert np.allclose(page.value("spine")["scores"][1:], moved[1:], atol=1e-5) and page.value("spine")["signed"]
    assert page.value("lens-tools")["note"].startswith("Change by L1H2 off, MLP 2 × 0.5.")
    assert "results.change(edited, plain)" in page.value("lens-tools")["code"]
    page.fire("interventions", "edit", {"edits": EDITS, "shown": "unedited"})
    assert np.allclose(page.value("spine")["scores"][1:], losses(bench)[1:], atol=1e-5)
    assert page.value("interventions")["lines"] == EDITS.split("\n") and "With" not in page.value("lens-tools")["note"]


def test_typed_edits_are_read_and_refused_with_a_sentence(client, bench):
    asked = {"checkpoint": bench.default, "prompt": PROMPT}
    reply = client.post("/data/edits", json=asked | {"edits": "zero blocks.1.attn.z heads=2"})
    assert reply.json() == {"lines": ["L1H2 off"]}
    for text, said in (("burn", "is not an edit"), ("L9H0 off", "needs layer 9"), ('L0H0 from "w1"', "1 tokens")):
        reply = client.post("/data/edits", json=asked | {"edits": text})
        assert reply.json()["lines"] == [] and said in reply.json()["problem"]


def test_each_views_change_is_the_difference_of_its_numbers_and_so_is_its_python(bench):
    request = TabRequest(Query(bench.default, PROMPT, 1, HELD, True), Selection())
    other = next(iter(bench.known))
    for view in (
        hidden_states.lens_view(bench, request, next(iter(hidden_states.LENS))),
        hidden_states.states_view(bench, request, "norm"),
        compare.by_token_view(bench, request, other, next(iter(compare.BY_TOKEN))),
        compare.difference_view(bench, request, other, "attention of each head"),
    ):
        changed = of_edits(view, request.query)
        found, edited, plain = (result(c, bench) for c in (changed.call, view.call, view.call.unedited))
        assert np.allclose(found.values, edited.values - plain.values, atol=1e-6, equal_nan=True) and found.signed
        assert np.nanmax(np.abs(found.values)) > 1e-5 and found.provenance["edits"] == "L1H2 off; MLP 2 × 0.5"
        names = run_copied(code(changed.call, bench))
        assert np.allclose(names["result"].values, found.values, atol=1e-6, equal_nan=True)


def test_where_nothing_can_be_subtracted_the_edited_result_is_shown(bench):
    request = TabRequest(Query(bench.default, PROMPT, 1, HELD, True), Selection())
    view = hidden_states.states_view(bench, request, "principal components of a layer")
    shown = of_edits(view, request.query)
    assert shown.call == view.call and "cannot be subtracted" in shown.note
    weights = compare.difference_view(bench, request, next(iter(bench.known)), "weights by matrix and layer")
    assert "do not affect this: it reads weights" in of_edits(weights, request.query).note


def test_the_change_of_a_map_and_of_a_text(bench):
    request = MapRequest(bench.default, PROMPT, layer=2, head=1, edits=HELD, change=True)
    asked = (MapRequest(bench.default, PROMPT, layer=2, head=1, edits=text) for text in (HELD, ""))
    edited, plain = (head_map(bench, one) for one in asked)
    assert np.allclose(head_map(bench, request), edited - plain, atol=1e-6) and head_picture(bench, request).signed
    names = run_copied(code(map_call(request), bench))
    assert np.allclose(names["result"].values[0], edited - plain, atol=1e-6)
    call = text_call(bench, TextRequest(bench.default, PROMPT, edits=HELD, change=True))
    assert np.allclose(result(call, bench).values[0, 1:], (losses(bench, *BY_HAND) - losses(bench))[1:], atol=1e-5)


def test_a_metric_along_training_is_that_of_edited_checkpoints(bench, tmp_path, monkeypatch):
    monkeypatch.setitem(training.trajectory.__kwdefaults__, "cache", tmp_path)
    monkeypatch.setattr(Bench, "main_run", lambda self, series: [one for one in self.known.values() if one.step < 11])
    request = TabRequest(Query(bench.default, PROMPT, 1, HELD), Selection())
    call = training.training_view(bench, request, training.FOLLOWED, "step", "w7").call
    model = bench.load(bench.default)[0]
    ids = bench.read(bench.default, f"{PROMPT} w7").ids
    log_p = model.run(ids, edits=BY_HAND).logits[0, -2].log_softmax(-1)[7].item()
    assert result(call, bench).values[0, -1] == pytest.approx(log_p, abs=1e-5)


def test_values_of_the_stack(bench):
    opened = bench.read(bench.default, PROMPT)
    value = stack_value(bench, opened, f" {EDITS}\n\n", "nonsense")
    assert value["lines"] == EDITS.split("\n") and value["shown"] == "edited" and value["prompt"] == PROMPT
    assert refused_stack(None, "no")["lines"] == [] and len(refused_stack("x\n" * 99, "no")["lines"]) == 32
