"""The real page in a real browser: a server process of its own, and a Chromium that may talk to nothing else."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parents[2]
SERIES = "tiny-olmo"
SECONDS = 30
expect.set_options(timeout=SECONDS * 1000)  # as patient as everything else here: other tests keep the machine busy


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(*arguments: str) -> tuple[subprocess.Popen, str]:
    """The page's process and its address, once it answers."""
    port = free_port()
    command = [sys.executable, "app.py", "--series", SERIES, "--port", str(port), "--threads", "1", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{address}/healthz", timeout=5).close()
            return process, address
        except urllib.error.HTTPError:  # it answers, and asks for a login
            return process, address
        except OSError:
            assert process.poll() is None and time.monotonic() < until, "the page did not start"
            time.sleep(0.1)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    process, address = start()
    yield address
    process.terminate()
    process.wait(timeout=SECONDS)


class Visit:
    """A browser context that fails the test on any request that leaves the machine and on any error in the console."""

    def __init__(self, browser: Browser, address: str, width: int = 1300, height: int = 900) -> None:
        self.address = address
        self.wrong: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.page.on("console", lambda told: told.type == "error" and self.wrong.append(f"console: {told.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"page: {error}"))
        self.page.on("request", lambda request: self._check(request.url))

    def _check(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.wrong.append(f"left the machine: {url}")

    def open(self, query: str = "") -> Page:
        """The page, once the first result stands on it."""
        self.page.goto(f"{self.address}/?{query}", wait_until="commit")
        self.page.wait_for_selector("body[data-ready]")
        return self.page

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []


@pytest.fixture
def visit(chromium: Browser, address: str) -> Iterator[Visit]:
    visit = Visit(chromium, address)
    yield visit
    visit.close()
