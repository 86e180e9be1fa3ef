"""The Generate tab: its texts are those of the model, its Python gives the same numbers, its tokens are readable."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from copied import run_copied
from small_series import PROMPT

from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.logit_lens import logit_lens, unembed
from workbench.analyses.token_inspection import token_inspection
from workbench.errors import WorkbenchError
from workbench.interventions import edits_of, read
from workbench.page.session.cached_results import result
from workbench.page.session.calls import run
from workbench.page.session.code import code
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.session.text_requests import (
    TextRequest,
    TokenRequest,
    branch_of,
    start_of,
    text_call,
    token_call,
    token_details_value,
)
from workbench.page.tabs import generate
from workbench.tokens import token_labels
from workbench.views.text_page import text_page

EDITS = "zero blocks.*.attn.z heads=0,1\nscale blocks.1.mlp_out 0\nadd blocks.2.resid_post 3 w9\n# zero blocks.0.attn.z"
GREEDY = (12, 0, 1, 0, 0, False)
SAMPLED = (12, 1.3, 0.9, 20, 5, False)


def made(bench, text):
    model, tokenizer = bench.load(bench.default)
    return edits_of(model, read(text, tokenizer))


def with_edits(tab_request, text):
    return replace(tab_request, query=replace(tab_request.query, edits=text))


def last(frames):
    *_, (plain, edited, branch) = frames
    return plain, edited.get("value"), branch


def test_generated_text_is_the_models_and_edits_change_it(bench, tab_request):
    opened = bench.read(bench.default, PROMPT)
    plain, edited, _ = last(generate.stream_texts(bench, tab_request, "", *GREEDY))
    expected = opened.model.generate(opened.ids, max_new_tokens=12, do_sample=False)[0].tolist()
    assert plain["ids"] == expected and edited is None
    plain, edited, _ = last(generate.stream_texts(bench, with_edits(tab_request, EDITS), "", *GREEDY))
    changed = opened.model.generate(opened.ids, max_new_tokens=12, do_sample=False, edits=made(bench, EDITS))
    assert plain["ids"] == expected and edited["ids"] == changed[0].tolist()
    assert plain["parts"] == edited["parts"] == next(n for n in range(20) if expected[n] != edited["ids"][n])


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
@pytest.mark.parametrize("edits", ["", EDITS])
@pytest.mark.parametrize("branch", ["", "4:7.9"])
def test_a_strips_python_gives_the_same_text_and_numbers(bench, tab_request, settings, edits, branch):
    plain, edited, _ = last(generate.stream_texts(bench, with_edits(tab_request, edits), branch, *settings))
    shown = edited or plain
    names = run_copied(code(text_call(bench, TextRequest(**shown["ask"])), bench))
    assert list(names["result"].ids) == shown["ids"]
    scores = [math.nan if score is None else score for score in shown["scores"]]
    assert np.array_equal(names["result"].values, np.float32(scores), equal_nan=True)


def test_the_spines_python_gives_its_losses(bench):
    names = run_copied(code(text_call(bench, TextRequest(bench.default, PROMPT)), bench))
    assert np.array_equal(
        names["result"].values,
        result(text_call(bench, TextRequest(bench.default, PROMPT)), bench).values,
        equal_nan=True,
    )


def test_edits_come_out_as_python(bench, tab_request):
    _, edited, _ = last(generate.stream_texts(bench, with_edits(tab_request, EDITS), "", *GREEDY))
    text = code(text_call(bench, TextRequest(**edited["ask"])), bench)
    assert "from hooks import edits" in text
    assert "edits.zero('blocks.*.attn.z', heads=[0, 1])" in text and "edits.scale('blocks.1.mlp_out', 0.0)" in text
    assert "edits.add('blocks.2.resid_post', interventions.toward(model, 9, 3.0))" in text


def test_a_stopped_texts_call_is_what_is_shown(bench, tab_request, monkeypatch):
    monkeypatch.setattr(generate, "PERIOD", 0.0)
    frames = generate.stream_texts(bench, tab_request, "", *GREEDY)
    plain = next(frames)[0]
    while len(plain["ids"]) < 12:
        plain = next(frames)[0]
    frames.close()
    found = result(text_call(bench, TextRequest(**plain["ask"])), bench)
    assert list(found.ids) == plain["ids"] and len(found.ids) == 12


def test_a_text_that_takes_too_long_ends_and_says_so(bench, tab_request, monkeypatch):
    monkeypatch.setattr(generate, "MOST_SECONDS", 0.0)
    plain, *_ = last(generate.stream_texts(bench, tab_request, "", *GREEDY))
    assert len(plain["ids"]) == len(bench.read(bench.default, PROMPT).ids[0]) and "stopped after 0 s" in plain["title"]
    monkeypatch.undo()
    plain, *_ = last(generate.stream_texts(bench, tab_request, "", *GREEDY))
    assert "stopped" not in plain["title"]


def test_closing_it_ends_the_models_work(bench, tab_request, monkeypatch):
    turns, turn = [], bench.lock.held
    monkeypatch.setattr(generate, "PERIOD", 0.0)
    monkeypatch.setattr(bench.lock, "held", lambda: turns.append(1) or turn())
    frames = generate.stream_texts(bench, tab_request, "", 100, 0, 1, 0, 0, False)
    next(frames)
    frames.close()
    done = len(turns)
    assert done < 50 and list(frames) == [] and len(turns) == done


def test_tokens_are_looked_at_as_the_analyses_do(bench):
    opened = bench.read(bench.default, PROMPT)
    ids = opened.ids
    lens, maps = logit_lens(opened.model, ids), attention_maps(opened.model, ids)
    for position in (1, 4, 7):
        found = run(token_call(bench, TokenRequest(bench.default, tuple(ids[0].tolist()), position)), bench)
        assert found.lens["likeliest_probability"].to_numpy() == pytest.approx(
            lens["probability"].values[:, position - 1], abs=1e-5
        )
        assert found.lens["rank"].tolist() == lens["rank"].values[:, position - 1].tolist()
        assert found.looks.values[:, 0] == pytest.approx(maps.values[:, position, : position + 1], abs=1e-5)
        assert found.looked_at.values == pytest.approx(maps.values[:, position + 1 :, position], abs=1e-5)
        log_p = opened.model.run(ids).logits[0, position - 1].softmax(-1)
        assert found.expected["probability"].tolist() == pytest.approx(log_p.topk(10).values.tolist(), abs=1e-5)
        after = opened.model.run(ids).logits[0, position].softmax(-1).topk(10)
        assert found.following["probability"].tolist() == pytest.approx(after.values.tolist(), abs=1e-5)
        assert found.following["id"].tolist() == after.indices.tolist()


def test_an_edited_texts_token_is_looked_at_with_the_edits(bench):
    opened = bench.read(bench.default, PROMPT)
    look = TokenRequest(bench.default, tuple(opened.ids[0].tolist()), 5, EDITS)
    shown = token_details_value(bench, look)
    capture = ["embed", "blocks.*.resid_post", "blocks.*.attn.pattern"]
    whole = opened.model.run(opened.ids, edits=made(bench, EDITS), capture=capture)
    resid = torch.cat([whole["embed"][None], whole.stack("resid_post")])[:, 0, 4]  # layer d_model
    lens = unembed(opened.model, resid).softmax(-1).amax(-1)
    assert [row[3] for row in shown["lens"]] == pytest.approx(lens.tolist(), abs=1e-5)
    maps = whole.stack("attn.pattern")[:, 0]  # layer head query key
    for head, key, weight in shown["looks"]:
        assert weight == pytest.approx(maps[int(head[1]), int(head[3]), 5, key].item(), abs=1e-5)
    for head, query, weight in shown["looked_at"]:
        assert weight == pytest.approx(maps[int(head[1]), int(head[3]), query, 5].item(), abs=1e-5)
    likely = whole.logits[0, 4].softmax(-1).topk(10).values.tolist()
    assert [row[2] for row in shown["expected"]] == pytest.approx(likely, abs=1e-5)
    plain = token_details_value(bench, TokenRequest(look.checkpoint, look.ids, 5))
    assert plain["expected"] != shown["expected"]


@pytest.mark.parametrize("family", ["olmo", "olmo3"])
def test_looking_agrees_where_attention_slides(make_model, family, tokens):
    model = make_model(family)
    maps, lens = attention_maps(model, tokens[0]), logit_lens(model, tokens[0])
    found = token_inspection(model, tokens[0], 6)
    assert found.looks.values[:, 0] == pytest.approx(maps.values[:, 6, :7], abs=1e-5)
    assert found.looked_at.values == pytest.approx(maps.values[:, 7:, 6], abs=1e-5)
    assert found.lens["likeliest_probability"].to_numpy() == pytest.approx(lens["probability"].values[:, 5], abs=1e-5)


def test_the_first_and_the_last_token_can_be_looked_at(bench):
    ids = tuple(bench.read(bench.default, PROMPT).ids[0].tolist())
    first, last_one = (
        token_details_value(bench, TokenRequest(bench.default, ids, 0)),
        token_details_value(bench, TokenRequest(bench.default, ids, 7)),
    )
    assert first["expected"] == first["lens"] == first["looks"] == [] and first["first"] == 1.0
    assert last_one["looked_at"] == [] and len(last_one["expected"]) == 10
    assert first["next"][2] > 0 and last_one["next"][2] > 0


def test_a_look_as_python_gives_the_same_table(bench):
    call = token_call(bench, TokenRequest(bench.default, (5, 17, 3, 42), 2, EDITS))
    names = run_copied(code(call, bench))
    assert names["result"].table().equals(result(call, bench).table())


def test_a_branch_inside_the_prompt_shows_its_own_words(bench, tab_request, monkeypatch):
    monkeypatch.setattr(generate, "PERIOD", 0.0)
    opened = bench.read(bench.default, PROMPT)
    frames = [plain for plain, *_ in generate.stream_texts(bench, tab_request, "2:11.12", *GREEDY)]
    assert len(frames) > 5 and len(frames[0]["ids"]) >= 4
    for frame in frames:
        assert frame["texts"] == list(token_labels(frame["ids"], opened.tokenizer))


def test_what_is_exported_tells_how_it_was_drawn(bench, tab_request):
    _, edited, _ = last(generate.stream_texts(bench, with_edits(tab_request, EDITS), "2:11", 6, 0.8, 0.9, 0, 7, 0))
    told = result(text_call(bench, TextRequest(**edited["ask"])), bench).provenance
    assert all(part in told["call"] for part in ("temperature=0.8", "top_p=0.9", "seed=7"))
    assert told["edits"] == "zero blocks.*.attn.z heads=0,1; MLP 1 × 0; +3 w9 at layer 2"
    assert told["tokens"] == repr([*bench.read(bench.default, PROMPT).ids[0, :2].tolist(), 11])


def test_a_branch_goes_on_from_the_other_token_and_a_link_reopens_it(bench, tab_request):
    ids = [*bench.read(bench.default, PROMPT).ids[0].tolist(), 7, 8, 9]
    told = {"token": 9, "id": 11, "ids": ids}
    plain, _, branch = last(generate.branch(bench, tab_request, told, *GREEDY))
    assert plain["ids"][:10] == [*ids[:9], 11] and len(plain["ids"]) == 22 and branch == "8:7.11"
    assert None not in plain["scores"][1:] and plain["given"] == 8
    assert last(generate.stream_texts(bench, tab_request, branch, *GREEDY))[0]["ids"] == plain["ids"]
    later = TabRequest(Query(bench.default, PROMPT, 2), Selection())
    assert last(generate.stream_texts(bench, later, branch, *GREEDY))[2] == ""


def test_branches_are_written_and_read(bench):
    opened = bench.read(bench.default, PROMPT)
    prompt = opened.ids[0].tolist()
    for ids in ([*prompt, 5], [*prompt[:3], 50], [*prompt[:3], 50, 51], [9]):
        assert start_of(bench, opened, branch_of(prompt, ids)) == ids


def test_a_page_of_its_own_holds_the_text_and_no_markup(bench, tab_request):
    plain, *_ = last(generate.stream_texts(bench, tab_request, "", *GREEDY))
    page = text_page(result(text_call(bench, TextRequest(**plain["ask"])), bench)).page
    assert "src=" not in page and "</script>" in page and bench.default in page
    assert page.count("<script") == page.count("</script>")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda b, d: generate.stream_texts(b, d, "", 10, math.nan, 1, 0, 0, True), "Temperature is nan"),
        (lambda b, d: generate.stream_texts(b, d, "", 5000, 1, 1, 0, 0, True), "Length is 5000; .* from 1 to 512"),
        (lambda b, d: generate.stream_texts(b, with_edits(d, "burn it"), "", *GREEDY), "not an edit"),
        (lambda b, d: generate.stream_texts(b, with_edits(d, "zero blocks.0.attn.z heads=a"), "", *GREEDY), "heads=a"),
        (lambda b, d: generate.stream_texts(b, with_edits(d, "scale blocks.0.mlp_out nan"), "", *GREEDY), "not finite"),
        (lambda b, d: generate.stream_texts(b, d, "99:5", *GREEDY), "is not a valid branch"),
        (lambda b, d: generate.stream_texts(b, d, "1:500", *GREEDY), "must be from 0 to"),
        (
            lambda b, d: generate.stream_texts(b, with_edits(d, "scale blocks.*.mlp_out 1e38"), "", *GREEDY),
            "predictions are NaN",
        ),
        (lambda b, d: generate.branch(b, d, {"token": 9, "id": 1, "ids": [1, 2]}, *GREEDY), "no token 9"),
        (lambda b, d: generate.branch(b, d, {"token": 1, "id": 1, "ids": [1, 1e9]}, *GREEDY), "must be from 0 to"),
        (lambda b, d: generate.branch(b, d, {"token": 1, "id": None, "ids": [1, 2]}, *GREEDY), "must be from 0 to"),
        (lambda b, d: generate.branch(b, d, {"token": 1, "id": 1}, *GREEDY), "not a text of valid length"),
    ],
)
def test_bad_input_is_said(bench, tab_request, make, said):
    with pytest.raises(WorkbenchError, match=said):
        list(make(bench, tab_request))
