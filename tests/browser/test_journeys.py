"""What people do on the page, done in a browser."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from .conftest import Visit

HOSTILE = "<img src=x onerror=\"document.body.dataset.broken='yes'\"> ${alert(1)} {{value}} <b>bold</b>"


def tab(page: Page, name: str) -> None:
    """Turn to a tab; in a narrow window some are behind a menu."""
    if page.get_by_role("tab", name=name).count() == 0:
        page.get_by_label("More tabs").click()
        page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()
    else:
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
    before = 512
    for _ in range(4):  # on a busy machine the text may be whole before the click arrives
        page.get_by_role("button", name="Generate").click()
        page.wait_for_function("n => document.querySelectorAll('#written .token:not(.given)').length != n", arg=before)
        page.locator("#stop").click()
        page.wait_for_timeout(500)
        before = written.count()
        page.wait_for_timeout(600)
        assert written.count() == before, "it went on after Stop"
        if before < 512:
            return
    raise AssertionError("no click came before the end of the text")


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
    expect(page.locator("#loss-difference .token")).to_have_count(page.locator("#spine .token").count())
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
    for name in ("Generate", "Attention", "Hidden states"):
        tab(page, name)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    visit.close()


def plotted(page: Page, panel: str) -> None:
    expect(page.locator(f"{panel} .js-plotly-plot .main-svg").first).to_be_visible(timeout=20_000)
    expect(page.locator(f"{panel} .python")).to_be_visible()


def test_hidden_states_choose_a_token_and_download(visit: Visit):
    page = visit.open("tab=Hidden%20states")
    plotted(page, "#lens")
    plotted(page, "#states")
    box = page.locator("#lens .js-plotly-plot .nsewdrag").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    expect(page.locator("#spine .token[aria-selected=true]")).to_have_count(1)
    page.wait_for_function("new URL(location).searchParams.has('token')")
    with page.expect_download() as waiting:
        page.locator("#lens .csv").click()
    lines = Path(waiting.value.path()).read_text().splitlines()
    assert lines[0].startswith("# read with") and any("tiny-olmo" in line for line in lines[:12])
    page.locator("#lens .python").click()
    expect(page.locator("#lens .code")).to_contain_text("logit_lens(model, tokens")


def test_attribution_follows_the_chosen_token(visit: Visit):
    page = visit.open("tab=Attribution")
    plotted(page, "#direct")
    plotted(page, "#patching")
    before = page.locator("#direct .gtitle").first.text_content()
    page.locator("#spine .token").nth(5).click()
    expect(page.locator("#direct .gtitle").first).not_to_have_text(before)
    page.get_by_label("Token (empty").fill("no single token at all")
    expect(page.locator(".block.problem:visible")).to_contain_text("not one")
    plotted(page, "#direct")


def test_training_shows_the_run_and_plays_a_head(visit: Visit):
    page = visit.open("tab=Training&layer=2&head=5")
    assert drawn(page, "#through") == "L2H5"
    late = page.locator("#through canvas.map").evaluate("(canvas) => canvas.toDataURL()")
    plotted(page, "#training")
    slider = page.locator("#moment input[type=range]")
    slider.focus()
    slider.press("Home")
    expect(page.locator("#through .which")).to_contain_text("step 0")
    page.wait_for_function("(late) => document.querySelector('#through canvas.map').toDataURL() !== late", arg=late)
    assert drawn(page, "#through") == "L2H5"
    page.get_by_role("button", name="Open it in all tabs").click()
    page.wait_for_function("new URL(location).searchParams.get('checkpoint').endsWith('step0')")


def test_the_page_of_its_own_opens_offline(visit: Visit, chromium: Browser, tmp_path: Path):
    page = visit.open("tab=Attention")
    drawn(page)
    with page.expect_download() as waiting:
        page.locator("#attention .page").click()
    saved = tmp_path / "attention.html"
    saved.write_bytes(Path(waiting.value.path()).read_bytes())
    context = chromium.new_context(offline=True)
    alone, wrong = context.new_page(), []
    alone.on("pageerror", lambda error: wrong.append(str(error)))
    alone.goto(saved.as_uri())
    alone.wait_for_selector("[data-drawn]")
    assert colours(alone, "canvas.map") > 8 and wrong == []
    context.close()


def test_by_keyboard_alone(visit: Visit):
    page = visit.open()
    page.get_by_role("tab", name="Generate").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Attention")).to_have_attribute("aria-selected", "true")
    drawn(page)
    thumb = page.locator("#attention .thumb[tabindex='0']")
    thumb.focus()
    page.keyboard.press("ArrowRight")
    page.locator("#attention .plane").focus()
    for key in ("ArrowUp", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#attention .cell")).to_contain_text("query")
    page.locator("#spine .token[tabindex='0']").focus()
    page.keyboard.press("Home")
    expect(page.locator("#spine .token").first).to_have_attribute("aria-selected", "true")


def test_two_people_do_not_mix(visit: Visit, chromium: Browser, address: str):
    one = visit.open("length=5&ends=false")
    other_visit = Visit(chromium, address)
    other = other_visit.open("length=5&ends=false&prompt=Somebody%20else%20entirely")
    one.get_by_label("Length").fill("300")
    one.get_by_role("button", name="Generate").click()
    other.get_by_role("button", name="Generate").click()
    expect(other.locator("#written .token:not(.given)")).to_have_count(5)
    expect(one.locator("#written .tokens")).to_contain_text("Mart")
    expect(other.locator("#written .tokens")).not_to_contain_text("Mart")
    other_visit.close()
    expect(one.locator("#written .token:not(.given)")).to_have_count(300, timeout=20_000)
