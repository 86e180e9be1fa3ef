"""Several pages at one server: results do not mix, requests end, and memory does not grow."""

import json
import signal
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from .conftest import SECONDS, Server, Visit, ask, drawn, settle, start, stop, tab

WARM = 5  # runs that fill the caches
RUNS = 6  # runs that may leave nothing more behind, but for the noise of open connections
MOST_GROWTH = {"objects": 40 * RUNS, "bytes": 10_000 * RUNS}
OURS = ("workbench.", "hooks.", "torch.Tensor", "numpy.ndarray")  # types of which not one object a run may stay
Census = dict[str, dict[str, int]]


def test_two_people_do_not_mix_and_one_may_leave(visit: Visit, other_visit: Visit):
    one = visit.open("length=5&ends=false")
    other = other_visit.open_in(other_visit.another(), "length=5&ends=false&prompt=Somebody%20else%20entirely")
    one.get_by_label("Length").fill("300")
    one.get_by_role("button", name="Generate").click()
    one.wait_for_function("document.querySelectorAll('#written .token:not(.given)').length > 5")
    one.locator("#stop").click()
    other.get_by_role("button", name="Generate").click()
    expect(other.locator("#written .token:not(.given)")).to_have_count(5)
    expect(one.locator("#written .tokens")).to_contain_text("Mart")
    expect(other.locator("#written .tokens")).not_to_contain_text("Mart")
    other.get_by_label("Length").fill("400")
    other.get_by_role("button", name="Generate").click()
    other.wait_for_function("document.querySelectorAll('#written .token:not(.given)').length > 5")
    other.close()  # in the middle of a run
    tab(one, "Attention")
    drawn(one)


def test_runs_leave_no_objects_behind(chromium: Browser, tmp_path: Path):
    process, address = start(program=("tests/census.py", str(tmp_path)))
    try:
        visit = Visit(chromium, address)
        page = visit.open("length=3&ends=false&tab=Attention")
        runs(page, range(1, WARM + 1))
        before = census(page, process, tmp_path)
        runs(page, range(WARM + 1, WARM + RUNS + 1))
        until = time.monotonic() + SECONDS
        while growth := grown(before, census(page, process, tmp_path)):
            assert time.monotonic() < until, f"{RUNS} runs left behind: {growth}"  # unfinished work is not growth
        visit.close()
        models = json.load(urllib.request.urlopen(f"{address}/data/status"))["models"]
        assert len(models) == 1
    finally:
        stop(process)


def runs(page: Page, numbers: range) -> None:
    """Run a prompt of its own for each number, and wait for its strip and its attention map."""
    for run in numbers:
        ask(page, f"Number {run} lives in Lisbon and sells {'oranges and ' * (run % 2)} lemons")
        page.wait_for_function(f"document.querySelector('#attention .name') && {told(run)}")
        drawn(page)


def grown(before: Census, after: Census) -> dict[str, int]:
    """Growth by type, where it is more than noise; empty if none is. One object left by each run is more."""
    growth = {kind: {name: size - before[kind].get(name, 0) for name, size in after[kind].items()} for kind in after}
    leaks = {name: more for name, more in growth["objects"].items() if name.startswith(OURS) and more >= RUNS}
    for kind, most in MOST_GROWTH.items():
        if sum(growth[kind].values()) > most:
            leaks |= {name: more for name, more in growth[kind].items() if more}
    return leaks


def told(run: int) -> str:
    """Whether the strip shows the run's own prompt."""
    digits = "".join(f"[{digit}]" for digit in str(run))
    return f"/Number▁?{digits}/.test(document.querySelector('#spine .tokens').textContent.replace(/▁+/g, '▁'))"


def census(page: Page, process: Server, folder: Path) -> Census:
    """What the server's objects hold, counted when the stream to the page is closed."""
    settle(page)
    file, until = folder / f"{len(list(folder.glob('*.json')))}.json", time.monotonic() + 2 * SECONDS
    process.send_signal(signal.SIGUSR1)
    while not file.exists():
        assert process.poll() is None and time.monotonic() < until, "the server does not answer"
        time.sleep(0.1)
    return json.loads(file.read_text())
