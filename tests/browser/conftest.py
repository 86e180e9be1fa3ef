"""The real page in a real browser: a server process that may connect only to this machine, and a Chromium that may
connect only to that server."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
import torch
from playwright.sync_api import Browser, ConsoleMessage, Download, Page, Request, ViewportSize, expect, sync_playwright

from tests import planted_cache
from tests.chat_templates import OLMO2
from tests.conftest import launch_chromium
from tests.preloaded import Forked
from workbench import checkpoints, features
from workbench.checkpoints import catalog
from workbench.features import Dictionary, Gate

ROOT = Path(__file__).parents[2]
SERIES = "tiny-olmo"
SECONDS = 60
IDLE = "() => new Promise((done) => requestIdleCallback(() => requestIdleCallback(() => done(false))))"
BUSY = "[data-testid=status-tracker]:not(.hide), .busy"
Server = Forked | subprocess.Popen
expect.set_options(timeout=SECONDS * 1000)  # long, because other tests keep the machine busy

# Runs a program in a process that ends, and says why, as soon as it looks up or connects to anything but this machine.
CONFINED = """
import os, runpy, socket, sys

HERE = ("127.0.0.1", "::1", "localhost", None, socket.gethostname())

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if (host.decode() if isinstance(host, bytes) else host) not in HERE:
        print(f"left the machine: {event} {host!r}", file=sys.stderr, flush=True)
        os._exit(77)

sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
sys.addaudithook(watch)
if "huggingface_hub" in sys.modules:  # imported before the fork, where the hub is offline
    sys.modules["huggingface_hub"].constants.HF_HUB_OFFLINE = False
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def confined(program: str, *arguments: str) -> list[str]:
    """The command that runs a program which may connect only to this machine."""
    return [sys.executable, "-c", CONFINED, program, *arguments]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(
    *arguments: str,
    series: Sequence[str] = (SERIES,),
    program: Sequence[str] = ("app.py",),
    fresh: bool = False,
    **variables: str,
) -> tuple[Server, str]:
    """The process and the address of the page, once the server answers.

    The process is forked from an interpreter that has imported torch already, or `fresh`, as a user starts it.
    """
    port = free_port()
    here = ("--series", *series, "--port", str(port), "--threads", "1", "--ask-above", "1e6")  # on a busy machine
    command = confined(*program, *here, *arguments)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | variables
    process = (
        subprocess.Popen(command, cwd=ROOT, env=environment)
        if fresh
        else Forked(command, ROOT, environment, streams=())
    )
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 2 * SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{address}/healthz", timeout=5).close()
            return process, address
        except urllib.error.HTTPError:  # the server answers, and requires a login
            return process, address
        except OSError:
            assert process.poll() is None and time.monotonic() < until, "the page did not start"
            time.sleep(0.02)


def stop(process: Server) -> None:
    """End the page's process. It must still run, so it has connected only to this machine."""
    assert process.poll() is None, f"the server ended early, with exit code {process.poll()}"
    process.terminate()
    process.wait(timeout=SECONDS)


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[Server, str]]:
    process, address = start()
    yield process, address
    stop(process)


@pytest.fixture(scope="session")
def address(server: tuple[Server, str]) -> str:
    return server[1]


@dataclass(frozen=True)
class Furnished:
    """A page with a small index of the training text in its `cache`, a random `dictionary`, and the series `chat`.

    While the file `hold` exists, an influence of rows and a patching do not begin; `held` exists while one waits.
    """

    address: str
    cache: Path
    dictionary: str
    chat: str
    hold: Path
    held: Path


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Furnished]:
    """One server for all files that need such a page: see `furnished_page`."""
    folder = tmp_path_factory.mktemp("furnished")
    cache, hold = folder / "cache", folder / "hold"
    planted_cache.put_in_cache(cache)
    dictionary, chat = saved_dictionary(folder / "sae"), chat_series(folder / "instruct")
    program = ("tests/browser/furnished_page.py", str(hold))
    series = (str(chat), SERIES)  # the page opens with the last
    process, address = start("--dictionary", dictionary, series=series, program=program, XDG_CACHE_HOME=str(cache))
    yield Furnished(address, cache, dictionary, str(chat), hold, folder / "hold.held")
    stop(process)


def saved_dictionary(file: Path) -> str:
    """The name of a random dictionary of 24 features for the residual stream after layer 2."""
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(shape, generator=generator) for shape in ((192, 24), (24, 192)))
    site = "blocks.2.resid_post"
    made = Dictionary(encoder, torch.zeros(24), decoder, torch.zeros(192), Gate("topk", 4), site, site)
    return str(features.save(made, file))


def chat_series(folder: Path) -> Path:
    """A series of the last checkpoint of the embedded one, whose tokenizer is given the chat template of OLMo 2."""
    shutil.copytree(catalog.EMBEDDED[SERIES] / "step6000", folder / "step6000")
    tokenizer = checkpoints.tokenizer_of(SERIES)
    tokenizer.chat_template = OLMO2
    tokenizer.save_pretrained(folder)
    return folder


# What Gradio's client writes to the console when a page with an open stream is left, by a reload or Back.
LEFT = ("AbortError: signal is aborted", "Unexpected error")
# Says so in the console before the client does: a script of the page's beginning is the first to hear the event.
LEAVING = "the page is being left"
TELL_LEAVING = f"addEventListener('beforeunload', () => console.debug('{LEAVING}'))"


UNANSWERED: WeakKeyDictionary[Page, set[Request]] = WeakKeyDictionary()
"""The open requests of each page; the stream that brings a page its results is one of them."""


class Visit:
    """A browser context that fails the test on any request that leaves the machine and on any error in the console.

    While a page is being left, the errors `LEFT` are passed over.
    """

    def __init__(
        self, browser: Browser, address: str, width: int = 1300, height: int = 900, touch: bool = False
    ) -> None:
        self.address = address
        self.wrong: list[str] = []
        self.leaving: set[Page] = set()
        self.size: ViewportSize = {"width": width, "height": height}
        self.context = browser.new_context(viewport=self.size, has_touch=touch)
        self.context.add_init_script(TELL_LEAVING)
        self.page = self.another()

    def another(self) -> Page:
        """One more page of this browser."""
        page = self.context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("console", lambda told: self._read(page, told))
        page.on("pageerror", lambda error: self.wrong.append(f"page: {error}"))
        page.on("domcontentloaded", lambda _: self.leaving.discard(page))
        page.on("request", lambda request: self._check(page, request))
        for end in ("requestfinished", "requestfailed"):
            page.on(end, lambda request: UNANSWERED[page].discard(request))
        UNANSWERED[page] = set()
        return page

    def _read(self, page: Page, told: ConsoleMessage) -> None:
        if told.text == LEAVING:
            self.leaving.add(page)
        elif told.type == "error" and not (page in self.leaving and any(part in told.text for part in LEFT)):
            self.wrong.append(f"console: {told.text}")

    def _check(self, page: Page, request: Request) -> None:
        if request.is_navigation_request():
            UNANSWERED[page].clear()
        UNANSWERED[page].add(request)
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.wrong.append(f"left the machine: {request.url}")

    def open(self, query: str = "", width: int | None = None, height: int = 900) -> Page:
        """Open the page at this address, in a window of this size, and wait for its first result; returns the page."""
        if width is not None:
            self.page.set_viewport_size({"width": width, "height": height})
        return self.open_in(self.page, query)

    def open_in(self, page: Page, query: str = "") -> Page:
        """Open the address in this page of the browser, and wait for its first result; returns the page."""
        page.goto(f"{self.address}/?{query}", wait_until="commit")
        page.wait_for_selector("body[data-ready]")
        return page

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []

    def leave(self) -> None:
        """Leave the page at its first size, and forget what the browser keeps of it and what leaving wrote to the
        console."""
        for other in self.context.pages[1:]:
            other.close()
        self.page.mouse.move(0, 0)
        self.page.set_viewport_size(self.size)
        self.page.goto(f"{self.address}/healthz")
        self.page.evaluate("[sessionStorage, localStorage].forEach((storage) => storage.clear())")
        self.context.clear_cookies()
        self.wrong.clear()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser for all files that drive the page, because it takes seconds to start."""
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module", autouse=True)
def no_event_loop() -> None:
    """Nothing to check: the loop of `chromium` runs until the last of these files."""


Left = dict[tuple[str, bool], list[Visit]]


@pytest.fixture(scope="package")
def left() -> Left:
    """The visits that tests have left, by server and whether the window is touched: later tests go on in their pages,
    whose scripts are compiled."""
    return {}


@contextmanager
def visited(chromium: Browser, address: str, left: Left, touch: bool = False) -> Iterator[Visit]:
    """A visit whose page is not open yet; a test that goes wrong is the last of its visit."""
    others = left.setdefault((address, touch), [])
    visit = others.pop() if others else Visit(chromium, address, touch=touch)
    yield visit
    assert visit.wrong == []
    visit.leave()
    others.append(visit)


@pytest.fixture
def visit(chromium: Browser, address: str, left: Left) -> Iterator[Visit]:
    """A visit with a mouse; see `visited`."""
    with visited(chromium, address, left) as visit:
        yield visit


@pytest.fixture
def other_visit(visit: Visit, chromium: Browser, left: Left) -> Iterator[Visit]:
    """The visit of a second person, who has another browser; see `visited`."""
    with visited(chromium, visit.address, left) as other:
        yield other


@pytest.fixture
def touch_visit(chromium: Browser, address: str, left: Left) -> Iterator[Visit]:
    """A visit by touch; see `visited`."""
    with visited(chromium, address, left, touch=True) as visit:
        yield visit


def settle(page: Page) -> None:
    """Wait until nothing is computed and no view is dimmed.

    The server keeps the stream to a page open for a moment after its last event, so an event that follows from another
    one is not missed; an event of the page itself is sent before the browser is idle.
    """
    until = time.monotonic() + 5 * SECONDS
    while page.evaluate(IDLE) or page.locator(BUSY).count() or UNANSWERED[page]:
        assert time.monotonic() < until, [request.url for request in UNANSWERED[page]]
        page.wait_for_timeout(50)


def tab(page: Page, name: str) -> None:
    """Open a tab."""
    page.get_by_role("tab", name=name).click()


def ask(page: Page, prompt: str) -> None:
    """Type a prompt and run it."""
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#run").click()


def drawn(page: Page, view: str = "#attention") -> str:
    """The name of the head whose map is painted."""
    page.wait_for_selector(f"{view} [data-drawn], {view}[data-drawn]")
    return page.locator(f"{view} .name").evaluate("(name) => name.firstChild.textContent")


def colours(page: Page, canvas: str) -> int:
    """The number of different colours on a canvas."""
    return page.locator(canvas).evaluate(
        """(canvas) => {
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )


def export(page: Page, view: str, item: str) -> None:
    """Choose an item of a view's export menu by its class: python, csv, png, svg, page or link."""
    page.locator(f"{view} .offers .export").click()
    page.locator(f"{view} .offers .{item}").click()


def saved(page: Page, view: str, item: str) -> Download:
    """The file that an item of a view's export menu saves."""
    with page.expect_download() as waiting:
        export(page, view, item)
    return waiting.value


def plotted(page: Page, panel: str) -> None:
    """Wait until a panel's plot is drawn."""
    expect(page.locator(f"{panel} .js-plotly-plot .main-svg").first).to_be_visible()
    expect(page.locator(f"{panel} .export")).to_be_visible()
