"""Every tab fits its window and passes axe-core, and the page works with the keyboard."""

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from workbench.page.tabs import TABS

from .conftest import Visit, drawn


def test_every_tab_is_looked_at_where_a_test_has_opened_it():
    texts = [file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py")]
    looked_at = {tab for text in texts for tab in re.findall(r'    fits_and_passes_axe\(page, "([^"]+)"\)', text)}
    assert looked_at == {module.TITLE for module in TABS}


def test_the_main_path_by_keyboard_alone(visit: Visit):
    page = visit.open()
    press_until(page, "Tab", "#prompt textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type("red blue green red blue")
    press_until(page, "Tab", "#run")
    before = page.locator("#spine .token").count()
    page.keyboard.press("Enter")
    expect(page.locator("#spine .token")).not_to_have_count(before)
    press_until(page, "Tab", "#spine .token")
    page.keyboard.press("End")
    expect(page.locator("#spine .token").last).to_have_attribute("aria-selected", "true")
    press_until(page, "Tab", "#tabs [role=tab]")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Attention")).to_have_attribute("aria-selected", "true")
    drawn(page)
    press_until(page, "Tab", "#rail .thumb")
    page.keyboard.press("ArrowRight")
    press_until(page, "Tab", "#attention .plane")
    for key in ("ArrowUp", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    reading = page.locator("#head .cell[aria-live=polite]")
    expect(reading.locator(".weight")).to_have_count(1)
    shown, exact = reading.locator(".weight").evaluate("(weight) => [weight.innerText, weight.title]")  # at one time
    assert shown == page.evaluate("(exact) => workbench.percent(Number(exact))", exact)


def press_until(page: Page, key: str, selector: str, most: int = 60) -> None:
    """Press a key until an element has the focus, and check that the focus is visible."""
    for _ in range(most):
        page.keyboard.press(key)
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            style = "getComputedStyle(document.activeElement)"
            shows = f"{style}.outlineStyle !== 'none' || {style}.boxShadow !== 'none'"
            assert page.evaluate(shows), f"the focus is not visible on {selector}"
            return
    raise AssertionError(f"{key} never leads to {selector}")
