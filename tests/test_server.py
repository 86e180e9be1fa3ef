"""The server's routes and its security checks."""

import asyncio
import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi import Response
from fastapi.testclient import TestClient
from headless import Headless
from starlette.websockets import WebSocketDisconnect

from hooks import Capture
from tests.served_app import GRADIO_ROUTES, client_of
from workbench import checkpoints, views
from workbench.errors import WorkbenchError
from workbench.mendable import MENDABLE
from workbench.page.build.page import build
from workbench.page.guard import HEADERS, MOST_BYTES, in_header, trusted_hosts
from workbench.page.server import refuse
from workbench.page.session.bench import Bench
from workbench.page.session.result_cache import ResultCache
from workbench.page.tabs import TABS

ROOT = Path(__file__).parents[1]
PROMPT = "w5 w17 w3 w42 w8 w5 w17"


@pytest.fixture(scope="module")
def client(bench):
    return client_of(bench)


def question(bench, **more):
    return {"checkpoint": bench.default, "prompt": PROMPT, **more}


def maps_of(reply):
    """The response's maps as numbers: count side side."""
    return parts_of(reply)[0]


def parts_of(reply):
    """The response's maps, count side side; and, if present, their first columns without the first key, count side."""
    assert reply.status_code == 200, reply.text
    names = ("x-side", "x-scale", "x-signed", "x-second")
    side, scale, signed, second = (float(reply.headers[name]) for name in names)
    levels, side = np.frombuffer(reply.content, dtype=np.uint8).astype(float), int(side)
    root = (levels - 128) / 127 if signed else levels / 255
    numbers, count = np.sign(root) * root**2 * scale, len(levels) // (side * side + int(second) * side)
    maps, columns = np.split(numbers, [count * side * side])
    return maps.reshape(count, side, side), columns.reshape(count, side) if second else None


def pattern(bench, name, layer, head, prompt=PROMPT):
    opened = bench.read(name, prompt)
    site = f"blocks.{layer}.attn.pattern"
    return opened.model.run(opened.ids, capture=Capture(site, heads=[head]))[site][0, 0].numpy()


LONG = " ".join(f"w{1 + place % 97}" for place in range(150))


@pytest.mark.parametrize("prompt", [PROMPT, LONG], ids=["short", "long"])
def test_a_map_is_the_heads_pattern(client, bench, prompt):
    a, b = bench.known
    asked = question(bench, checkpoint=a, prompt=prompt, layer=2, head=1)
    one, other = (pattern(bench, name, 2, 1, prompt) for name in (a, b))
    found = maps_of(client.post("/data/attention/map", json=asked))[0]
    assert np.abs(found - one).max() < 0.01 and not np.triu(found, 1).any()
    difference = maps_of(client.post("/data/attention/map", json={**asked, "other": b}))[0]
    assert np.abs(difference - (other - one)).max() < 0.02 and not np.triu(difference, 1).any()


@pytest.mark.parametrize("combine", ["one", "mean", "max"])
def test_the_numbers_of_a_cell_are_exact(client, bench, combine):
    asked = question(bench, layer=2, head=1, combine=combine)
    reply = client.post("/data/attention/cells/5/3", json=asked)
    row, column = np.frombuffer(reply.content, "<f4").reshape(2, 7)
    heads = range(4) if combine != "one" else [1]
    maps = np.stack([pattern(bench, bench.default, 2, head) for head in heads])
    expected = maps.max(0) if combine == "max" else maps.mean(0)
    assert np.allclose(row, expected[5], rtol=1e-6, atol=0) and np.allclose(column, expected[:, 3], rtol=1e-6, atol=0)
    for query, key in ((7, 0), (0, 7), (-1, 0)):
        refused = client.post(f"/data/attention/cells/{query}/{key}", json=asked)
        assert refused.status_code == 422 and "tokens are 0 to 6" in refused.json()["detail"]


def test_the_scale_of_a_map_is_exact_with_and_without_the_first_token(client, bench):
    headers = client.post("/data/attention/map", json=question(bench, layer=2, head=1)).headers
    expected = pattern(bench, bench.default, 2, 1)
    assert float(headers["x-scale"]) == pytest.approx(expected.max(), rel=1e-6)
    assert float(headers["x-rest"]) == pytest.approx(expected[:, 1:].max(), rel=1e-6)


def test_the_page_of_its_own_is_of_what_is_shown(client, bench):
    a, b = bench.known
    reply = client.post("/data/attention/page", json=question(bench, checkpoint=a, other=b))
    assert '"other": "B"' in reply.text and "attachment" in reply.headers["content-disposition"]
    assert '"other": null' in client.post("/data/attention/page", json=question(bench)).text


def test_a_page_of_its_own_is_not_too_large(client, bench, monkeypatch):
    monkeypatch.setattr("workbench.page.session.map_requests.MOST_PAGE_BYTES", 100)
    reply = client.post("/data/attention/page", json=question(bench))
    assert reply.status_code == 422 and "shorter text" in reply.json()["detail"]


def test_it_says_which_models_are_in_memory(client, bench):
    client.post("/data/attention/map", json=question(bench))
    told = client.get("/data/status").json()
    assert "step 10" in " ".join(told["models"]) and 0 < told["bytes"] <= told["budget"] == 10**9
    assert told["device"] == "cpu" and told["loading"] is None


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_a_layer_can_be_looked_at_as_one(client, bench, combine):
    heads = np.stack([pattern(bench, bench.default, 0, head) for head in range(4)])
    found = maps_of(client.post("/data/attention/map", json=question(bench, combine=combine)))
    assert np.abs(found[0] - getattr(heads, combine)(0)).max() < 0.01


def test_thumbnails_of_a_short_text_are_the_patterns(client, bench):
    found = maps_of(client.post("/data/attention/thumbnails", json=question(bench)))
    expected = np.stack([pattern(bench, bench.default, place // 4, place % 4) for place in range(16)])
    assert np.abs(found - expected).max() < 0.01


def test_thumbnails_of_a_long_text_keep_the_strongest_weight(client, bench):
    found = maps_of(client.post("/data/attention/thumbnails", json=question(bench, prompt=LONG)))
    assert found.shape == (16, 64, 64)
    opened = bench.read(bench.default, LONG)
    whole = opened.model.run(opened.ids, capture="blocks.1.attn.pattern")["blocks.1.attn.pattern"][0]  # head query key
    assert found[4:8].max(axis=(1, 2)) == pytest.approx(whole.amax(dim=(1, 2)).numpy(), abs=0.01)
    pooled = torch.nn.functional.adaptive_max_pool2d(whole[None], 64)[0]
    assert np.abs(found[4:8] - pooled.numpy()).mean() < 0.05


def bins(length, side=64):
    """The rows or keys that each pixel of a thumbnail shows: an array for each pixel."""
    places = np.arange(length)
    return [places[places * side // length == pixel] for pixel in range(side)]


def first_columns(bench, name, prompt):
    """The weights of the thumbnails' first columns without the first key: head side."""
    heads = [pattern(bench, name, place // 4, place % 4, prompt) for place in range(16)]
    parts = bins(len(heads[0]))
    return np.array([[head[np.ix_(rows, parts[0][1:])].max() for rows in parts] for head in heads])


def test_the_first_pixels_of_thumbnails_are_known_without_the_first_token(client, bench):
    a, b = bench.known
    prompt = " ".join(f"w{1 + place % 97}" for place in range(300))
    asked = question(bench, checkpoint=a, prompt=prompt)
    of_a, of_b = (first_columns(bench, name, prompt) for name in (a, b))
    reply = client.post("/data/attention/thumbnails", json=asked)
    maps, columns = parts_of(reply)
    assert maps.shape == (16, 64, 64) and np.abs(columns - of_a).max() < 0.01
    assert float(reply.headers["x-rest"]) == pytest.approx(max(columns.max(), maps[:, :, 1:].max()), abs=0.01)
    _, columns = parts_of(client.post("/data/attention/thumbnails", json={**asked, "other": b}))
    assert np.abs(columns - (of_b - of_a)).max() < 0.02


def test_thumbnails_of_up_to_64_tokens_have_the_first_token_alone_in_a_column(client, bench):
    for length, follows in ((63, "0"), (64, "0"), (65, "1")):
        asked = question(bench, prompt=" ".join(f"w{1 + place}" for place in range(length)))
        reply = client.post("/data/attention/thumbnails", json=asked)
        assert reply.headers["x-second"] == follows and maps_of(reply).shape == (16, min(length, 64), min(length, 64))


def test_what_is_offered_defines_what_is_shown(client, bench):
    a, b = bench.known
    one = client.post("/data/attention/offer", json=question(bench, weigh="value")).json()
    assert "‖α v W_O‖ (Kobayashi et al. 2020" in one["definition"]
    pair = client.post("/data/attention/offer", json=question(bench, checkpoint=a, other=b, weigh="value")).json()
    assert pair["definition"].startswith("workbench.analyses.attention_difference")
    assert "‖α v W_O‖ (Kobayashi et al. 2020" in pair["definition"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"checkpoint": "nobody@step1"}, "no checkpoint 'nobody@step1'"),
        ({"checkpoint": "/etc"}, "no checkpoint '/etc'"),
        ({"other": "../step0"}, "no checkpoint '../step0'"),
        ({"layer": 9}, "no head L9H0"),
        ({"head": -1}, "no head L0H-1"),
        ({"prompt": "  "}, "empty"),
        ({"prompt": "w1 " * 2049}, "at most 2,048"),
        ({"prompt": "w1 " * 4097}, "at most 2,048"),
    ],
)
def test_what_can_be_mended_is_said(client, bench, wrong, said):
    reply = client.post("/data/attention/map", json=question(bench) | wrong)
    assert reply.status_code == 422
    assert said in reply.json()["detail"]
    assert client.post("/data/attention/map", json=question(bench)).status_code == 200


@pytest.mark.parametrize("wrong", [{"layer": "x"}, {"combine": "sum"}, {"more": 1}, {"layer": 1e30}, {"prompt": None}])
def test_what_is_no_question_is_refused(client, bench, wrong):
    assert client.post("/data/attention/map", json=question(bench) | wrong).status_code == 422


def test_it_says_that_it_is_well(client):
    assert client.get("/healthz").json() == {"status": "ok", "checkpoints": 2}


@pytest.mark.parametrize("path", [*GRADIO_ROUTES, "/healthz", "/nowhere", "/gradio_api/upload"])
def test_every_answer_carries_the_headers(client, path):
    headers = client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS


def test_the_policy_names_no_other_host():
    policy = HEADERS["content-security-policy"]
    assert "http:" not in policy and "https:" not in policy and "*" not in policy
    assert "frame-ancestors 'none'" in policy and "object-src 'none'" in policy


FORM = {
    "files": {"video": ("a.mp4", b"x"), "files": b"x"},
    "data": {"component_id": "1", "session_hash": "a", "fn_name": "x"},
}
UPLOADS = (
    "upload",
    "upload/",
    "%75pload",
    "upload_progress",
    "process_recording",
    "process_recording/",
    "component_server",
)


@pytest.mark.parametrize("path", UPLOADS)
def test_nothing_can_be_uploaded(client, path):
    reply = client.post(f"/gradio_api/{path}", **FORM)
    assert reply.status_code == 404 and "it accepts no uploads" in reply.json()["detail"]
    assert client.post(f"//gradio_api//{path}", **FORM).status_code == 404


def test_large_bodies_are_refused(client, bench):
    reply = client.post("/data/attention/map", json=question(bench, prompt="x" * MOST_BYTES))
    assert reply.status_code == 413


def test_large_bodies_of_unstated_length_are_refused(client):
    def parts():
        for _ in range(40):
            yield b"x" * 10_000

    assert client.post("/data/attention/map", content=parts()).status_code == 413


def test_files_of_the_machine_are_not_served(client):
    for path in ("/gradio_api/file=/etc/passwd", f"/gradio_api/file={ROOT / 'app.py'}", "/gradio_api/file=../app.py"):
        assert client.get(path).status_code == 404


ELSEWHERE = ("http://192.0.2.1/a", "https://192.0.2.1/a", "HTTP://192.0.2.1/a", "http%3A//192.0.2.1/a")
SPELLED = (
    "/gradio_api/",
    "//gradio_api/",
    "/gradio_api//",
    "/%67radio_api/",
    "/./gradio_api/",
    "/data/../gradio_api/",
)


@pytest.mark.parametrize("url", ELSEWHERE)
@pytest.mark.parametrize("route", ["file=", "file%3D", "fil%65=", "file/", "proxy=", "proxy%3d"])
def test_nothing_is_fetched_from_elsewhere(client, monkeypatch, route, url):
    fetched = []

    async def fetch(*asked):
        fetched.append(asked)
        return Response()

    monkeypatch.setattr("gradio.routes.secure_url_stream_response", fetch)
    for start in SPELLED:
        for ask in (client.get, client.head):
            assert ask(f"{start}{route}{url}").status_code == 404
    assert fetched == []


def test_only_what_the_page_uses_is_there(client):
    """Gradio's other routes are refused for every method; new routes of a later Gradio would be refused, too."""
    used = {"/", "/healthz", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"}
    used |= {"/assets/a", "/static/a"}
    used |= {f"/gradio_api/{name}" for name in ("info", "app_id", "run/predict", "queue/join", "queue/data")}
    routes = {route.path for route in client.app.routes[-1].app.routes if hasattr(route, "path")}
    routes |= {f"/gradio_api/{name}" for name in ("cancel", "reset", "deep_link", "call/_ask", "api/predict", "new")}
    beside = {re.sub(r"\{[^}]*\}", "a", path) for path in routes} - used
    assert len(beside) > 15
    for path in beside:
        assert {ask(path).status_code for ask in (client.get, client.post, client.put, client.options)} == {404}, path


def test_an_idle_page_holds_no_connection(client):
    assert client.get("/config").json()["connect_heartbeat"] is False


def test_events_cannot_go_round_the_queue(client):
    beside = []
    for number, function in client.app.routes[-1].app.get_blocks().fns.items():
        if function.fn is not None:
            event = {"data": [None] * len(function.inputs), "fn_index": number, "session_hash": "one"}
            direct = client.post("/gradio_api/run/predict", json=event)
            if direct.status_code != 404:
                beside.append(function.fn.__qualname__)
    assert beside == ["connect_stop.<locals>.stop"]  # it runs no model, and must be handled while a model runs


HALF = "half a surrogate pair"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def stop(client):
    """The Stop event, as a browser sends it."""
    events = client.get("/config").json()["dependencies"]
    (number,) = (event["id"] for event in events if event["backend_fn"] and not event["queue"])
    return {"data": [], "fn_index": number, "session_hash": "one"}


WRONG = [
    ({"fn_index": 9999}, "does not have this event"),
    ({"fn_index": -1}, "does not have this event"),
    ({"fn_index": 10**30}, "does not have this event"),
    ({"fn_index": None}, "does not have this event"),
    ({"fn_index": [1]}, "does not have this event"),
    ({"data": [1, 2]}, "takes 0 values"),
    ({"data": {}}, "takes 0 values"),
    ({"event_data": {"token": "\ud800"}}, HALF),
    ({"session_hash": "\udfff"}, HALF),
    ({"session_hash": None}, "needs a session_hash"),
    ({"session_hash": "a" * 65}, "needs a session_hash"),
    ({"session_hash": "a/b"}, "needs a session_hash"),
    ({"batched": True}, "does not accept batched events"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=[str(wrong)[:40] for wrong, _ in WRONG])
@pytest.mark.parametrize("route", ["queue/join", "run/predict"])
def test_what_is_no_event_is_refused_with_a_sentence(client, stop, route, wrong, said):
    reply = client.post(f"/gradio_api/{route}", content=json.dumps(stop | wrong), headers=JSON)
    assert (reply.status_code, said in reply.json()["detail"]) == (422, True), reply.text


def test_an_event_that_is_one_is_not_refused(client, stop):
    assert client.post("/gradio_api/run/predict", json=stop).status_code == 200


BODIES = (b"", b"[]", b"null", b"3", b"{", b"\xff{", b"[" * 10**5, b'{"data": NaN}', b'{"data": 1e400}')


@pytest.mark.parametrize("body", BODIES, ids=[str(body[:12]) for body in BODIES])
def test_what_is_no_object_is_refused_with_a_sentence(client, body):
    for route in ("/gradio_api/queue/join", "/gradio_api/run/predict", "/data/attention/map", "/data/text/offer"):
        reply = client.post(route, content=body, headers=JSON)
        assert reply.status_code in (400, 422) and reply.json()["detail"]


@pytest.mark.parametrize("route", ["attention/map", "attention/offer", "text/offer"])
def test_text_that_is_none_is_refused_with_a_sentence(client, bench, route):
    for wrong in ({"prompt": "a \ud800 b"}, {"checkpoint": "\udc00"}, {"\ud800": 1}):
        reply = client.post(f"/data/{route}", content=json.dumps(question(bench) | wrong), headers=JSON)
        assert reply.status_code == 422 and HALF in reply.json()["detail"]
    pair = json.dumps(question(bench, prompt="a \U0001f600 b"))  # JSON spells this character as two halves
    assert "\\ud83d" in pair and client.post(f"/data/{route}", content=pair, headers=JSON).status_code == 200


@pytest.mark.parametrize("branch", ["1:" + "9" * 5000, "9" * 5000 + ":1", "٣:1", "1:²"])
def test_numbers_that_are_none_are_refused_with_a_sentence(client, bench, branch):
    reply = client.post("/data/text/offer", json=question(bench, branch=branch))
    assert reply.status_code == 422 and "is not a valid branch" in reply.json()["detail"]


def test_there_is_one_page(client):
    for query in ("page=x", "page=%ff", "page=%00"):
        assert client.get(f"/?{query}").status_code == 404
    for query in ("page=", "deep_link=..%2f", "view=api", "tab=nowhere&token=x&length=nan&checkpoint=%ff"):
        assert client.get(f"/?{query}").status_code == 200


@pytest.fixture(scope="module")
def running(bench):
    """A server that works through its queue, and keeps the states of one page instead of 64."""
    with client_of(bench) as client:
        client.app.routes[-1].app.state_holder.capacity = 1
        yield client


def page_without_its_state(client, name, tab):
    """A page whose state the server has dropped, because another page was opened later."""
    page = Headless(client, name, f"tab={tab}&prompt=w5+w17+w3&token=1&layer=2&head=3&length=2")
    page.open()
    Headless(client, "other").stop()
    assert name not in client.app.routes[-1].app.state_holder
    page.values |= dict.fromkeys((page.ids[name] for name in ("attention", "written", "lens-tools")), None)
    return page


@pytest.mark.parametrize(
    ("tab", "part", "happens", "told", "shows"),
    [
        ("Attention", "run", "click", None, "attention"),
        ("Attention", "selection", "select", {"token": 2}, "attention"),
        ("Generate", "tabs", "select", {"value": "Attention", "index": 1}, "attention"),
        ("Attention", "tabs", "select", {"value": "Generate", "index": 0}, "written"),
        ("Generate", "Generate", "click", None, "written"),
        ("Hidden states", "Logit lens", "change", None, "lens-tools"),
    ],
)
def test_a_page_whose_state_is_gone_goes_on_as_its_address_says(running, request, tab, part, happens, told, shows):
    page = page_without_its_state(running, f"old{request.node.callspec.indices['tab']}", tab)
    page.fire(part, happens, told)
    assert page.failed == [] and page.value("problem") == ""
    assert all(word in json.dumps(page.value(shows)) for word in ("w5", "w17", "w3"))
    page.fire("run", "click")
    assert page.failed == [] and page.value("problem") == "" and page.value("spine")["texts"] == ["w5", "w17", "w3"]


def test_errors_are_plain_text_wherever_they_stand(client):
    """No component interprets markup."""
    config = client.get("/config").json()
    assert [part["id"] for part in config["components"] if part["type"] == "markdown"] == []
    plain = [part for part in config["components"] if part["props"].get("elem_id") in ("problem", "count")]
    assert len(plain) == 2 and all("views.sentence(" in part["props"]["js_on_load"] for part in plain)
    assert "innerHTML" not in views.asset("sentence.js")
    assert {part["props"]["html_template"] for part in plain} == {" "}


def page_of(bench):
    async def made():
        return build(bench, TABS)

    return asyncio.run(made())


def test_the_queue_is_short_and_the_api_is_closed(client):
    demo = client.app.routes[-1].app.get_blocks()
    assert demo._queue.max_size == 128
    assert demo.api_open is False
    assert demo.state_session_capacity == 64
    models = [fn for fn in demo.fns.values() if fn.concurrency_id == "model"]
    assert models and all(fn.concurrency_limit == 1 for fn in models)


def test_nothing_is_kept_that_need_not_be(client):
    assert client.app.routes[-1].app.get_blocks().delete_cache == (600, 3600)


@pytest.mark.parametrize("path", ["/monitoring", "/monitoring/summary", "/gradio_api/runs", "/docs"])
def test_what_is_switched_off_is_not_there(client, path):
    reply = client.get(path)
    assert reply.status_code in (403, 404), path


def test_nothing_is_a_websocket(client):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/gradio_api/queue/data"):
        pass


def test_one_run_at_a_time_and_the_others_are_told(bench, monkeypatch):
    monkeypatch.setattr("workbench.page.session.model_lock.PATIENCE", 0.05)
    with bench.lock.held(), pytest.raises(WorkbenchError, match="busy: 0 requests before yours"), bench.lock.held():
        pass
    with bench.lock.held():
        pass


def test_a_prompt_is_as_long_as_the_model_takes(bench, tmp_path, make_model, tokenizer):
    assert bench.read(bench.default, "w1 " * 4096).ids.shape == (1, 4096)
    with pytest.raises(WorkbenchError, match=r"4,097 tokens.*at most 4,096"):
        bench.read(bench.default, "w1 " * 4097)
    make_model("olmo2", max_position_embeddings=32).save_pretrained(tmp_path / "step0")
    tokenizer.save_pretrained(tmp_path)
    short = Bench(checkpoints.series(str(tmp_path)), 10**9)
    with pytest.raises(WorkbenchError, match="at most 32"):
        short.read(short.default, "w1 " * 33)


def test_a_checkpoint_that_leads_out_of_its_series_is_not_opened(tmp_path, make_model, tokenizer):
    make_model("olmo2").save_pretrained(tmp_path / "elsewhere" / "step0")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "step0").symlink_to(tmp_path / "elsewhere" / "step0")
    tokenizer.save_pretrained(tmp_path / "series")
    led = Bench(checkpoints.series(str(tmp_path / "series")), 10**9)
    with pytest.raises(WorkbenchError, match="is a link out of its series"):
        led.read(led.default, "w1 w2")
    assert led.run_here(led.default) == [] and page_of(led).fns  # it is not read along a run either; the page starts


def test_a_model_over_the_budget_is_refused_before_it_is_read(bench, monkeypatch):
    small = Bench(list(bench.known.values()), 1000)
    monkeypatch.setattr("workbench.checkpoints.residency.load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(WorkbenchError, match=r"needs .*, but the budget for loaded models is"):
        small.read(small.default, "w1 w2")


def test_templates_take_nothing_from_tokens():
    for path in (ROOT / "workbench" / "views").glob("*.html"):
        assert not re.search(r"\$\{|\{\{", path.read_text()), path.name
    for path in (ROOT / "workbench" / "views").glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", path.read_text()), path.name


def test_what_is_kept_is_bounded_by_number_and_by_bytes():
    kept = ResultCache(3, 1000)
    for number in range(5):
        kept.put(number, np.zeros(50, np.float32))
    assert [kept.get(number) is not None for number in range(5)] == [False, False, True, True, True]
    kept.put("most", (np.zeros(200, np.float32), {"title": np.zeros(10, np.float32)}))
    assert kept.get("most") is not None and kept.nbytes <= 1000
    kept.put("too much", np.zeros(251, np.float32))
    assert kept.get("too much") is None and kept.get("most") is not None


NAMES = ("evil.example", "", "127.0.0.1@evil.example", "[::1", "[127.0.0.1", "127.0.0.1.evil.example", "a" * 5000, "é")


@pytest.mark.parametrize("name", NAMES)
def test_other_names_do_not_lead_here(client, name):
    reply = client.get("/healthz", headers={"host": name.encode()})
    assert reply.status_code == 400 and "no such host name" in reply.json()["detail"]
    assert {name: reply.headers[name] for name in HEADERS} == HEADERS


@pytest.mark.parametrize("address", ["192.0.2.7", "192.0.2.7:7860", "[2001:db8::7]", "[2001:DB8::7]:7860"])
def test_the_address_that_a_connection_comes_to_is_the_servers(client, address):
    """With `--host 0.0.0.0`: addresses of all interfaces are accepted, and no other name."""
    beyond = TestClient(client.app, base_url=f"http://{address}")
    assert beyond.get("/healthz").status_code == 200
    assert beyond.get("/healthz", headers={"host": "192.0.2.8"}).status_code == 400
    assert beyond.get("/healthz", headers={"host": "evil.example"}).status_code == 400


def test_this_machines_own_names_lead_here():
    assert trusted_hosts("127.0.0.1") == {"127.0.0.1", "localhost", "[::1]"}
    assert {"localhost", socket.gethostname().lower(), "lab.example"} <= trusted_hosts("Lab.example")
    assert [in_header(host) for host in ("fe80::1%eth0", "::ffff:192.0.2.7")] == ["[fe80::1]", "192.0.2.7"]


def test_what_goes_wrong_is_a_sentence_with_the_headers(client, bench, monkeypatch, logged):
    def broken(*_, **__):
        raise AttributeError("a fault of ours: <img src=x>")

    monkeypatch.setattr(bench, "status", broken)
    monkeypatch.setattr("gradio.routes.App.get_blocks", broken)
    for path in ("/data/status", "/gradio_api/app_id"):
        logged.records.clear()
        reply = client.get(path)
        assert reply.status_code == 500 and "the error is in the server's log" in reply.json()["detail"]
        assert {name: reply.headers[name] for name in HEADERS} == HEADERS
        assert "a fault of ours" in logged.text


def test_other_sites_cannot_ask(client, bench):
    reply = client.post("/data/attention/map", json=question(bench), headers={"origin": "http://evil.example"})
    assert reply.status_code == 403
    same = client.post("/data/attention/map", json=question(bench), headers={"origin": "http://127.0.0.1"})
    assert same.status_code == 200


def test_sentences_are_for_what_can_be_mended_alone(client):
    """A bug, such as a KeyError, is not shown as a sentence but raised."""
    assert {kind for kind, handler in client.app.exception_handlers.items() if handler is refuse} == set(MENDABLE)
