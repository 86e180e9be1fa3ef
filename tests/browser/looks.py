"""How an open tab looks: it fits its window and passes axe-core, narrow and dark, and wide and light."""

from importlib.resources import files

from playwright.sync_api import Page, expect

from .conftest import settle

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

LOOKS = (("dark", 420), ("light", 1300))  # themes and widths

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


def fits_and_passes_axe(page: Page, tab: str) -> None:
    """Check the open tab in both looks; at the end it is wide and light."""
    expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
    for look in LOOKS:
        show_as(page, *look)
        assert violations(page) == [], look
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), look
        assert page.evaluate(SIDEWAYS) == [], look
