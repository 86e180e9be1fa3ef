"""Typical uses of the page, in a browser."""

from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

from playwright.sync_api import Browser, Page, expect

from workbench.page.build.page import EXAMPLES

from .conftest import Visit, ask, colours, drawn, export, saved, tab

HOSTILE = "<img src=x onerror=\"document.body.dataset.broken='yes'\"> ${alert(1)} {{value}} <b>bold</b>"


def test_it_opens_with_a_result_and_a_head_is_opened_hovered_locked_and_walked(visit: Visit):
    page = visit.open()
    expect(page.locator("#count")).to_contain_text("tokens")
    assert page.locator("#spine .token").count() > 10
    expect(page.locator("#written .token:not(.given)").first).to_be_visible()
    tab(page, "Attention")
    drawn(page)
    assert page.locator("#rail .thumb").count() > 8
    page.locator("#rail .thumb[data-layer='1'][data-head='2']").click()
    expect(page.locator("#attention .name")).to_contain_text("L1H2")
    assert colours(page, "#attention canvas.map") > 8
    plane = page.locator("#attention .plane")
    box = plane.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.8 * box["height"])
    expect(page.locator("#head .cell")).to_contain_text("query")
    expect(page.locator("#spine .title")).to_contain_text("L1H2")
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(0, 0)
    expect(page.locator("#attention .locked, #attention.locked")).to_have_count(1)
    expect(page.locator("#head .cell .weight")).to_have_count(1)
    locked = page.locator("#head .cell").inner_text()
    plane.focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator("#head .cell")).not_to_have_text(locked)
    page.keyboard.press("]")
    expect(page.locator("#attention .name")).to_contain_text("L1H3")
    page.keyboard.press("Escape")
    expect(page.locator("#spine .title")).to_contain_text("surprising")


def test_what_is_chosen_elsewhere_is_shown_on_return(visit: Visit):
    page = visit.open("tab=Attribution&layer=0&head=1&compare_length=4&prompt=a%20b%20c%20d%20e%20f%20g")
    views = {"Attention": "#attention", "Compare": "#pair", "Training": "#through"}
    for name, view in views.items():
        tab(page, name)
        expect(page.locator(f"{view} .name")).to_contain_text("L0H1")
        assert drawn(page, view) == "L0H1"
    tab(page, "Attribution")
    page.locator("#sources .pick select").select_option("L2H1")
    expect(page.locator("#sources .view-head .title")).to_contain_text("L2H1")
    page.locator("#spine .token").nth(5).click()
    for name, view in views.items():
        tab(page, name)
        expect(page.locator(f"{view} .name")).to_contain_text("L2H1")
        expect(page.locator(f"{view} .locked")).to_have_count(1)
        expect(page.locator("#head .cell")).to_contain_text("query 5 ")


def test_a_view_stays_as_it_was_left_if_nothing_was_chosen_elsewhere(visit: Visit):
    page = visit.open("tab=Attention&layer=99&head=1&token=3")
    assert drawn(page) == "L3H1"
    expect(page.locator("#head .cell")).to_contain_text("query 3 ")
    page.locator("#attention .plane").press("ArrowUp")
    expect(page.locator("#head .cell")).to_contain_text("query 2 ")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for _ in range(2):
        tab(page, "Generate")
        expect(page.locator("#attention")).to_be_hidden()
        tab(page, "Attention")
        expect(page.locator("#head .cell")).to_contain_text("query 2 ")
    page.locator("#attention .plane").press("Escape")
    tab(page, "Generate")
    tab(page, "Attention")
    page.wait_for_timeout(500)
    assert page.locator("#attention .locked").count() == 0
    assert [url for url in asked if "/map" in url or "/thumbnails" in url] == []


LONG = "one two three four five six seven eight nine ten " * 12  # 120 words, more tokens than a thumbnail has pixels
COLUMN = """(canvas) => {
    const data = canvas.getContext("2d").getImageData(0, 0, 1, canvas.height).data;
    return Array.from({ length: canvas.height }, (_, row) => data[4 * row + 3]);
}"""


PAINT = """([map, skipFirst]) => {
    const canvas = document.createElement("canvas");
    window.workbench.paint(canvas, { ...map, bytes: Uint8Array.from(map.bytes) }, { curve: "sqrt", skipFirst });
    const pixel = (at) => canvas.getContext("2d").getImageData(at % 2, at >> 1, 1, 1).data.join();
    return [0, 1, 2, 3].map(pixel);
}"""
LINES = """async (map) => {
    const figures = [{ map: { ...map, bytes: Uint8Array.from(map.bytes) }, title: "L0H0" }];
    const about = { title: "L0H0", measure: "attention weight", about: "", curve: "sqrt", skipFirst: false };
    return (await workbench.picture(figures, ["a", "b"], { ...about, lines: true, format: "svg" })).text();
}"""


def test_a_link_reopens_the_view_and_without_the_first_token_pictures_keep_what_stands_beside_it(visit: Visit):
    page = visit.open(f"tab=Attention&layer=2&head=3&attention_first=true&attention_curve=log&prompt={quote(LONG)}")
    assert drawn(page) == "L2H3"
    expect(page.locator("#prompt textarea")).to_have_value(LONG)
    expect(page.locator("#attention .first")).to_be_checked()
    expect(page.locator("#attention .curve")).to_have_value("log")
    its_column_is_clear_or_what_else_it_stands_for(page)
    thumb = page.locator("#rail .thumb canvas").first
    assert thumb.evaluate(COLUMN) == [255] * 64
    ask(page, "one two three four five")
    expect(page.locator("#attention .name")).to_be_visible()
    page.wait_for_function("document.querySelector('#rail .thumb canvas').height < 64")
    assert set(thumb.evaluate(COLUMN)) == {0}
    the_address_follows_what_is_chosen(page)


def the_address_follows_what_is_chosen(page: Page) -> None:
    """A head, a control, the tab and the prompt."""
    page.locator("#rail .thumb[data-layer='0'][data-head='1']").click()
    page.wait_for_function("new URL(location).searchParams.get('layer') === '0'")
    page.locator("#attention .first").uncheck()
    page.wait_for_function("new URL(location).searchParams.get('attention_first') !== 'true'")
    page.locator("#attention .first").check()
    page.wait_for_function("new URL(location).searchParams.get('attention_first') === 'true'")
    tab(page, "Generate")
    page.wait_for_function("new URL(location).searchParams.get('tab') === 'Generate'")
    again = page.url.split("?", 1)[1]
    assert "head=1" in again and "prompt=one" in again


def its_column_is_clear_or_what_else_it_stands_for(page: Page) -> None:
    """A large map's pixels stand for several cells: hiding the first key must not hide its neighbours."""
    small = {"bytes": [255, 0, 200, 100], "side": 2, "second": None, "scale": 1, "rest": 0.2, "signed": False}
    large = small | {"second": [0, 100]}
    least, most = "255,255,255,255", "12,43,102,255"  # the ends of the scale
    assert page.evaluate(PAINT, [small, False])[0] == page.evaluate(PAINT, [large, False])[0] == most
    assert page.evaluate(PAINT, [small, True]) == ["0,0,0,0", "0,0,0,0", "0,0,0,0", most]
    assert page.evaluate(PAINT, [large, True]) == [least, "0,0,0,0", most, most]
    lines = page.evaluate(LINES, small)  # the picture of a view that shows lines has lines too
    assert lines.count("<path") == 3 and "<image" not in lines and "left: key (source)" in lines


def opens_offline(chromium: Browser, file: Path) -> None:
    """A saved page draws its map without a server."""
    context = chromium.new_context(offline=True)
    alone, wrong = context.new_page(), []
    alone.on("pageerror", lambda error: wrong.append(str(error)))
    alone.goto(file.as_uri())
    alone.wait_for_selector("[data-drawn]")
    assert colours(alone, "canvas.map") > 8 and wrong == []
    context.close()


def the_page_of_its_own_opens_offline(page: Page, chromium: Browser, file: Path) -> None:
    """What is saved draws its map without a server."""
    saved(page, "#attention", "page").save_as(file)
    opens_offline(chromium, file)


def the_line_under_the_title_follows_the_controls(page: Page) -> None:
    """And so do the names of the axes."""
    note = page.locator("#attention .note")
    expect(note).to_have_text("Each row sums to 1: what the query token attends to.")
    page.locator("#attention .combine").select_option("max")
    expect(note).to_contain_text("may sum to more than 1")
    page.locator("#attention .combine").select_option("mean")
    expect(note).to_have_text("Mean over the layer’s heads. Each row sums to 1: what the query token attends to.")
    page.locator("#attention .weigh").select_option("value")
    expect(note).to_contain_text("moves into the query, ‖α v W_O‖")
    expect(note).not_to_contain_text("sums")
    axis = page.locator("#attention .panel .axis")
    expect(axis).to_contain_text("↓ query")
    page.locator("#attention .lines").check()
    expect(axis).to_have_text("left: key (source)   right: query (destination)")


def test_definition_python_and_saved_pictures_and_pages_are_about_what_is_shown(
    visit: Visit, chromium: Browser, tmp_path: Path
):
    page = visit.open("tab=Attention&layer=1&head=2&__theme=dark")
    drawn(page)
    definition, code = page.locator("#attention .definition"), page.locator("#attention .code")
    button = page.locator("#attention").get_by_role("button", name="Definition")
    button.click()
    expect(definition).to_contain_text("Kobayashi et al. 2020")
    expect(button).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(definition).to_be_hidden()
    expect(button).to_have_attribute("aria-expanded", "false")
    export(page, "#attention", "python")
    expect(code).to_contain_text("layers=[1]")
    page.locator("#rail .thumb[data-layer='2'][data-head='3']").click()
    expect(code).to_be_hidden()
    export(page, "#attention", "python")
    expect(code).to_contain_text("layers=[2]")
    page.keyboard.press("Escape")
    assert drawn(page) == "L2H3"
    vector_pictures_have_title_axes_and_checkpoint(page)
    the_page_of_its_own_opens_offline(page, chromium, tmp_path / "attention.html")
    the_line_under_the_title_follows_the_controls(page)


def vector_pictures_have_title_axes_and_checkpoint(page: Page) -> None:
    """The pictures of the map of L2H3 and of the strip, on paper although the page is dark."""
    for view, told in (
        ("#attention", ("L2H3: attention weight", "key (source)", "query (destination)")),
        ("#spine", ("surprisal, mean", "0 … 10 nats", "how surprising each token is")),
    ):
        root = ElementTree.parse(saved(page, view, "svg").path()).getroot()
        texts = "\n".join(root.itertext())
        assert all(part in texts for part in (*told, "tiny-olmo@step6000")), (view, texts)
        width, height = float(root.get("width")), float(root.get("height"))
        assert root[0].get("fill") == "#fff" and 300 < width < 3000 and 40 < height < 3000


def test_the_export_menu_works_by_keyboard_and_by_touch(touch_visit: Visit):
    page = touch_visit.open("tab=Attention", width=420)
    drawn(page)
    button, menu = page.locator("#attention .export"), page.locator("#attention .export-menu")
    button.focus()
    page.keyboard.press("Enter")
    items = menu.get_by_role("menuitem")
    expect(items.first).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(items.last).to_be_focused()
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(button).to_be_focused()
    button.tap()
    expect(menu).to_be_visible()
    box = menu.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 420
    button.tap()
    expect(menu).to_be_hidden()
    button.tap()
    page.touchscreen.tap(5, 5)
    expect(menu).to_be_hidden()
    button.tap()
    with page.expect_download() as waiting:
        menu.locator(".png").tap()
    assert Path(waiting.value.path()).read_bytes().startswith(b"\x89PNG")


def test_the_bar_says_what_is_bad_runs_prompts_and_examples_and_all_tokens_are_text(visit: Visit):
    page = visit.open("length=4&ends=false")
    bad_input_is_said_and_the_last_result_stays(page)
    enter_runs_the_prompt(page)
    menus_work_by_keyboard(page)
    the_menu_leaves_the_prompt_alone_unless_one_is_chosen(page)
    tokens_are_text_and_nothing_else(page)


def bad_input_is_said_and_the_last_result_stays(page: Page) -> None:
    """An empty prompt, or one that is too long."""
    tokens = page.locator("#spine .token").count()
    for prompt, said in (("   ", "empty"), ("word " * 6000, "at most")):
        ask(page, prompt)
        expect(page.locator("#problem")).to_contain_text(said)
        assert page.locator("#spine .token").count() == tokens
    ask(page, "All is well again")
    expect(page.locator("#problem")).not_to_contain_text("at most")
    expect(page.locator("#spine .token")).not_to_have_count(tokens)


def enter_runs_the_prompt(page: Page) -> None:
    """And Shift + Enter starts a new line."""
    prompt = page.locator("#prompt textarea")
    prompt.fill("red")
    prompt.press("Shift+Enter")  # starts a new line
    prompt.press_sequentially("blue")
    expect(prompt).to_have_value("red\nblue")
    prompt.press("Enter")
    expect(page.locator("#spine .tokens")).to_contain_text("⏎")
    expect(prompt).to_have_value("red\nblue")


def the_menu_leaves_the_prompt_alone_unless_one_is_chosen(page: Page) -> None:
    """Opening, leaving and passing the menu of examples changes nothing; choosing one runs it."""
    prompt, menu = page.locator("#prompt textarea"), page.locator("#examples input")
    option = page.get_by_role("option", name="The quick brown fox")
    for chosen in (False, True):  # a second time with an example chosen before
        prompt.fill("words of my own")
        menu.click()  # opened and left
        expect(option).to_be_visible()
        page.keyboard.press("Escape")
        page.locator("#brand h1").click()
        menu.focus()  # and passed with the Tab key
        page.keyboard.press("Tab")
        page.locator("#run").click()
        expect(page.locator("#spine .tokens")).to_contain_text("own")
        expect(prompt).to_have_value("words of my own")
        expect(page.locator("#problem p")).to_have_count(0)
        if not chosen:
            menu.click()
            option.click()
            expect(page.locator("#spine .tokens")).to_contain_text("quick")
            expect(prompt).to_have_value(EXAMPLES[1])
            expect(menu).to_have_value("Examples")


def menus_work_by_keyboard(page: Page) -> None:
    """An example runs, and the checkpoint changes the colours of the tokens and the offered code."""
    page.get_by_label("Examples", exact=True).focus()
    for key in ("ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#prompt textarea")).to_have_value(EXAMPLES[0])
    expect(page.locator("#spine .tokens")).to_contain_text("Lisbon")
    code, token = page.locator("#spine .code"), page.locator("#spine .token").nth(5)
    export(page, "#spine", "python")
    expect(code).to_contain_text("tiny-olmo@step6000")
    colour = token.get_attribute("style")
    page.get_by_label("Checkpoint", exact=True).focus()
    for key in ("Home", "Enter"):
        page.keyboard.press(key)
    expect(token).not_to_have_attribute("style", colour)
    assert "checkpoint=tiny-olmo%40step0" in page.url
    expect(code).to_be_hidden()  # the earlier code was for another checkpoint
    export(page, "#spine", "python")
    expect(code).to_contain_text("tiny-olmo@step0")


def tokens_are_text_and_nothing_else(page: Page) -> None:
    """Markup in a prompt is shown as it was typed."""
    ask(page, HOSTILE)
    expect(page.locator("#spine .tokens")).to_contain_text("onerror")
    expect(page.locator("#written .tokens")).to_contain_text("onerror")
    page.locator("#written .token.given").nth(2).click()
    page.wait_for_selector("#details .details:not(.busy)[data-token='2']")
    assert page.locator("#written img, #details img").count() == 0
    tab(page, "Attention")
    drawn(page)
    page.locator("#attention .plane").click()
    assert page.evaluate("document.body.dataset.broken") is None
    assert page.locator("#spine img, #spine b:not(.readout b), #attention img").count() == 0
