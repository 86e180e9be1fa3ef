"""A page without a browser: it sends the events of Gradio's own client one by one, when a test requests them."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
from fastapi import Request
from fastapi.testclient import TestClient

from workbench.page import compat
from workbench.page.server import create_app
from workbench.page.session.bench import Bench


@contextmanager
def served(bench: Bench) -> Iterator[TestClient]:
    """A client of a running server."""

    async def made():  # Gradio leaves an event loop open where none is running
        return create_app(bench)

    with TestClient(asyncio.run(made()), base_url="http://127.0.0.1") as client:
        yield client


compat.LINGER = 0.0  # a stream of messages ends with the last event, which these pages wait for


class Headless:
    """One open page of a server. It knows only the values that a browser would show.

        page = Headless(client, "one")
        page.open()                              # and wait until no event is left
        for event in page.events("run", "click"):
            ...                                  # between two events that a browser would send

    `query` is the address that a browser would send along with every event.
    """

    def __init__(self, client: TestClient, name: str, query: str = "") -> None:
        self.client, self.name, self.query = client, name, query
        config = client.get("/config").json()
        self.values = {part["id"]: part["props"].get("value") for part in config["components"]}
        self.seen = {part["id"]: part["props"].get("visible") for part in config["components"]}
        self.ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        self.labels = {part["props"].get("label"): part["id"] for part in config["components"]}
        self.buttons = {
            part["props"].get("value"): part["id"] for part in config["components"] if part["type"] == "button"
        }
        self.deps = {dep["id"]: dep for dep in config["dependencies"]}
        self.failed: list[object] = []  # text that a browser would show in a red box

    def value(self, elem_id: str) -> object:
        """The value of a component."""
        return self.values[self.ids[elem_id]]

    def visible(self, elem_id: str) -> object:
        """Whether a component is visible."""
        return self.seen[self.ids[elem_id]]

    def find(self, name: str) -> int:
        """A component by its id on the page, its label or, of a button, its text."""
        return next(names[name] for names in (self.ids, self.buttons, self.labels) if name in names)

    def fire(self, name: str, event: str, data: object = None) -> list[int]:
        """Trigger a component's events, and then all events that follow from them, one by one."""
        return list(self.events(name, event, data))

    def events(self, name: str, event: str, data: object = None) -> Iterator[int]:
        """Like `fire`, in steps: each event is sent when the next one is requested."""
        return self._all(self._on(self.find(name), event), data)

    def open(self) -> None:
        """Open the page."""
        loads = [dep["id"] for dep in self.deps.values() if any(target[1] == "load" for target in dep["targets"])]
        list(self._all(loads))

    def stop(self) -> None:
        """Press Stop; this event is not queued."""
        (dep,) = self._on(self.ids["stop"], "click")
        reply = self._post("run/predict", dep, None)
        assert reply.status_code == 200, reply.text

    def join(self, dep: int, data: object = None) -> None:
        """Send an event and do not wait for it."""
        reply = self._post("queue/join", dep, data)
        assert reply.status_code == 200, reply.text

    def told(self) -> list[dict]:
        """The server's messages until no sent event is left."""
        reply = self.client.get(f"/gradio_api/queue/data?session_hash={self.name}")
        return [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]

    def _on(self, component: int, event: str) -> list[int]:
        return [dep["id"] for dep in self.deps.values() if [component, event] in dep["targets"]]

    def _all(self, due: list[int], data: object = None) -> Iterator[int]:
        while due:
            dep = due.pop(0)
            if self.deps[dep]["backend_fn"]:
                self.join(dep, data)
                due += [after for message in self.told() for after in self._done(dep, message)]
                yield dep
            due += [after["id"] for after in self.deps.values() if after["trigger_after"] == dep]
            data = None

    def _done(self, dep: int, message: dict) -> list[int]:
        """The events that follow from a message, after its values are shown."""
        if message["msg"] == "unexpected_error" or not message.get("success", True):
            self.failed.append(message.get("output", message))
        if message["msg"] not in ("process_generating", "process_completed") or not message["success"]:
            return []
        output = message["output"]
        whole = output["data"] if message["msg"] == "process_completed" else []  # before, what is new only
        for component, value in zip(self.deps[dep]["outputs"], whole, strict=False):
            if not (isinstance(value, dict) and value.get("__type__") == "update"):
                self.values[component] = value
                continue
            self.values[component] = value.get("value", self.values.get(component))
            self.seen[component] = value.get("visible", self.seen.get(component))
        return [after for state in output.get("changed_state_ids") or () for after in self._on(state, "change")]

    def _post(self, route: str, dep: int, data: object):
        values = [self.values[part] for part in self.deps[dep]["inputs"]]
        body = {"data": values, "fn_index": dep, "event_data": data, "session_hash": self.name, "trigger_id": None}
        return self.client.post(f"/gradio_api/{route}?{self.query}", json=body)


def request_of(name: str, query: str = "") -> gr.Request:
    """The request of a page, as an event's function gets it."""
    scope = {"type": "http", "headers": [], "query_string": query.encode()}
    return gr.Request(Request(scope), session_hash=name)
