"""The Stop button: the page's computations end at once, its last pictures stay, and other pages are not affected."""

import re
import time

import psutil
from playwright.sync_api import Page, expect

from .conftest import BUSY, Server, Visit, ask, plotted, settle

SENTENCES = "Old Marta lives in Lisbon and sells oranges. Young Pedro lives in Porto and sells lemons. " * 8
PATCHED = "document.querySelector('#patching .js-plotly-plot').layout.xaxis.ticktext.join('')"
LONG = f"tab=Attribution&length=4&prompt={SENTENCES}"
SOON = 20_000  # ms, on a busy machine; then a stopped view says so


def patching(page: Page, text: str) -> None:
    """Request a long computation, and wait until it runs."""
    ask(page, SENTENCES + text)
    running(page)


def running(page: Page) -> None:
    """Wait until a patching runs."""
    expect(page.locator("#patching > .block.problem")).to_contain_text("patching resid_pre", timeout=180_000)


def at_rest(page: Page, within: float = SOON) -> None:
    """Wait until no event of this page runs or is queued."""
    expect(page.locator(BUSY)).to_have_count(0, timeout=within)


def opened(visit: Visit, prompt: str) -> Page:
    """The Attribution tab with the pictures of a short prompt."""
    page = visit.open(f"tab=Attribution&length=4&prompt={prompt}")
    plotted(page, "#patching")
    settle(page)
    return page


def test_stop_ends_a_run_and_what_waits_leaves_its_last_picture_and_run_works_again(visit: Visit):
    page = opened(visit, "Marta sells red oranges")
    places = {part: page.locator(part).bounding_box() for part in ("#run", "#count", "#examples")}
    before = page.evaluate(PATCHED)
    assert before == "Marta▁sells▁red▁oranges"
    expect(page.locator("#stop")).to_be_hidden()  # a moment after the last event
    patching(page, "Stop this.")
    expect(page.locator("#stop")).to_be_visible()
    assert {part: page.locator(part).bounding_box() for part in places} == places  # the layout has not changed
    page.locator("#stop").click()
    at_rest(page)
    expect(page.locator("#patching > .block.problem p")).to_have_text("stopped")
    assert page.evaluate(PATCHED) == before
    expect(page.locator("#stop")).to_be_hidden()
    ask(page, "Pedro sells very green lemons here")
    expect(page.locator("#patching > .block.problem p")).to_have_count(0)
    page.wait_for_function(f"{PATCHED} === 'Pedro▁sells▁very▁green▁lemons▁here'")
    patching(page, "Stop both.")
    for token in (40, 60):  # each click requests another patching, which waits for the running one
        page.locator("#spine .token").nth(token).click()
        page.wait_for_function("(token) => new URL(location).searchParams.get('token') === `${token}`", arg=token)
        expect(page.locator("#direct > .block.problem")).to_contain_text("queue: ")
    page.locator("#stop").focus()
    page.keyboard.press("Enter")
    at_rest(page)
    expect(page.locator("#patching > .block.problem p")).to_have_text("stopped")


def test_stopping_is_for_oneself_and_who_waits_is_told(visit: Visit, other_visit: Visit):
    other = opened(other_visit, "Pedro sells green lemons")
    one = visit.open(LONG + SENTENCES + "Go on.")  # runs until it is stopped, also on a fast machine
    running(one)
    ask(other, "This has to wait")
    expect(other.locator(BUSY)).not_to_have_count(0)
    expect(other.locator("#status")).to_contain_text(re.compile(r"busy: \d+ before you"))
    other.locator("#stop").click()
    at_rest(other)  # although the other one's run goes on
    expect(other.locator("#problem p")).to_have_text("stopped")
    expect(one.locator(BUSY)).not_to_have_count(0)
    assert "stopped" not in one.locator("#patching > .block.problem").inner_text()
    ask(other, "This has to wait")
    expect(other.locator(BUSY)).not_to_have_count(0)
    one.locator("#stop").click()
    at_rest(one)
    expect(one.locator("#patching > .block.problem p")).to_have_text("stopped")
    expect(other.locator("#spine .tokens")).to_contain_text("wait")
    expect(other.locator("#status")).not_to_contain_text("busy")
    at_rest(other, 60_000)
    expect(other.locator(".block.problem p")).to_have_count(0)


def test_a_closed_page_is_not_worked_for(visit: Visit, server: tuple[Server, str]):
    process, page = psutil.Process(server[0].pid), visit.another()
    visit.open_in(page, LONG + "Nobody waits for this.")
    running(page)
    page.close()
    for _ in range(4):  # the run itself would take far longer
        before = sum(process.cpu_times()[:2])
        time.sleep(0.5)
        used = sum(process.cpu_times()[:2]) - before
        if used < 0.2:
            return
    raise AssertionError(f"the server works on, {used:.2f} s in half a second")
