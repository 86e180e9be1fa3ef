"""What is kept during a visit: the history of runs, and a pinned prompt."""

from urllib.parse import quote

from playwright.sync_api import Page, expect

from .conftest import Visit, ask, plotted, settle, tab

HOSTILE = "<img src=x onerror=\"document.body.dataset.broken='yes'\"> <b>bold</b>"


def reads(page: Page, text: str, strip: str = "#spine") -> None:
    """Wait until a strip shows a text, given without spaces."""
    expect(page.locator(f"{strip} .tokens")).to_be_visible()
    page.wait_for_function(
        "([strip, text]) => document.querySelector(`${strip} .tokens`)?.textContent.replace(/▁/g, '') === text",
        arg=[strip, text],
    )
    settle(page)


def test_back_and_the_history_lead_to_what_was_run(visit: Visit):
    page = visit.open("tab=Attention&prompt=one%20two%20three")
    ask(page, "red blue green")
    reads(page, "redbluegreen")
    page.locator("#spine .token").nth(1).click()  # a selection is no entry
    tab(page, "Hidden states")
    ask(page, HOSTILE)
    expect(page.locator("#spine .tokens")).to_contain_text("onerror")
    settle(page)
    page.go_back()
    reads(page, "redbluegreen")
    expect(page.locator("#prompt textarea")).to_have_value("red blue green")
    page.go_back()
    reads(page, "onetwothree")
    page.go_forward()
    reads(page, "redbluegreen")
    page.get_by_role("button", name="History").click()
    entries = page.locator("#history").get_by_role("menuitem")
    expect(entries).to_have_count(3)
    expect(entries.last.locator(".prompt")).to_have_text("one two three")
    expect(page.locator("#history [aria-current] .prompt")).to_have_text(["red blue green"])
    entries.filter(has_text="onerror").click()
    expect(page.locator("#spine .tokens")).to_contain_text("onerror")
    expect(page.get_by_role("tab", name="Hidden states")).to_have_attribute("aria-selected", "true")
    settle(page)
    assert page.evaluate("document.body.dataset.broken") is None
    assert page.locator("#history img, #history b").count() == 0


def test_a_prompt_is_pinned_swapped_patched_from_and_unpinned(visit: Visit):
    page = visit.open("tab=Attention&prompt=one%20two%20three")
    expect(page.locator("#pinned")).to_be_hidden()
    page.get_by_role("button", name="Pin", exact=True).click()
    reads(page, "onetwothree", "#pinned")
    expect(page.locator("#pinned .title")).to_contain_text("step 6,000")
    room = "getComputedStyle(document.querySelector('#desk')).getPropertyValue('--pinned')"  # maps leave it free
    assert page.evaluate(room) == "68px"
    ask(page, "one two four")
    reads(page, "onetwofour")
    page.locator("#pinned").get_by_role("button", name="Swap").click()
    reads(page, "onetwothree")
    reads(page, "onetwofour", "#pinned")
    page.wait_for_function("new URL(location).searchParams.get('pin').includes('one two four')")
    page.locator("#pinned").get_by_role("button", name="Use as second prompt").click()
    expect(page.get_by_role("tab", name="Attribution")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("Second prompt")).to_have_value("one two four")
    plotted(page, "#patching")
    visit.open(page.url.split("?", 1)[1])
    reads(page, "onetwofour", "#pinned")
    page.locator("#pinned").get_by_role("button", name="Unpin").click()
    expect(page.locator("#pinned")).to_be_hidden()


def test_a_link_with_a_broken_pin_says_so(visit: Visit):
    page = visit.open(f"tab=Attention&pin={quote(HOSTILE)}")
    expect(page.locator(".block.problem p", has_text="pinned prompt of this link cannot be read")).to_be_visible()
    assert page.evaluate("document.body.dataset.broken") is None
