"""What people do on the page, done in a browser."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from .conftest import Visit

HOSTILE = "<img src=x onerror=\"document.body.dataset.broken='yes'\"> ${alert(1)} {{value}} <b>bold</b>"


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def ask(page: Page, prompt: str) -> None:
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#run").click()


def drawn(page: Page, view: str = "#attention") -> str:
    """The name of the head whose map is painted."""
    page.wait_for_selector(f"{view} [data-drawn], {view}[data-drawn]")
    return page.locator(f"{view} .name").evaluate("(name) => name.firstChild.textContent")


def colours(page: Page, canvas: str) -> int:
    """How many different colours a canvas shows."""
    return page.locator(canvas).evaluate(
        """(canvas) => {
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )


def test_it_opens_with_a_result(visit: Visit):
    page = visit.open()
    expect(page.locator("#count")).to_contain_text("tokens")
    assert page.locator("#spine .token").count() > 10
    expect(page.locator("#written .token:not(.given)").first).to_be_visible()


def test_generate_look_at_a_token_and_branch(visit: Visit):
    page = visit.open("length=24&temperature=0&ends=false")
    expect(page.locator("#written .token:not(.given)")).to_have_count(24)
    prompt = page.locator("#written .token.given").count()
    page.locator("#written .token").nth(prompt + 3).click()
    options = page.locator("#written .alternatives button")
    expect(options).to_have_count(10)
    expect(page.locator("#written .alternatives button.chosen")).to_have_count(1)
    other = options.nth(2).locator(".word").inner_text()
    options.nth(2).click()
    expect(page.locator("#written .token").nth(prompt + 3)).to_have_text(other)
    expect(page.locator("#written .token").nth(prompt + 4)).to_be_visible()


def test_stop_ends_the_stream(visit: Visit):
    page = visit.open("length=5&ends=false")
    written = page.locator("#written .token:not(.given)")
    expect(written).to_have_count(5)
    page.get_by_label("Length").fill("512")
    page.get_by_role("button", name="Generate").click()
    expect(written.nth(8)).to_be_visible()
    page.locator("#stop").click()
    page.wait_for_timeout(400)
    before = written.count()
    page.wait_for_timeout(600)
    assert written.count() == before < 512


def test_open_a_head_hover_lock_and_walk(visit: Visit):
    page = visit.open()
    tab(page, "Attention")
    drawn(page)
    assert page.locator("#attention .thumb").count() > 8
    page.locator("#attention .thumb[data-layer='1'][data-head='2']").click()
    expect(page.locator("#attention .name")).to_contain_text("L1H2")
    assert colours(page, "#attention canvas.map") > 8
    plane = page.locator("#attention .plane")
    box = plane.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.8 * box["height"])
    expect(page.locator("#attention .cell")).to_contain_text("query")
    expect(page.locator("#spine .title")).to_contain_text("L1H2")
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(0, 0)
    expect(page.locator("#attention .locked, #attention.locked")).to_have_count(1)
    locked = page.locator("#attention .cell").inner_text()
    plane.focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator("#attention .cell")).not_to_have_text(locked)
    page.keyboard.press("]")
    expect(page.locator("#attention .name")).to_contain_text("L1H3")
    page.keyboard.press("Escape")
    expect(page.locator("#spine .title")).to_contain_text("surprisal")


def test_compare_two_checkpoints(visit: Visit):
    page = visit.open("compare_length=12")
    tab(page, "Compare")
    for text in ("#text-a", "#text-b"):
        expect(page.locator(f"{text} .token:not(.given)").first).to_be_visible()
    assert page.locator("#loss-difference .token").count() == page.locator("#spine .token").count()
    drawn(page, "#pair")
    maps = page.locator("#pair canvas.map")
    assert maps.count() == 3
    pixels = [maps.nth(index).evaluate("(canvas) => canvas.toDataURL()") for index in range(3)]
    assert len(set(pixels)) == 3


def test_a_link_reopens_the_view(visit: Visit):
    page = visit.open("tab=Attention&layer=2&head=3&prompt=one%20two%20three%20one%20two")
    assert drawn(page) == "L2H3"
    expect(page.locator("#prompt textarea")).to_have_value("one two three one two")
    page.locator("#attention .thumb[data-layer='0'][data-head='1']").click()
    page.wait_for_function("new URL(location).searchParams.get('layer') === '0'")
    tab(page, "Generate")
    page.wait_for_function("new URL(location).searchParams.get('tab') === 'Generate'")
    again = page.url.split("?", 1)[1]
    assert "head=1" in again and "prompt=one" in again


def test_bad_input_is_said_and_the_last_result_stays(visit: Visit):
    page = visit.open()
    tokens = page.locator("#spine .token").count()
    for prompt, said in (("   ", "empty"), ("word " * 6000, "at most")):
        ask(page, prompt)
        expect(page.locator("#problem")).to_contain_text(said)
        assert page.locator("#spine .token").count() == tokens
    ask(page, "All is well again")
    expect(page.locator("#problem")).not_to_contain_text("at most")
    expect(page.locator("#spine .token")).not_to_have_count(tokens)


def test_tokens_are_text_and_nothing_else(visit: Visit):
    page = visit.open()
    ask(page, HOSTILE)
    expect(page.locator("#count")).not_to_have_text(re.compile("^23 "))
    expect(page.locator("#spine .tokens")).to_contain_text("onerror")
    tab(page, "Attention")
    drawn(page)
    page.locator("#attention .plane").click()
    assert page.evaluate("document.body.dataset.broken") is None
    assert page.locator("#spine img, #spine b:not(.readout b), #attention img").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_narrow_window_does_not_scroll_sideways(chromium: Browser, address: str, theme: str):
    visit = Visit(chromium, address, width=420)
    page = visit.open(f"__theme={theme}")
    for name in ("Generate", "Attention", "Compare"):
        tab(page, name)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    visit.close()
