"""A conversation in the browser: turns are labelled in the strip and can be selected, and a reply becomes a turn."""

from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from .conftest import Furnished, Visit, settle

TEXT = "system: Answer briefly.\nuser: Where does Marta live? Marta lives in Lisbon."


@pytest.fixture(scope="module")
def address(furnished: Furnished) -> str:
    return furnished.address


def test_turns_are_selected_and_a_reply_becomes_a_turn(visit: Visit, furnished: Furnished):
    chat = quote(f"{furnished.chat}@step6000")
    page = visit.open(f"checkpoint={chat}&chat=true&length=3&ends=false&tab=Generate&prompt={quote(TEXT)}")
    expect(page.locator("#spine .turn")).to_have_text(["system", "user", "assistant"])
    expect(page.locator("#spine .token.template").first).to_have_text("<|endoftext|>")
    expect(page.locator("#details .note button")).to_have_text("add this reply to the turns")  # the text is complete
    page.locator("#spine .turn").nth(1).click()
    expect(page.locator("#spine .turn").nth(1)).to_have_attribute("aria-selected", "true")
    marked = "".join(page.locator("#spine .token.in-turn").all_inner_texts())
    assert marked.replace("▁", " ").startswith("<|user|>")
    chosen = page.locator("#spine .token[aria-selected=true]")
    last = page.locator("#spine .token.in-turn").last
    assert chosen.get_attribute("data-index") == last.get_attribute("data-index")
    page.wait_for_function(f"new URL(location).searchParams.get('token') === '{last.get_attribute('data-index')}'")
    expect(page.locator("#written .token:not(.given)")).to_have_count(3)
    settle(page)  # the chosen turn's details are shown
    page.locator("#written .token:not(.given)").last.click()
    written = page.locator("#written .token").count()
    page.wait_for_selector(f"#details .details:not(.busy)[data-token='{written - 1}']")
    page.locator("#details .note button").click()
    page.wait_for_function("document.querySelector('#prompt textarea').value.includes('\\nassistant: ')")
    typed = page.locator("#prompt textarea").input_value()
    assert typed.startswith(f"{TEXT}\nassistant: ")
