"""The private parts of Gradio that `workbench.page.compat` and `stubs` use still exist and behave as described."""

import asyncio
import inspect
import math
import re
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio import component_meta, routes
from gradio.queueing import Event, Queue
from gradio.state_holder import StateHolder

from workbench.page import compat
from workbench.page.stubs import without_stubs

VIEWS = Path(__file__).parents[1] / "workbench" / "views"
CHANGED = "Gradio has changed: see workbench/page/compat.py, "


def test_a_component_is_defined_without_reading_its_source(monkeypatch):
    file_of, read = inspect.getfile, []
    monkeypatch.setattr(Path, "read_text", lambda path, **_: read.append(path) or "")
    with without_stubs():
        component_meta.create_or_modify_pyi(gr.Textbox, "Textbox", [])
    assert not read, f"{CHANGED}stubs"
    assert inspect.getfile is file_of
    with pytest.raises(ValueError, match="source code"):  # without it, the source is read
        component_meta.create_or_modify_pyi(gr.Textbox, "Textbox", [])
    assert len(read) == 1, f"{CHANGED}stubs: `without_stubs` is not needed now"


def test_private_events_are_not_described(demo):
    assert demo.get_api_info()["named_endpoints"], f"{CHANGED}undescribed: it is not needed now"
    compat.undescribed(demo)
    assert not any(demo.get_api_info().values()), f"{CHANGED}undescribed"


async def made_blocks():
    with gr.Blocks() as demo:
        state, button = gr.State(7), gr.Button("go")
        button.click(lambda value: value, state, state, concurrency_id="model", concurrency_limit=1)
        button.click(lambda: None, None, None)
    demo.queue()
    return demo


@pytest.fixture
def demo():
    return asyncio.run(made_blocks())


def test_an_empty_state_is_in_what_the_browser_gets_at_first():
    async def values():
        with gr.Blocks() as demo:
            quiet, plain = compat.quiet_state(), gr.State(None)
        parts = {part["id"]: part["props"] for part in demo.get_config_file()["components"]}
        return parts[quiet._id], parts[plain._id]

    quiet, plain = asyncio.run(values())
    assert math.isnan(quiet["value"]), f"{CHANGED}quiet_state"
    assert "value" not in plain, f"{CHANGED}quiet_state: a plain State would do now"


@pytest.mark.parametrize(("data", "known"), [({"token": 3}, {"token": 3}), (None, {}), (4, {}), ("text", {})])
def test_the_data_of_an_event_is_a_dictionary(data, known):
    assert compat.event_data(gr.EventData(None, data)) == known, f"{CHANGED}event_data"


def test_the_page_can_see_that_an_event_runs():
    """No other undocumented attribute of Gradio's page is looked for."""
    assets = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    shipped = "".join(path.read_text(encoding="utf-8") for path in assets.glob("*tatus*racker*.js"))
    assert f"<div {compat.PROGRESS_MARK}>" in shipped, f"{CHANGED}PROGRESS_MARK"
    for path in VIEWS.iterdir():
        if path.suffix in (".js", ".css", ".html"):
            asked = re.findall(r"data-testid[^\]]*", path.read_text(encoding="utf-8"))
            assert {*asked} <= {compat.PROGRESS_MARK.replace('"', "")}, path.name


def test_the_classes_that_the_style_sheet_refers_to_exist():
    """Where a class is gone, the style sheet has no effect there, and nothing else would say so."""
    assets = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    shipped = "".join(path.read_text(encoding="utf-8") for path in assets.glob("*.css"))
    styled = (VIEWS / "page.css").read_text(encoding="utf-8")
    for name in compat.STYLED_CLASSES:
        assert re.search(rf"\.{name}(?![\w-])", styled), f"{name} is not in page.css: remove it from STYLED_CLASSES"
        assert re.search(rf"\.{name}(?![\w-])", shipped), f"{CHANGED}STYLED_CLASSES: {name}"


def queued(demo, page, number=0):
    """An event of a page, waiting in its queue."""
    function = list(demo.fns.values())[number]
    event = Event(page, function, SimpleNamespace(scope={}), None)
    queue = demo._queue
    queue.event_queue_per_concurrency_id["model"].queue.append(event)
    queue.event_ids_to_events[event._id] = event
    return event


def test_the_cancelled_events_of_one_page_leave_their_queue(demo, monkeypatch):
    sent = []
    monkeypatch.setattr(Queue, "send_message", lambda self, event, message: sent.append((event, message)))
    monkeypatch.setattr(Queue, "broadcast_estimations", lambda self, name: None)
    demo._queue.create_event_queue_for_fn(next(iter(demo.fns.values())))
    mine, kept, other = queued(demo, "one"), queued(demo, "one"), queued(demo, "other")
    compat.cancel_queued(demo, "one", ["model", "nowhere"], lambda event: event is not kept, "stopped")
    assert demo._queue.event_queue_per_concurrency_id["model"].queue == [kept, other], f"{CHANGED}cancel_queued"
    ((event, message),) = sent
    assert event is mine and message.success and message.output["data"] == ["stopped"]
    assert mine._id not in demo._queue.event_ids_to_events and other._id in demo._queue.event_ids_to_events


def test_a_callback_follows_each_queued_event(demo, monkeypatch):
    async def push(self, body, request, username):
        seen.append("pushed")
        return True, "id", "ok"

    seen = []
    assert list(inspect.signature(Queue.push).parameters) == ["self", "body", "request", "username"], CHANGED
    monkeypatch.setattr(Queue, "push", push)
    compat.after_queueing(demo, seen.append)
    assert asyncio.run(demo._queue.push(SimpleNamespace(session_hash="one"), None, None)) == (True, "id", "ok")
    assert seen == ["pushed", "one"], f"{CHANGED}after_queueing"


def test_the_state_that_a_queued_event_has_as_its_first_input(demo):
    demo.state_holder = StateHolder()
    demo.state_holder.set_blocks(demo)
    demo._queue.create_event_queue_for_fn(next(iter(demo.fns.values())))
    assert compat.first_state(demo, queued(demo, "one")) == 7, f"{CHANGED}first_state"
    assert compat.first_state(demo, queued(demo, "one", 1)) is None


def test_a_callback_comes_before_the_events_of_a_closed_page_are_removed(demo, monkeypatch):
    async def clean(self, *, session_hash=None, event_id=None):
        seen.append(("cleaned", session_hash))

    seen = []
    assert list(inspect.signature(Queue.clean_events).parameters) == ["self", "session_hash", "event_id"], CHANGED
    assert "clean_events(session_hash=session_hash)" in inspect.getsource(routes), f"{CHANGED}before_leaving"
    monkeypatch.setattr(Queue, "clean_events", clean)
    compat.before_leaving(demo, lambda page: seen.append(("left", page)))
    asyncio.run(demo._queue.clean_events(session_hash="one"))
    assert seen == [("left", "one"), ("cleaned", "one")], f"{CHANGED}before_leaving"


def test_an_idle_page_holds_no_connection(demo):
    assert demo.get_config_file()["connect_heartbeat"], f"{CHANGED}without_heartbeat: not needed any more"
    compat.without_heartbeat(demo)
    assert not demo.get_config_file()["connect_heartbeat"], f"{CHANGED}without_heartbeat"
    shipped = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    client = "".join(path.read_text(encoding="utf-8") for path in shipped.glob("index-*.js"))
    assert "!this.config?.connect_heartbeat" in client, f"{CHANGED}without_heartbeat"


def test_the_stream_of_a_page_outlasts_its_last_event(demo, monkeypatch):
    queue = demo._queue

    async def push(self, body, request, username):
        queue.pending_event_ids_session.setdefault(body.session_hash, set()).add("event")
        queue.pending_messages_per_session[body.session_hash] = asyncio.Queue()
        return True, "event", "ok"

    async def one_event(page):
        await queue.push(SimpleNamespace(session_hash=page), None, None)
        waiting = queue.pending_event_ids_session[page]
        waiting.remove("event")
        return waiting, await asyncio.wait_for(queue.pending_messages_per_session[page].get(), 60) if waiting else None

    monkeypatch.setattr(Queue, "push", push)
    assert "pending_event_ids_session" in inspect.getsource(routes), f"{CHANGED}keep_stream"
    compat.keep_stream(demo)
    monkeypatch.setattr(compat, "LINGER", 0.1)
    waiting, message = asyncio.run(one_event("one"))
    assert waiting == {message.event_id} and message.success, f"{CHANGED}keep_stream"
    monkeypatch.setattr(compat, "LINGER", 0.0)
    assert asyncio.run(one_event("two")) == (set(), None)


def test_the_queue_looks_for_events_and_sends_progress_less_often(demo):
    queue = demo._queue
    assert 0 < queue.sleep_when_free < compat.POLL_SECONDS, f"{CHANGED}poll_less: not needed any more"
    assert 0 < queue.progress_update_sleep_when_free < compat.PROGRESS_SECONDS, f"{CHANGED}poll_less: not needed"
    compat.poll_less(demo)
    for loop, seconds in (
        (Queue.start_processing, "sleep_when_free"),
        (Queue.start_progress_updates, "progress_update_sleep_when_free"),
    ):
        assert f"asyncio.sleep(self.{seconds})" in inspect.getsource(loop), f"{CHANGED}poll_less"
        assert vars(queue)[seconds] in (compat.POLL_SECONDS, compat.PROGRESS_SECONDS), f"{CHANGED}poll_less"


def test_hidden_progress_is_reported_to_one_state_only():
    async def made():
        with gr.Blocks() as demo:
            box, state = gr.Textbox(), gr.State()
            box.change(lambda text: text, box, box, show_progress="hidden")
            box.submit(lambda text: text, box, box)
        return demo, state

    demo, state = asyncio.run(made())
    hidden = demo.get_config_file()["dependencies"][0]
    assert hidden["show_progress_on"] is None, f"{CHANGED}hide_progress_in: not needed any more"
    compat.hide_progress_in(demo, state)
    told = [event["show_progress_on"] for event in demo.get_config_file()["dependencies"]]
    assert told == [[state._id], None], f"{CHANGED}hide_progress_in"
