"""Conversations on the page: every view reads the same tokens, its Python gives the same numbers, replies are turns."""

import json
from dataclasses import asdict
from itertools import count
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from chat_templates import TEMPLATES, VOCAB, chat_tokenizer
from copied import check_copied, run_copied
from headless import Headless, served
from pydantic import TypeAdapter

from workbench import checkpoints
from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.trajectory import trajectory
from workbench.chat import Conversation, end_tokens, turns_of, typed
from workbench.errors import WorkbenchError
from workbench.page.session.arguments import TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.code import code
from workbench.page.session.map_requests import MapRequest, head_map, map_call
from workbench.page.session.prompts import for_browser, prompt_ids, typed_prompt, typed_text
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.session.strips import surprisal_strip
from workbench.page.session.text_requests import TextRequest, text_call
from workbench.page.tabs import attention, attribution, compare, generate, hidden_states, training

TEXT = "system: Be brief.\nuser: The end is the end.\nassistant: Hi\nuser: the same"
TURNS = turns_of(TEXT)
SETTINGS = (12, 0, 1, 0, 0)
NUMBERS = count()


def bench_in(folder, make_model, template):
    """A bench over two checkpoints whose tokenizer has a chat template, or none."""
    for seed, step in enumerate(("step0", "step10")):
        make_model("olmo3", seed=seed, vocab_size=VOCAB).save_pretrained(folder / step)
    chat_tokenizer(template).save_pretrained(folder)
    return Bench(checkpoints.series(str(folder)), 10**9)


@pytest.fixture(scope="module", params=TEMPLATES)
def bench(request, tmp_path_factory, make_model):
    return bench_in(tmp_path_factory.mktemp("series"), make_model, TEMPLATES[request.param])


@pytest.fixture
def tab_request(bench):
    return TabRequest(Query(bench.default, TURNS, 1), Selection(layer=1, head=2))


def calls(bench, request):
    """The call of one view of each kind, by name."""
    other, method = next(iter(bench.known)), next(iter(attribution.SALIENCIES))
    site, measure = next(iter(attribution.PATCHED_SITES)), next(iter(attribution.MEASURES))
    yield "lens", hidden_states.lens_view(bench, request, next(iter(hidden_states.LENS))).call
    yield "saliency", attribution.saliency_view(bench, request, "", "", method).call
    for second in ("", typed(turns_of(TEXT.replace("same", "lame")))):
        yield "patching", attribution.patching_view(bench, request, "", "", second, site, measure).call
    yield "by token", compare.by_token_view(bench, request, other, next(iter(compare.BY_TOKEN))).call
    yield "text of A", compare.text_of_a(bench, request, other, *SETTINGS).call
    yield "training", training.training_view(bench, request, "log-probability of a continuation", "step", "").call
    yield "a head", map_call(MapRequest(bench.default, TURNS, layer=1, head=2))


@pytest.mark.slow
@pytest.mark.parametrize("bench", ["OLMo 3"], indirect=True)  # that both templates are read is tested below
def test_every_views_python_gives_the_same_numbers(bench, tab_request, tmp_path, monkeypatch):
    monkeypatch.setitem(trajectory.__kwdefaults__, "cache", tmp_path)
    for name, call in calls(bench, tab_request):
        shown, _ = check_copied(call, bench, name)
        assert TEXT in shown.provenance["tokens"], name


def test_all_read_the_ids_of_the_template(bench):
    tokenizer = bench.load(bench.default)[1]
    expected = Conversation.of(tokenizer, TURNS).ids
    opened = bench.read(bench.default, TURNS)
    assert torch.equal(opened.ids, expected) and torch.equal(TokensOf(bench.default, TURNS).value(bench), expected)
    assert (
        prompt_ids(tokenizer, TURNS) == expected[0].tolist() and bench.count(bench.default, TURNS) == expected.shape[1]
    )
    assert bench.read(bench.default, TEXT).conversation is None


def test_a_prompt_comes_back_from_the_browser_as_it_was():
    for prompt in (TURNS, TEXT, turns_of("user: \\user: a\n\\\n")):
        for request in (MapRequest("a", prompt, layer=1), TextRequest("a", prompt, length=3)):
            sent = json.dumps(asdict(request) | {"prompt": for_browser(prompt)})
            assert TypeAdapter(type(request)).validate_json(sent) == request
            assert TypeAdapter(type(request)).validate_json(json.dumps(asdict(request))) == request
        assert typed_prompt(typed_text(prompt), not isinstance(prompt, str)) == prompt
    assert typed_prompt(None, True) == () and typed_prompt(None, False) == ""


def test_the_attention_view_shows_the_conversation(bench, tab_request):
    view = attention.attention_value(bench, tab_request)
    opened = bench.read(bench.default, TURNS)
    assert view["texts"] == list(opened.labels)
    request = TypeAdapter(MapRequest).validate_python({"checkpoint": bench.default, "prompt": view["prompt"]})
    own = attention_maps(opened.model, opened.ids, layers=[0], heads=[0])
    assert np.allclose(head_map(bench, request), own.values[0], atol=1e-6)


def test_the_strip_has_the_turns_and_the_templates_tokens(bench):
    opened = bench.read(bench.default, TURNS)
    strip = surprisal_strip(bench, opened, Selection())
    assert [turn["role"] for turn in strip["turns"]] == ["system", "user", "assistant", "user", "assistant"]
    own = [text for place, text in enumerate(strip["texts"]) if place not in strip["template"]]
    assert "".join(own).replace("▁", " ").replace("⏎", "") == "Be brief.The end is the end.Hithe same"
    assert "turns" not in surprisal_strip(bench, bench.read(bench.default, TEXT), Selection())


def last(frames):
    *_, (plain, _, _) = frames
    return plain


def test_a_reply_ends_with_the_turn_and_goes_on_as_a_turn(bench, tab_request):
    opened, length = bench.read(bench.default, TURNS), 40
    for seed in range(4):
        strip = last(generate.stream_texts(bench, tab_request, "", length, 2.5, 1, 0, seed, True))
        reply = strip["ids"][strip["given"] :]
        assert strip["ids"][: strip["given"]] == opened.ids[0].tolist()
        assert not set(reply[:-1]) & set(end_tokens(opened.tokenizer))
        assert strip["turns"][-1] == {
            "role": "assistant",
            "start": opened.conversation.spans[-1].start,
            "stop": len(strip["ids"]),
        }
        prompt = generate.generated_text(bench, tab_request, {"ids": strip["ids"]})
        turns = turns_of(prompt)
        assert turns[:-1] == TURNS and turns[-1].role == "assistant"
        assert turns[-1].content == opened.tokenizer.decode(reply, skip_special_tokens=True)


def test_only_a_reply_to_the_whole_conversation_goes_on(bench, tab_request):
    ids = bench.read(bench.default, TURNS).ids[0].tolist()
    for wrong in (ids, [*ids[:5], 40, *ids[6:], 41]):
        with pytest.raises(WorkbenchError, match="not the conversation with a reply"):
            generate.generated_text(bench, tab_request, {"ids": wrong})


@pytest.mark.parametrize("branch", ["", "20:45.46"])
def test_the_python_of_a_generated_text_gives_the_same_text(bench, branch):
    request = TextRequest(bench.default, TURNS, branch, length=6)
    call = text_call(bench, request)
    names = run_copied(code(call, bench))
    assert names["result"].ids == result(call, bench).ids


def test_a_checkpoint_without_a_template_says_so(tmp_path, make_model):
    bench = bench_in(tmp_path, make_model, None)
    with pytest.raises(WorkbenchError, match="no chat template"):
        bench.read(bench.default, TURNS)


def opened_page(client, **address):
    """A page of a server, opened at an address."""
    page = Headless(client, f"page{next(NUMBERS)}", urlencode({"tab": "Hidden states", **address}))
    page.open()
    return page


@pytest.mark.slow
def test_a_link_opens_a_conversation_and_the_box_makes_it_plain_text(tmp_path, make_model):
    bench = bench_in(tmp_path, make_model, TEMPLATES["OLMo 2"])
    with served(bench) as client:
        assert opened_page(client).visible("chat") is True
        page = opened_page(client, chat="true", prompt=TEXT)
        turns = [turn["role"] for turn in page.value("spine")["turns"]]
        assert turns == ["system", "user", "assistant", "user", "assistant"]
        assert page.value("chat") is True and page.value("prompt") == TEXT and not page.value("problem")
        page.values[page.ids["chat"]] = False
        page.fire("chat", "input")
        plain = bench.load(bench.default)[1](TEXT)["input_ids"]
        assert "turns" not in page.value("spine") and page.value("spine")["ids"] == plain
        page.values[page.ids["chat"]] = True
        page.values[page.ids["prompt"]] = "user: Hi\nassistant:"
        page.fire("run", "click")
        assert "turn 2 (assistant) is empty" in page.value("problem")
        assert not page.failed


@pytest.mark.slow
def test_chat_is_not_offered_without_a_template(tmp_path, make_model):
    with served(bench_in(tmp_path, make_model, None)) as client:
        assert opened_page(client).visible("chat") is False
        page = opened_page(client, chat="true", prompt=TEXT)
        assert "no chat template" in page.value("problem") and page.visible("chat") is True
        page.values[page.ids["chat"]] = False
        page.fire("chat", "input")
        assert page.value("problem") == "" and page.visible("chat") is False
