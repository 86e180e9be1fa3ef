"""Interventions on the page: every view shows the edited model, and its Python gives the same numbers."""

from contextlib import ExitStack, contextmanager
from itertools import product

import numpy as np
import pytest
import torch
from copied import check_copied, run_copied
from small_series import PROMPT, small_bench

from hooks import edits
from workbench import generation
from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.token_losses import token_losses
from workbench.analyses.trajectory import Loading, trajectory
from workbench.analyses.transplant import with_part
from workbench.errors import WorkbenchError
from workbench.page.session import strips
from workbench.page.session.arguments import ResidOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import run
from workbench.page.session.code import code
from workbench.page.session.edit_lines import checked_edits
from workbench.page.session.map_requests import MapRequest, head_map, map_call, thumbnails
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.session.result_cache import ResultCache
from workbench.page.session.text_requests import TextRequest, TokenRequest, text_call, token_call
from workbench.page.tabs import attention, attribution, compare, hidden_states, training

SECOND = "w5 w17 w4 w42 w8 w5 w17 w3"
EDITS = f"""L1H2 off
MLP 2 × 0.5
+3 w9 at layer 1
L0H1 from "{SECOND}"
token 3 at layer 0 × 0.5"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory, make_model, tokenizer):
    return small_bench(tmp_path_factory.mktemp("series"), make_model, tokenizer, orders=["step10-order2"])


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setitem(trajectory.__kwdefaults__, "cache", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def edited(bench):
    return TabRequest(Query(bench.default, PROMPT, 1, EDITS), Selection(token=6, layer=1, head=2))


def by_hand(model, tokenizer):
    """The edits that `EDITS` describes, made with `hooks.edits`."""
    ids = torch.tensor([tokenizer(SECOND)["input_ids"]])
    row = model.get_output_embeddings().weight[9].detach()
    return [
        edits.zero("blocks.1.attn.z", heads=[2]),
        edits.scale("blocks.2.mlp_out", 0.5),
        edits.add("blocks.1.resid_post", 3 * row / row.norm()),
        edits.patch("blocks.0.attn.z", model.run(ids, capture="blocks.0.attn.z"), heads=[1]),
        edits.scale("blocks.0.resid_post", 0.5, positions=[3]),
    ]


@contextmanager
def edited_by_hand(bench):
    """All models of a bench with the edits, for calls that have none themselves."""
    with ExitStack() as blocks:
        for name in bench.known:
            model, tokenizer = bench.load(name)
            blocks.enter_context(model.tapped(edits=by_hand(model, tokenizer)))
        yield


def views(bench, request):
    """One view of each panel of every tab, and one for each kind of analysis behind a panel, by name."""
    other, written = next(iter(bench.known)), (4, 0, 1, 0, 0)
    yield "lens", hidden_states.lens_view(bench, request, next(iter(hidden_states.LENS)))
    for state in hidden_states.STATES:
        yield f"states: {state}", hidden_states.states_view(bench, request, state)
    for direct in list(attribution.DIRECT)[:2]:
        yield f"direct: {direct}", attribution.direct_view(bench, request, "w9", "w10", direct)
    for method in attribution.ABLATIONS:
        yield f"ablation: {method}", attribution.ablation_view(bench, request, "w9", "", method)
    yield "saliency", attribution.saliency_view(bench, request, "w9", "", next(iter(attribution.SALIENCIES)))
    yield "sources", attribution.sources_view(bench, request, "w9", "")
    for site in ("output of attention", "output of each head"):  # cells by position and by head
        yield f"patching: {site}", attribution.patching_view(bench, request, "w9", "", SECOND, site, "probability")
    yield "text of A", compare.text_of_a(bench, request, other, *written)
    yield "text of B", compare.text_of_b(bench, request, other, *written)
    for what, view in product(list(compare.BY_TOKEN)[:1], (compare.by_token_view, compare.by_token_floor)):
        yield f"by token: {what}, {view.__name__}", view(bench, request, other, what)
    for what, view in product(compare.DIFFERENCES, (compare.difference_view, compare.difference_floor)):
        if compare.DIFFERENCES[what] != "transplant_weights" or view is compare.difference_view:
            yield f"difference: {what}, {view.__name__}", view(bench, request, other, what)
    for metric in ("held-out loss", training.FOLLOWED, "KL to the last checkpoint", "weight change a step"):
        yield f"training: {metric}", training.training_view(bench, request, metric, "step", "w7 w8")


def calls(bench, request):
    for name, view in views(bench, request):
        yield name, view.call
    query = request.query
    for options in ({"layer": 2, "head": 1}, {"layer": 1, "combine": "mean", "weigh": "value"}):
        yield f"map {options}", map_call(MapRequest(query.checkpoint, query.prompt, edits=query.edits, **options))
    other = next(iter(bench.known))
    yield "two maps", map_call(MapRequest(query.checkpoint, query.prompt, other=other, layer=2, edits=query.edits))
    yield "losses", text_call(bench, TextRequest(query.checkpoint, query.prompt, edits=query.edits))
    yield "text", text_call(bench, TextRequest(query.checkpoint, query.prompt, edits=query.edits, length=4))


UNAFFECTED = ("weights by matrix and layer", "weight change a step")  # they read files only


@pytest.mark.slow
def test_every_view_is_of_the_edited_model_and_so_is_its_python(bench, edited, monkeypatch):
    for name, call in calls(bench, edited):
        shown = result(call, bench)
        with edited_by_hand(bench), monkeypatch.context() as patched:
            patched.setattr(bench, "results", ResultCache(64, 10**9))
            patched.setattr(Loading, "__call__", lambda self, checkpoint: bench.load(checkpoint.id)[0])
            patched.setitem(trajectory.__kwdefaults__, "cache", None)
            expected = run(call.unedited, bench)
        assert np.allclose(shown.values, expected.values, atol=1e-5, equal_nan=True), name
        plain = result(call.unedited, bench)
        if name.split(": ")[-1].split(", ")[0] in UNAFFECTED:
            assert call.edits == "" and "edits" not in shown.provenance, name
        else:
            differs = plain.values.shape != shown.values.shape or not np.allclose(
                plain.values, shown.values, atol=1e-5, equal_nan=True
            )
            assert differs, name
            assert shown.provenance["edits"].startswith("L1H2 off; MLP 2 × 0.5; +3 w9"), name
            assert "with_L1H2_off" in call.file_name or len(call.file_name) == 120, name
        assert call.unedited.edits == "" and call.unedited.file_name.count("_with_L1H2") == 0
        check_copied(call, bench, name)


def test_a_mixed_model_is_edited_too(bench, edited):
    other = next(iter(bench.known))
    view = compare.mixed_text(bench, edited, other, "the selected head", 6, 0, 1, 0, 0)
    (a, _), (b, tokenizer) = bench.load(other), bench.load(bench.default)  # A is the earlier one
    mixed, ids = with_part(a, b, "head", 1, [2]), bench.read(bench.default, PROMPT).ids
    with mixed.tapped(edits=by_hand(mixed, tokenizer)):
        expected = generation.generate(mixed, ids, max_new_tokens=6, temperature=0, seed=0)
    names = run_copied(code(view.call, bench))
    for found in (result(view.call, bench), names["result"]):
        assert np.allclose(found.values, expected.values, atol=1e-6, equal_nan=True) and found.ids == expected.ids
    assert "with mixed.tapped(edits=[" in code(view.call, bench)


def test_the_strip_thumbnails_and_heads_are_of_the_edited_model(bench, edited, monkeypatch):
    opened = bench.read(bench.default, PROMPT)
    with opened.model.tapped(edits=by_hand(opened.model, opened.tokenizer)):
        losses = token_losses(opened.model, opened.ids)["loss"].values[0]
        maps = attention_maps(opened.model, opened.ids).values
    strip = strips.surprisal_strip(bench, opened, Selection(), EDITS)
    assert np.allclose([score for score in strip["scores"] if score is not None], losses[~np.isnan(losses)], atol=1e-5)
    assert strip["ask"]["edits"] == EDITS
    request = MapRequest(bench.default, PROMPT, edits=EDITS, layer=2, head=1)
    assert np.allclose(head_map(bench, request), maps[2 * 4 + 1], atol=1e-5)
    plain, changed = (thumbnails(bench, MapRequest(bench.default, PROMPT, edits=text)) for text in ("", EDITS))
    assert plain.pixels != changed.pixels
    value = attention.attention_value(bench, edited)
    assert value["edits"] == EDITS
    plain = attention.attention_value(bench, TabRequest(Query(bench.default, PROMPT, 1), Selection()))
    assert value["orders"] != plain["orders"] and plain["edits"] == ""


def test_the_predicted_token_is_that_of_the_edited_model(bench):
    push = "+500 w9 at layer 3"
    asked = (TabRequest(Query(bench.default, PROMPT, 1, text), Selection()) for text in (push, ""))
    (edited, *_), (plain, *_) = (attribution.question_of(bench, one, "", "").targets for one in asked)
    assert edited == 9 != plain


def test_streams_of_edited_and_unedited_models_are_kept_apart(bench):
    model, tokenizer = bench.load(bench.default)
    ids = bench.read(bench.default, PROMPT).ids
    changed = model.run(ids, capture="blocks.*.resid_pre", edits=by_hand(model, tokenizer))
    plain = model.run(ids, capture="blocks.*.resid_pre")
    for layer in (3, 1, 2):
        site = f"blocks.{layer}.resid_pre"
        assert torch.allclose(ResidOf(bench.default, PROMPT, layer, EDITS).value(bench), changed[site], atol=1e-6)
        assert torch.equal(ResidOf(bench.default, PROMPT, layer).value(bench), plain[site])


def test_a_checkpoint_compared_with_itself_is_edited_once(bench):
    request = TabRequest(Query(bench.default, PROMPT, 1, "MLP 1 × 3"), Selection())
    call = compare.by_token_view(bench, request, bench.default, next(iter(compare.BY_TOKEN))).call
    assert np.nan_to_num(result(call, bench).values).max() == 0
    text = text_call(bench, TextRequest(bench.default, PROMPT, edits="MLP 1 × 3"))
    model, ids = bench.load(bench.default)[0], bench.read(bench.default, PROMPT).ids
    with model.tapped(edits=edits.scale("blocks.1.mlp_out", 3)):
        expected = token_losses(model, ids)["loss"].values
    assert np.allclose(result(text, bench).values, expected, equal_nan=True)


def test_a_token_is_looked_at_with_the_edits(bench):
    ids = tuple(bench.read(bench.default, PROMPT).ids[0].tolist())
    found, plain = (result(token_call(bench, TokenRequest(bench.default, ids, 5, text)), bench) for text in (EDITS, ""))
    model, tokenizer = bench.load(bench.default)
    whole = model.run(torch.tensor([ids]), edits=by_hand(model, tokenizer), capture="blocks.*.attn.pattern")
    likely = whole.logits[0, 4].softmax(-1).topk(10).values.tolist()
    assert found.expected["probability"].tolist() == pytest.approx(likely, abs=1e-5)
    assert found.expected["probability"].tolist() != pytest.approx(plain.expected["probability"].tolist(), abs=1e-3)
    assert np.allclose(found.looks.values[:, 0], whole.stack("attn.pattern")[:, 0, :, 5, :6].flatten(0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MLP 4 off", "the layers of this model are 0 to 3"),
        ("L0H9 off", "head 9 is outside"),
        ("token 8 at layer 1 off", "the tokens of this prompt are 0 to 7"),
        ('L0H0 from "w1 w2"', "patches from 2 tokens; this prompt has 8"),
        ("burn it", "is not an edit"),
        ("MLP 1 off\n" * 17, "17 edits; this page takes at most 16"),
        ("#" * 5000, "not a text, or have more than 4,096 characters"),
        (["MLP 1 off"], "not a text"),
    ],
)
def test_edits_that_do_not_fit_are_refused(bench, text, said):
    with pytest.raises(WorkbenchError, match=said):
        checked_edits(bench, bench.read(bench.default, PROMPT), text)


def test_edits_are_kept_in_their_canonical_spelling(bench):
    text = "zero blocks.1.attn.z heads=2\n# MLP 1 off\nscale blocks.2.mlp_out .5"
    assert checked_edits(bench, bench.read(bench.default, PROMPT), text) == "L1H2 off\nMLP 2 × 0.5"


def test_edited_python_puts_prompts_where_the_model_is(bench, edited, monkeypatch):
    call = hidden_states.lens_view(bench, edited, next(iter(hidden_states.LENS))).call
    monkeypatch.setitem(bench.options, "device", "cuda")
    assert f"torch.tensor([tokenizer({SECOND!r}).input_ids], device=model.device)" in code(call, bench)


def test_two_people_have_different_edits_at_once(bench: Bench):
    """Results of one request are not those of another, in whichever order they are asked for."""
    asked = [TextRequest(bench.default, PROMPT, edits=text) for text in ("", "L1H2 off", "MLP 2 off", "L1H2 off", "")]
    found = [result(text_call(bench, one), bench).values for one in asked]
    assert np.array_equal(found[0], found[4], equal_nan=True) and np.array_equal(found[1], found[3], equal_nan=True)
    assert len({values.tobytes() for values in found}) == 3


def test_a_model_whose_predictions_are_nan_has_no_strip(bench, monkeypatch):
    opened = bench.read(bench.default, PROMPT)
    monkeypatch.setattr(opened.model.lm_head.weight, "data", torch.full_like(opened.model.lm_head.weight, torch.nan))
    with pytest.raises(WorkbenchError, match=r"the predictions of .*step10 on this prompt are NaN"):
        strips.surprisal_strip(bench, opened, Selection())
