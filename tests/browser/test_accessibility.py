"""Every tab fits its window and passes axe-core (wide and light, narrow and dark), and works with the keyboard."""

from importlib.resources import files

import pytest
from playwright.sync_api import Browser, Page, expect

from workbench.page.tabs import TABS

from .conftest import Visit, drawn, tab

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
FOUND = """async () => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    const said = (id, { html, target }) => `${id}: ${target} ${html.slice(0, 120)}`;
    return violations.flatMap(({ id, nodes }) => nodes.map((node) => said(id, node)));
}"""

SIDEWAYS = """() => [...document.querySelectorAll("*")]
    .filter((part) => part.offsetParent && part.scrollWidth > part.clientWidth)
    .filter((part) => ["auto", "scroll"].includes(getComputedStyle(part).overflowX))
    .filter((part) => !part.matches(".figure, pre, .scroll"))
    .map((part) => `it scrolls sideways: ${part.outerHTML.slice(0, 120)}`)"""  # but for wide grids, tables and code

# All colours are the style sheet's, so the class is the theme; colours that would fade in are there at once.
THEME = """(theme) => {
    document.body.classList.toggle("dark", theme === "dark");
    document.getAnimations().filter((one) => one instanceof CSSTransition).forEach((one) => one.finish());
}"""

# Violations in Gradio's own elements, which the page cannot change: rule and a part of the element.
GRADIOS_OWN: dict[str, tuple[str, ...]] = {}


def violations(page: Page) -> list[str]:
    """The violations that axe-core finds on the current page."""
    page.evaluate(AXE)
    found = page.evaluate(FOUND)
    return [one for one in found if not any(part in one for part in GRADIOS_OWN.get(one.split(":")[0], ()))]


@pytest.mark.parametrize(("theme", "width"), [("light", 1300), ("dark", 420)])
def test_every_tab_fits_and_passes_axe(chromium: Browser, address: str, theme: str, width: int):
    visit = Visit(chromium, address, width=width)
    page, found = visit.open(f"__theme={theme}&compare_length=8"), {}
    for title in [module.TITLE for module in TABS]:
        tab(page, title)
        settle(page)
        fits = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found[title] = violations(page) + ([] if fits else ["it scrolls sideways"]) + page.evaluate(SIDEWAYS)
    visit.close()
    assert found == {title: [] for title in found}


def show_as(page: Page, theme: str, width: int) -> None:
    """Show the open page in a theme, and in a window of this width."""
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate(THEME, theme)
    settle(page)


def settle(page: Page) -> None:
    """Wait until nothing is computed and no view is dimmed."""
    for _ in range(2):  # one view may be drawn after another
        page.wait_for_timeout(600)
        page.wait_for_function(
            "!document.querySelector('[data-testid=status-tracker]:not(.hide), .busy')", timeout=90_000
        )


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
