"""The tab Circuits in a browser: the number of edges, the paths of a node, an edge by keyboard, a proof, a picture."""

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from .conftest import Visit, saved
from .test_accessibility import SIDEWAYS, settle, violations

GRAPH = "#circuit .graph"
PLACES = (
    "[...document.querySelectorAll('#assembling .node rect')].map(({ x, y }) => [x.baseVal.value, y.baseVal.value])"
)


def edges(page: Page) -> int:
    """The number of edges in the picture."""
    return page.locator(f"{GRAPH} .edge").count()


def width(page: Page) -> float:
    """The width of the widest edge of the graph along training."""
    widths = page.locator("#assembling .edge").evaluate_all(
        "(all) => all.map((edge) => edge.getAttribute('stroke-width'))"
    )
    return max(map(float, widths))


def test_a_circuit_is_drawn_lit_proved_and_saved(visit: Visit):
    page = visit.open("tab=Circuits&pairs=number-pairs")
    expect(page.locator("#circuit .proof")).to_contain_text("of the effect with 60 of 927 edges")
    assert edges(page) == 60
    page.locator(f"{GRAPH} [data-name=L1H5]").click()
    page.wait_for_function("new URL(location).searchParams.get('head') === '5'")
    expect(page.locator("#head .name")).to_have_text("L1H5")
    expect(page.locator("#circuit .reading b")).to_have_text("L1H5")
    lit = page.locator(f"{GRAPH} .edge.on").count()
    assert 2 < lit < 60

    slider = page.locator("#circuit .edges")
    slider.focus()
    slider.press("ArrowLeft")
    expect(page.locator("#circuit .proof")).to_contain_text("Not run with")
    number = int(page.evaluate("new URL(location).searchParams.get('circuit_edges')"))
    assert edges(page) == number < 60
    expect(page.locator("#circuit .prove")).to_have_text(re.compile(rf"Prove it at {number} edges \(about .* s"))
    page.locator("#circuit .prove").click()
    expect(page.locator("#circuit .proof")).to_contain_text(f"of the effect with {number} of 927 edges")
    assert page.locator("#circuit .curve circle").count() == 4  # none, these, 60, all

    page.locator("#circuit summary").click()
    row = page.locator("#circuit tbody tr").nth(25)
    row.locator("button").press("Enter")
    name = row.locator("button").inner_text()
    expect(page.locator("#circuit .reading")).to_contain_text("Not patched exactly yet")
    expect(page.locator("#circuit .reading b")).to_contain_text(f"{name}: ")
    page.locator("#circuit .patch").click()
    expect(page.locator("#circuit .reading")).to_contain_text("Patched alone, exactly")

    page.locator(f"{GRAPH} [data-name=L1H5]").focus()
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.dataset.name") == "L2H5"
    picture = Path(saved(page, "#circuit .heading", "svg").path()).read_text()
    assert "L1H5" in picture and picture.count("stroke-width") == number

    page.locator("#assembly-price").click()  # it waits for a click, whatever the price
    expect(page.locator("#assembly .note")).to_contain_text(
        re.compile(r"Needed from step [\d,]+ on: there the 60 best edges")
    )
    expect(page.locator("#assembling .proof")).to_contain_text(f"the {number} strongest edges of 927")
    still, widest = page.evaluate(PLACES), width(page)
    at, play = page.locator("#assembly-player .at"), page.locator("#assembly-player .play")
    at.press("Home")
    expect(page.locator("#assembling .proof")).to_contain_text("step 0: the ")
    assert page.evaluate(PLACES) == still and width(page) < widest / 2
    at.press("End")
    at.press("ArrowLeft")
    play.click()
    expect(play).to_have_text("Play")
    assert at.evaluate("(at) => at.value === at.max") and width(page) == widest
    settle(page)
    assert violations(page) == []

    page.set_viewport_size({"width": 420, "height": 900})
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and page.evaluate(SIDEWAYS) == []
