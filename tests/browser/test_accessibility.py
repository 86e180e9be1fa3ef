"""Every tab fits its window and passes axe-core (wide and light, narrow and dark), and works with the keyboard."""

from importlib.resources import files

from playwright.sync_api import Page, expect

from workbench.page.tabs import TABS

from .conftest import Visit, drawn, settle, tab

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
FOUND = """async () => {
    const exclude = [...document.querySelectorAll("[role=tabpanel]")].filter((panel) => !panel.offsetParent);
    const { violations } = await axe.run({ include: document, exclude }, { resultTypes: ["violations"] });
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

# Plotly draws a plot again a tenth of a second after the window has another size.
UNCHANGED = """() => {
    const widths = [...document.querySelectorAll(".main-svg")].map((part) => part.getBoundingClientRect().width);
    const before = window.sizes;
    window.sizes = JSON.stringify(widths);
    return window.sizes === before;
}"""
FITS = """() => {
    const figure = document.querySelector("#training .figure");
    return figure.querySelector(".main-svg").getBoundingClientRect().width === figure.clientWidth;
}"""

LOOKS = (("light", 1300), ("dark", 420))  # themes and widths

# Violations in Gradio's own elements, which the page cannot change: rule and a part of the element.
GRADIOS_OWN: dict[str, tuple[str, ...]] = {}


def violations(page: Page) -> list[str]:
    """The violations that axe-core finds on the current page, without its hidden tabs."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    found = page.evaluate(FOUND)
    return [one for one in found if not any(part in one for part in GRADIOS_OWN.get(one.split(":")[0], ()))]


def show_as(page: Page, theme: str, width: int) -> None:
    """Show the open page in a theme, and in a window of this width, and wait until the plots fit it."""
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate(THEME, theme)
    settle(page)
    page.evaluate("window.sizes = null")
    page.wait_for_function(UNCHANGED, polling=250)


def test_every_tab_fits_and_passes_axe_in_both_looks(visit: Visit):
    page, found = visit.open("compare_length=4"), {}
    for number, title in enumerate(module.TITLE for module in TABS):
        tab(page, title)
        for look in LOOKS if number % 2 else reversed(LOOKS):  # a tab opens in the last look of the one before
            show_as(page, *look)
            fits = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            found[title, look] = violations(page) + ([] if fits else ["it scrolls sideways"]) + page.evaluate(SIDEWAYS)
    assert found == {part: [] for part in found}
    page.set_viewport_size({"width": 760 if page.evaluate("innerWidth") == 420 else 420, "height": 900})
    tab(page, "Training")  # drawn in another window, and hidden since then
    page.wait_for_function(FITS)


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
