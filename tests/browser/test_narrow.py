"""A tablet and a phone: the columns fold, nothing overlaps or scrolls sideways, a tap does what a click does."""

from playwright.sync_api import Page, expect

from .conftest import Visit, drawn, settle

SIDEWAYS = "document.documentElement.scrollWidth - innerWidth"
BELOW_THE_STRIP = "document.querySelector('#tabs').getBoundingClientRect().top + scrollY"
POINTED_AT = """(index) => {
  const over = new MouseEvent("mouseover", {bubbles: true});
  document.querySelector(`#spine .token[data-index="${index}"]`).dispatchEvent(over);
  return document.querySelector("#spine .readout").textContent.includes(`token ${index}`);
}"""  # again at each poll, since a strip that is drawn again forgets where the pointer was


def box(page: Page, selector: str) -> dict[str, float]:
    """Where an element is in the window."""
    found = page.locator(selector).bounding_box()
    assert found is not None, f"{selector} is not in sight"
    return found


def overlap(page: Page, *selectors: str) -> list[tuple[str, str]]:
    """The pairs of elements that cover each other."""
    boxes = {selector: box(page, selector) for selector in selectors}
    return [
        (one, other)
        for one, a in boxes.items()
        for other, b in boxes.items()
        if one < other
        and a["x"] + a["width"] > b["x"] + 1
        and b["x"] + b["width"] > a["x"] + 1
        and a["y"] + a["height"] > b["y"] + 1
        and b["y"] + b["height"] > a["y"] + 1
    ]


def test_columns_fold_and_a_tap_does_what_a_click_does(touch_visit: Visit):
    page = touch_visit.open("tab=Attention&__theme=dark", 420)
    drawn(page)
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"  # its scrollbars
    for place, (width, height) in enumerate([(420, 900), (768, 1024), (1024, 768)]):
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate("scrollTo(0, 0)")  # the strip stays in sight, over what is scrolled below it
        settle(page)
        columns_fold(page, width, height)
        taps_select(page, token=3 + place, head=2 + place)


def columns_fold(page: Page, width: int, height: int) -> None:
    """Nothing overlaps or scrolls sideways, and the columns stand where they do in a window of this size."""
    assert page.evaluate(SIDEWAYS) <= 0
    header = ("#brand", "#checkpoint", "#prompt", "#run", "#examples", "#history", "#sets", "#count")
    assert overlap(page, *header, "#spine", "#stage") == []
    assert box(page, "#prompt")["width"] > 200 and box(page, "#checkpoint")["width"] > 170
    assert box(page, "#spine")["height"] < height / 5
    tabs = page.get_by_role("tab").all()
    assert all(tab.is_visible() and tab.bounding_box()["x"] + tab.bounding_box()["width"] <= width for tab in tabs)
    assert box(page, "#tabs .tab-wrapper")["height"] < 120 and page.get_by_label("More tabs").count() == 0
    stage, inspector, rail = (box(page, name) for name in ("#stage", "#inspector", "#rail-column"))
    assert rail["y"] >= stage["y"] + stage["height"] - 1
    if width > 900:
        assert inspector["x"] >= stage["x"] + stage["width"]
    else:
        assert stage["y"] + stage["height"] - 1 <= inspector["y"] < rail["y"]
    tops = {page.evaluate(BELOW_THE_STRIP)}
    for index in (3, 9):  # what is said of a token moves nothing, or the token would leave the pointer
        page.wait_for_function(POINTED_AT, arg=index)
        tops.add(page.evaluate(BELOW_THE_STRIP))
    assert len(tops) == 1


def taps_select(page: Page, token: int, head: int) -> None:
    """Tap a token, a head of layer 1 and a cell of its map."""
    page.locator("#spine .token").nth(token).tap()
    expect(page.locator("#spine .token[aria-selected=true]")).to_have_attribute("data-index", str(token))
    page.locator(f"#rail .thumb[data-layer='1'][data-head='{head}']").tap()
    expect(page.locator("#attention .name")).to_contain_text(f"L1H{head}")
    drawn(page)
    plane = page.locator("#attention .plane")
    plane.press("Escape")
    expect(page.locator("#attention .locked, #attention.locked")).to_have_count(0)
    plane.scroll_into_view_if_needed()
    size = plane.bounding_box()
    plane.tap(position={"x": 0.2 * size["width"], "y": 0.8 * size["height"]})
    expect(page.locator("#attention .locked, #attention.locked")).to_have_count(1)
    expect(page.locator("#head .cell")).to_contain_text("query")
    assert page.evaluate(SIDEWAYS) <= 0
