"""The tab Features in a browser: find a feature, read its card, name it, switch it off, explain a token."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from workbench.views import asset

from .conftest import Furnished, Visit, saved
from .looks import fits_and_passes_axe

HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
HOSTILE_TOKENS = [HOSTILE, "</script><b>", "\u05d0\u05d1", "x" * 5000]
_EXAMPLE = {"text": 0, "position": 0, "at": 0, "value": 1.0, "tokens": HOSTILE_TOKENS, "values": [1.0, 0.5, 0.0, 0.0]}
CARD_VALUE = {
    "feature": 1,
    "dictionary": HOSTILE,
    "facts": [[HOSTILE, 0.5, "number"]],
    "raised": [[token, 1.0] for token in HOSTILE_TOKENS],
    "lowered": [[token, -1.0] for token in HOSTILE_TOKENS],
    "edges": [0.0, 1.0],
    "counts": [1],
    "high": 1.0,
    "groups": [{"title": HOSTILE, "examples": [_EXAMPLE]}],
    "neighbours": [[HOSTILE, 3, 0.5]],
    "called": HOSTILE,
    "silent": HOSTILE,
    "life": {"steps": [0, 5], "norms": [0.0, 1.0], "born": 5, "died": None, "floor": 0.1, "ends": [1.0, 0.9]}
    | {"fires": [0.0, 0.5], "scaled": None},
}
TABLE_VALUE = {
    "summary": HOSTILE,
    "columns": [[HOSTILE, "words"], ["name", "name"], ["token", "token"], ["curve", "curve"]],
    "rows": [[n, token, token, token, [0.0, 1.0]] for n, token in enumerate(HOSTILE_TOKENS)],
    "search": HOSTILE,
    "act": HOSTILE,
}
ROWS, CARD = "#feature-table tbody tr", "#feature-card"


def drawn(view: str) -> str:
    """JavaScript that draws a value by a view's own template and script; it gives the texts of the tokens of a card's
    examples, the number of elements that the value should not have made, and whether its texts are there as text."""
    return f"""(value) => {{
      const element = document.createElement("div"), props = {{ value }}, trigger = () => {{}}, watch = () => {{}};
      element.innerHTML = {json.dumps(asset(f"{view}.html"))};
      document.body.append(element);
      {asset(f"{view}.js")}
      const made = [[...element.querySelectorAll(".example .token")].map((token) => token.textContent),
        element.querySelectorAll("img, script, b b").length,
        Number(element.textContent.includes({json.dumps(HOSTILE)}))];
      element.remove();
      return made;
    }}"""


@pytest.fixture(scope="module")
def address(furnished: Furnished) -> str:
    return furnished.address


def test_a_feature_is_found_named_switched_off_and_a_token_explained(visit: Visit, furnished: Furnished):
    name = furnished.dictionary
    page = visit.open(f"tab=Features&feature=7&dictionary={name}&set=tiny-olmo%2Fplace")
    expect(page.locator(f"{CARD} .name")).to_have_text("Feature 7")
    expect(page.locator(ROWS)).to_have_count(24)
    page.locator("#feature-table .search").fill("11")
    expect(page.locator(ROWS)).to_have_count(1)
    page.locator(f"{ROWS} td.words button").first.press("Enter")
    expect(page.locator(f"{CARD} .name")).to_have_text("Feature 11")
    page.wait_for_function("new URL(location).searchParams.get('feature') === '11'")
    assert page.locator(f"{CARD} .example").count() > 0 and page.locator(f"{CARD} .raised .line").count() > 0

    page.locator(f"{CARD} .called").fill(HOSTILE)
    page.locator(f"{CARD} .called").press("Enter")
    expect(page.locator(f"{ROWS} td.name")).to_have_text(HOSTILE)  # the search still holds
    assert page.locator("#stage img").count() == 0 and page.title() != "broken"
    assert "onerror" in Path(saved(page, CARD, "csv").path()).read_text()

    page.locator(f"{CARD} .off").click()
    expect(page.locator("#interventions .chip")).to_contain_text(f"feature {name}/11 off")
    expect(page.locator(f"{CARD} .held")).to_contain_text("In force")
    page.wait_for_function("new URL(location).searchParams.get('edits').endsWith('/11 off')")

    page.locator("#feature input").fill("24")
    expect(page.locator("#stage .block.problem:visible")).to_contain_text("features 0 to 23")
    expect(page.locator(f"{CARD} .name")).to_have_text("Feature 11")  # nothing is lost

    page.locator("#features-of input").click()
    page.get_by_role("option", name="active at the selected token").click()
    expect(page.locator("#active-table tbody tr").nth(4)).to_be_visible()  # the embedded dictionaries' too
    page.locator("#active-table .search").fill(Path(name).name)
    expect(page.locator("#active-table tbody tr")).to_have_count(4)
    page.locator("#spine .token").nth(5).click()
    expect(page.locator("#active-table .summary")).to_contain_text("token 5,")
    number = page.locator("#active-table tbody tr").nth(1).locator("td.count").inner_text()
    page.locator("#active-table tbody tr").nth(1).locator("td.words button").click()
    expect(page.locator(f"{CARD} .name")).to_have_text(f"Feature {number}")
    fits_and_passes_axe(page, "Features")

    page.locator("#features-of input").click()
    page.get_by_role("option", name="all features").click()
    expect(page.locator("#active-table")).to_be_hidden()
    page.locator("#spine .token").nth(3).click()
    expect(page.locator("#details .numbers")).to_contain_text("token 3")
    page.locator("#details .actions .features").click()
    expect(page.locator("#active-table .summary")).to_contain_text("token 3,")
    assert page.evaluate(drawn("feature_card"), CARD_VALUE) == [HOSTILE_TOKENS, 0, 1]
    assert page.evaluate(drawn("text_table"), TABLE_VALUE) == [[], 0, 1]
    assert page.title() != "broken"
