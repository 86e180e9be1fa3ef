"""What the page shows of the training text, on a server whose cache holds a small index."""

import shutil
from pathlib import Path

import planted_cache
import pytest
from playwright.sync_api import Page, expect

from .conftest import Furnished, Visit, export, plotted
from .looks import fits_and_passes_axe

PROMPT = "prompt=She lives in Lisbon and sells"


@pytest.fixture(scope="module")
def address(furnished: Furnished) -> str:
    return furnished.address


def opened(page: Page) -> None:
    """Open the section of the inspector and wait for its answer."""
    page.locator("#details .seen summary").click()
    expect(page.locator("#details .seen .found > *").first).to_be_visible()


def test_the_inspector_shows_ngrams_documents_and_steps_and_runs_no_markup(visit: Visit):
    page = visit.open(f"{PROMPT}&tab=Attention")
    opened(page)
    section = page.locator("#details .seen")
    expect(section.locator(".ngrams button").first).to_have_attribute("aria-pressed", "true")
    expect(section.locator(".document b").first).to_contain_text("Lisbon and sells")
    expect(section.locator(".document").filter(has_text=planted_cache.HOSTILE)).to_have_count(1)
    expect(section.locator(".document small").first).to_contain_text("<b>source")
    expect(section.locator(".timeline .tick").first).to_be_attached()
    export(page, "#details .seen", "python")
    expect(section.locator(".card.code")).to_contain_text("documents_with(")
    page.keyboard.press("Escape")
    assert page.evaluate("window.pwned") is None and section.locator("img").count() == 0
    fits_and_passes_axe(page, "Attention")
    before = section.locator(".document").count()
    section.locator(".ngrams button").last.focus()  # the token alone is in more documents than the longest n-gram
    page.keyboard.press("Enter")
    expect(section.locator(".ngrams button").last).to_have_attribute("aria-pressed", "true")
    expect(section.locator(".ngrams button").last).to_be_focused()
    assert section.locator(".document").count() >= before


def test_without_an_index_the_section_says_how_and_with_one_rows_are_ranked_for_a_price(
    visit: Visit, furnished: Furnished
):
    cache = furnished.cache
    (folder,) = (cache / "tiny-olmo").glob("index-*")
    shutil.move(folder, cache / "elsewhere")
    opened(visit.open(f"{PROMPT}&tab=Attention"))
    expect(visit.page.locator("#details .seen .found")).to_contain_text("python -m workbench corpus build tiny-olmo")
    shutil.move(cache / "elsewhere", folder)
    opened_again = visit.page.locator("#details .seen .ngrams")
    visit.page.locator("#spine .token").nth(2).click()  # nothing has to be reloaded
    expect(opened_again).to_be_visible()
    ranked_for_a_price(visit, furnished.hold)


def ranked_for_a_price(visit: Visit, hold: Path) -> None:
    """Compare: the rows between two checkpoints have a price, Stop ends their ranking, Run offers it again."""
    two = "checkpoint=tiny-olmo@step50&other=tiny-olmo@step0"
    page = visit.open(f"{PROMPT}&tab=Compare&{two}")
    price, said = page.locator("#explaining-price"), page.locator("#explaining > .block.problem")
    expect(price).to_contain_text("Compute (")
    hold.touch()
    price.click()
    expect(said).to_contain_text("the first row")
    page.locator("#stop").click()
    expect(said.locator("p")).to_have_text("stopped")
    hold.unlink()
    page.locator("#run").click()  # offers it again
    price.click()
    plotted(page, "#explaining")
    names = page.evaluate("document.querySelector('#explaining .js-plotly-plot').layout.yaxis.ticktext")
    assert any("Lisbon and sells”" in name and " · step" in name for name in names[:-2])
    assert names[-1].startswith("median of")
    assert page.evaluate("window.pwned") is None and page.locator("#explaining img").count() == 0


def test_a_written_text_shows_its_verbatim_pieces_and_a_click_opens_their_documents(visit: Visit):
    page = visit.open(f"{PROMPT}&tab=Generate&length=8")
    strip = page.locator("#written")
    expect(strip.locator(".token")).to_have_count(page.locator("#spine .token").count() + 8)
    strip.locator("select.shade").select_option("verbatim")
    expect(strip.locator(".strip.verbatim .token.scored").first).to_be_visible()
    token = strip.locator(".token").nth(3)
    token.hover()
    expect(strip.locator(".readout")).to_contain_text("× in the training text")
    held = strip.locator(".token.in-span").count()
    token.click()
    section = page.locator("#details .seen")
    expect(section.locator(".ngram.chosen .number").first).to_have_text(str(held))
    expect(section.locator(".document b").first).to_be_visible()
    fits_and_passes_axe(page, "Generate")
    strip.locator("select.shade").select_option("difference")
    expect(strip.locator(".token.above, .token.below").first).to_be_visible()
    token.hover()
    expect(strip.locator(".readout")).to_contain_text("∞-gram")
    page.reload(wait_until="commit")  # the choice is in the address, and holds for both strips
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#spine .token.above, #spine .token.below").first).to_be_visible()
    page.locator("#spine select.shade").select_option("")
    expect(page.locator("#spine .measure")).to_contain_text("surprisal")
