"""Several pages at one server: results do not mix, requests end, and memory does not grow."""

import gc
import json
import re
import urllib.request

import psutil
from playwright.sync_api import Browser, expect

from .conftest import Visit, ask, drawn, start, stop, tab
from .test_stopping import opened, patching

GROWTH = 15_000_000  # bytes by which a server may grow over fifteen runs
# One memory pool for all threads, which returns freed memory, so that the process size is the memory in use.
GIVES_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def test_two_people_do_not_mix_and_one_may_leave(visit: Visit, chromium: Browser, address: str):
    one = visit.open("length=5&ends=false")
    other_visit = Visit(chromium, address)
    other = other_visit.open("length=5&ends=false&prompt=Somebody%20else%20entirely")
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
    other_visit.close()  # in the middle of a run
    tab(one, "Attention")
    drawn(one)


def test_who_waits_is_told(visit: Visit, chromium: Browser, address: str):
    one = opened(visit, "Marta sells white oranges")
    other_visit = Visit(chromium, address)
    other = other_visit.open("length=5&ends=false&prompt=Somebody%20else%20entirely")
    patching(one, "This takes long.")
    other.get_by_role("button", name="Generate").click()
    expect(other.locator("#status")).to_contain_text(re.compile(r"busy: \d+ before you"))
    one.locator("#stop").click()
    expect(other.locator("#status")).not_to_contain_text("busy")
    other_visit.close()


def test_thirty_runs_leave_memory_flat(chromium: Browser):
    process, address = start(**GIVES_BACK)
    visit = Visit(chromium, address)
    page = visit.open("length=3&ends=false&tab=Attention")
    memory = {}
    for run in range(1, 31):
        ask(page, f"Number {run} lives in Lisbon and sells {'oranges and ' * (run % 5)} lemons")
        page.wait_for_function(f"document.querySelector('#attention .name') && {told(run)}")
        drawn(page)
        memory[run] = resident(process.pid)
    visit.close()
    gc.collect()
    models = json.load(urllib.request.urlopen(f"{address}/data/status"))["models"]
    stop(process)
    assert len(models) == 1
    # The minimum of ten runs of equal length, because memory of unfinished work is not growth.
    before, after = (min(memory[run] for run in range(last - 9, last + 1)) for last in (15, 30))
    assert after - before < GROWTH, {run: size // 10**6 for run, size in memory.items()}


def told(run: int) -> str:
    """Whether the strip shows the run's own prompt."""
    digits = "".join(f"[{digit}]" for digit in str(run))
    return f"/Number▁?{digits}/.test(document.querySelector('#spine .tokens').textContent.replace(/▁+/g, '▁'))"


def resident(pid: int) -> int:
    return psutil.Process(pid).memory_info().rss
