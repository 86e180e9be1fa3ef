"""A browser opens at most six connections to a server. Open pages keep none, so any number of them work."""

from playwright.sync_api import expect

from .conftest import Visit, ask, drawn


def test_seven_pages_of_one_browser_all_work(visit: Visit):
    pages = [visit.page, *(visit.context.new_page() for _ in range(6))]
    for number, page in enumerate(pages):
        page.set_default_timeout(60_000)
        page.goto(f"{visit.address}/?tab=Attention&prompt=Page%20{number}%20reads%20this", wait_until="commit")
    for page in pages:
        page.wait_for_selector("body[data-ready]")
        drawn(page)
    for number, page in enumerate(reversed(pages)):
        page.bring_to_front()
        ask(page, f"one two three one two {number}")
        expect(page.locator("#spine .tokens")).to_contain_text("three")
    for page in pages[1:6]:
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<i data-testid=status-tracker></i>')")
    pages[0].bring_to_front()
    expect(pages[0].locator("#status")).to_contain_text("5 pages of this browser compute at once")
