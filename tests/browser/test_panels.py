"""The tabs Hidden states, Attribution, Compare and Training, in a browser."""

from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, Page, expect

from .conftest import Visit, ask, drawn, export, plotted, saved, settle, tab
from .looks import fits_and_passes_axe

SHORT = "prompt=Old%20Marta%20lives%20in%20Lisbon"  # where the number of tokens does not matter
PANELS = {
    "Hidden states": ("#lens", "#states"),
    "Attribution": ("#direct", "#ablation", "#sources", "#saliency", "#patching"),
    "Compare": (
        "#text-a",
        "#text-b",
        "#by-token",
        "#by-token-floor",
        "#difference",
        "#difference-floor",
        "#text-mixed",
    ),
    "Training": ("#training",),
}
MENUS = {  # of each tab: menus, their panels, and entries, one for each kind of picture
    "Hidden states": [
        ("Logit lens", "#lens", ["entropy"]),
        (
            "Residual stream",
            "#states",
            ["similarity of layers (CKA)", "effective rank"],
        ),
    ],
    "Attribution": [
        ("Direct effect of", "#direct", ["every part, in order"]),
        ("What is patched", "#patching", ["output of each head"]),
    ],
    "Compare": [
        ("Difference", "#difference-floor", ["weights by matrix and layer", "parts of A put into B, weights"]),
    ],
    "Training": [("Metric", "#training", ["held-out loss", "weight change a step"])],
}


def shown(page: Page, panel: str) -> None:
    """Wait until a panel shows its plot or strip, and its tools."""
    expect(page.locator(f"{panel} .view-head .title")).not_to_be_empty()
    expect(page.locator(f"{panel} .view-head .export")).to_be_visible()
    expect(page.locator(f"{panel} .js-plotly-plot .main-svg, {panel} .token").first).to_be_visible()
    expect(page.locator(f"{panel} [data-testid=status-tracker]:not(.hide)")).to_have_count(0)


def click_at(page: Page, panel: str, across: float, down: float) -> None:
    """Click a panel's plot, once it is drawn and nothing moves it, at a share of its width and height."""
    shown(page, panel)
    settle(page)
    plot = page.locator(f"{panel} .js-plotly-plot .nsewdrag").first
    plot.evaluate("(plot) => plot.scrollIntoView({ block: 'center', behavior: 'instant' })")  # not below the strip
    box = plot.bounding_box()
    page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])


def shows_everything(page: Page, name: str) -> None:
    """Each panel of the open tab shows its plot or strip."""
    for panel in PANELS[name]:
        shown(page, panel)


def shows_every_entry_of_its_menus_and_a_single_token(page: Page, name: str) -> None:
    """The open tab draws each entry, and the views of a prompt of one token for which that is enough."""
    for menu, panel, entries in MENUS[name]:
        choose_each(page, menu, panel, entries)
    assert page.locator(".block.problem:visible p").count() == 0
    ask(page, "a")
    expect(page.locator("#spine .token")).to_have_count(1)
    expect(page.locator("#count")).to_contain_text("1 token")
    shows_everything(page, name)
    problems = page.locator(".block.problem:visible p").all_inner_texts()  # views for which one token is too short
    assert [problem for problem in problems if "at least 2" not in problem] == []


def choose_each(page: Page, menu: str, panel: str, entries: list[str]) -> None:
    """Choose entries of a menu one after the other, and at last the first one again: the panel draws each."""
    first = page.get_by_label(menu, exact=True).input_value()
    for entry in [*entries, first]:
        choose(page, menu, panel, entry)


def choose(page: Page, menu: str, panel: str, entry: str) -> None:
    """Choose another entry of a menu: the panel draws it."""
    tools = page.locator(f"{panel}-tools [data-drawn], {panel}-tools[data-drawn]")
    before = tools.get_attribute("data-drawn")
    page.get_by_label(menu, exact=True).click()
    page.locator("li[role=option]").and_(page.get_by_role("option", name=entry, exact=True)).click()
    expect(tools).not_to_have_attribute("data-drawn", before)
    shown(page, panel)


def test_hidden_states_show_everything_choose_a_token_a_layer_and_a_lens_and_are_saved(
    visit: Visit, chromium: Browser, tmp_path: Path
):
    page = visit.open("tab=Hidden%20states&token=8")
    shows_everything(page, "Hidden states")
    assert page.locator("#lens .figure").evaluate("(figure) => figure.scrollLeft") == 0  # it opens at its start
    a_picture_and_a_page_of_its_own_are_saved(page, chromium, tmp_path / "norms.html")
    layers_are_read_through_the_tuned_lens(page)
    numbers_code_and_a_definition_are_offered(page)
    a_token_and_a_layer_are_chosen(page)
    fits_and_passes_axe(page, "Hidden states")
    fill = page.locator("#lens .cbfill").evaluate("(bar) => bar.style.fill")
    assert fill.startswith('url("#')  # not by the address before the choice, where the bar would be blank
    shows_every_entry_of_its_menus_and_a_single_token(page, "Hidden states")


def layers_are_read_through_the_tuned_lens(page: Page) -> None:
    """Chosen in the inspector or on the tab, each follows the other; then through the logit lens again."""
    page.locator("#details .swap").click()  # in the inspector; the tab follows
    expect(page.locator("#lens .view-head .title")).to_have_text("Probability of the likeliest next token (tuned lens)")
    expect(page.locator("#lens .note")).to_contain_text("Read through the tuned lens of tiny-olmo@step6000. KL from")
    expect(page.locator("#details .through")).to_have_text("tuned lens")
    expect(page.locator("#lens .pick select")).to_have_value("tuned lens")
    assert "tuned=1" in page.url
    page.locator("#lens .pick select").select_option("logit lens")
    expect(page.locator("#details .through")).to_have_text("logit lens")
    expect(page.locator("#lens .view-head .title")).to_have_text("Probability of the likeliest next token")
    assert "tuned" not in page.url


def a_token_and_a_layer_are_chosen(page: Page) -> None:
    """By a click on the lens, from which the other panel takes its layer, or in that panel."""
    choose(page, "Residual stream", "#states", "principal components of a layer")
    expect(page.locator("#states .view-head .title")).to_have_text("Hidden states after layer 2")  # that of the head
    page.locator("#lens .figure").hover()
    page.mouse.wheel(300, 0)  # and later tokens are reached by scrolling
    page.wait_for_function("document.querySelector('#lens .figure').scrollLeft > 0")
    page.locator("#lens .figure").evaluate("(figure) => figure.scrollTo(0, 0)")
    click_at(page, "#lens", 0.1, 0.5)  # the row of layer 1, at a token in sight of the wide plot
    expect(page.locator("#spine .token[aria-selected=true]")).not_to_have_attribute("data-index", "8")
    page.wait_for_function("new URL(location).searchParams.get('layer') === '1'")
    expect(page.locator("#states .view-head .title")).to_have_text("Hidden states after layer 1")
    page.locator("#states .pick select").select_option("3")
    expect(page.locator("#states .view-head .title")).to_have_text("Hidden states after layer 3")
    choose(page, "Residual stream", "#states", "norm")


def numbers_code_and_a_definition_are_offered(page: Page) -> None:
    """Of the logit lens."""
    data = saved(page, "#lens", "csv")
    assert data.suggested_filename == "tiny-olmo_step6000_logit_lens_probability.csv"
    lines = Path(data.path()).read_text().splitlines()
    assert lines[0].startswith("# read with") and any("tiny-olmo" in line for line in lines[:12])
    export(page, "#lens", "python")
    expect(page.locator("#lens .code")).to_contain_text("logit_lens(model, tokens")
    page.locator("#lens .define").click()
    expect(page.locator("#lens .definition .source")).to_have_text("nostalgebraist 2020")
    expect(page.locator("#lens .definition li").first).to_contain_text("probability")
    assert "`" not in page.locator("#lens .definition").inner_text()
    page.keyboard.press("Escape")
    expect(page.locator("#lens .definition")).to_be_hidden()


def a_picture_and_a_page_of_its_own_are_saved(page: Page, chromium: Browser, file: Path) -> None:
    """As vectors, as pixels, and as a file that draws its plot without a server."""
    plotted(page, "#states")
    drawing = saved(page, "#states", "svg")
    assert drawing.suggested_filename == "tiny-olmo_step6000_residual_norms_norm.svg"
    texts = "".join(ElementTree.parse(drawing.path()).getroot().itertext())
    for told in ("Norm of the residual stream", "layer", "token (position)", "checkpoints: tiny-olmo@step6000"):
        assert told in texts
    picture = saved(page, "#states", "png")
    assert picture.suggested_filename == "tiny-olmo_step6000_residual_norms_norm.png"
    assert Path(picture.path()).read_bytes().startswith(b"\x89PNG")
    saved(page, "#states", "page").save_as(file)
    context = chromium.new_context(offline=True)
    alone = context.new_page()
    alone.goto(file.as_uri())
    expect(alone.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    context.close()


def test_attribution_reads_texts_when_entered_says_errors_where_they_belong_and_shows_everything(visit: Visit):
    quoted = "![x](/gradio_api/file=http://192.0.2.1/x) <img src=x> **bold** $x$"
    page, asked = visit.page, []
    page.on("request", lambda request: asked.append(request.url))
    visit.open(f"tab=Attribution&token_text={quote(quoted)}&{SHORT}")
    expect(page.locator("#token_text-problem p")).to_contain_text(quoted)
    assert page.locator(".block.problem").locator("img, a, strong, .katex").count() == 0
    assert [url for url in asked if "file=" in url] == []
    page.get_by_label("Next token").fill("")
    page.get_by_label("Next token").press("Enter")
    plotted(page, "#direct")
    a_text_is_read_when_it_is_entered_and_not_before(page)
    an_error_of_a_field_stands_at_the_field_once(page)
    an_error_stands_in_its_panel_and_leaves_the_picture(page)
    shows_everything(page, "Attribution")
    fits_and_passes_axe(page, "Attribution")
    it_follows_the_chosen_token_and_head(page)
    shows_every_entry_of_its_menus_and_a_single_token(page, "Attribution")


def it_follows_the_chosen_token_and_head(page: Page) -> None:
    """The direct effects are those at the chosen token, the sources those of the chosen head."""
    plotted(page, "#direct")
    shown(page, "#sources")
    before = page.locator("#direct .view-head .title").text_content()
    page.locator("#spine .token").nth(5).click()
    expect(page.locator("#direct .view-head .title")).not_to_have_text(before)
    click_at(page, "#ablation", 1.5 / 7, 1.5 / 4)
    expect(page.locator("#sources .view-head .title")).to_contain_text("L2H1")
    tab(page, "Attention")
    assert drawn(page) == "L2H1"
    tab(page, "Attribution")


def a_text_is_read_when_it_is_entered_and_not_before(page: Page) -> None:
    """Typing alone computes nothing."""
    before = page.locator("#direct .view-head .title").text_content()
    page.get_by_label("Next token").press_sequentially(" P")
    settle(page)
    assert page.locator("#direct .view-head .title").text_content() == before
    page.get_by_label("Next token").press("Enter")
    expect(page.locator("#direct .view-head .title")).to_contain_text("▁P")


def an_error_of_a_field_stands_at_the_field_once(page: Page) -> None:
    """The panels refer to the sentence at the field."""
    field = page.get_by_label("Next token")
    field.fill("two tokens or more")
    field.press("Enter")
    reason = page.locator("#token_text-problem p")
    expect(reason).to_contain_text("token")
    for panel in ("#direct", "#ablation", "#sources", "#saliency", "#patching"):
        expect(page.locator(f"{panel} > .block.problem p")).to_have_text("“Next token” cannot be used; see there.")
    assert page.get_by_text(reason.inner_text(), exact=True).count() == 1
    assert dimmed(page, "#direct > .figure") == (0.5, True)
    field.fill("")
    field.press("Enter")
    expect(page.locator(".block.problem p")).to_have_count(0)


def an_error_stands_in_its_panel_and_leaves_the_picture(page: Page) -> None:
    """A second prompt that does not fit is an error of patching alone."""
    plotted(page, "#patching")
    settle(page)
    second = page.get_by_label("Second prompt")
    second.fill("too short")
    second.press("Enter")
    expect(page.locator("#patching > .block.problem")).to_contain_text("“Second prompt” cannot be used")
    expect(page.locator("#second-problem")).to_contain_text(f"the prompt has {page.locator('#spine .token').count()}")
    plotted(page, "#patching")
    assert page.locator(".block.problem:visible p").count() == 2
    assert dimmed(page, "#patching > .figure") == (0.5, True)
    assert dimmed(page, "#direct > .figure") == (1, False)
    second.fill("")
    second.press("Enter")
    expect(page.locator("#patching > .block.problem")).to_be_hidden()
    assert dimmed(page, "#patching > .figure") == (1, False)


def dimmed(page: Page, figure: str) -> tuple[float, bool]:
    """The opacity of a panel's figure, and whether the notice above it says that it is from before an error."""
    return tuple(
        page.locator(figure).evaluate(
            """(figure) => {
                const notice = figure.parentElement.querySelector(":scope > .block.problem");
                const said = getComputedStyle(notice, "::after").content;
                return [Number(getComputedStyle(figure).opacity), said.includes("before this error")];
            }"""
        )
    )


def test_compare_two_checkpoints_every_entry_of_its_menus_and_a_single_token(visit: Visit):
    page = visit.open(f"tab=Compare&compare_length=4&{SHORT}")
    shows_everything(page, "Compare")
    for text in ("#text-a", "#text-b", "#text-mixed"):
        expect(page.locator(f"{text} .token:not(.given)")).to_have_count(4)
    fits_and_passes_axe(page, "Compare")
    picture = saved(page, "#text-a .view-head", "png")
    assert Path(picture.path()).read_bytes().startswith(b"\x89PNG")
    expect(page.locator("#by-token .token")).to_have_count(page.locator("#spine .token").count())
    drawn(page, "#pair")
    expect(page.locator("#head .to h3")).to_contain_text("(B − A)")
    for bar in page.locator("#head .to p .bar").all():  # B − A: negative numbers go to the other side
        number = float(bar.locator("xpath=../*[contains(@class, 'number')]").get_attribute("title"))
        start, width = bar.evaluate("(bar) => [parseFloat(bar.style.marginLeft), parseFloat(bar.style.width)]")
        assert start == pytest.approx(50 - (width if number < 0 else 0), abs=1e-3)  # a browser rounds lengths
    maps = page.locator("#pair canvas.map")
    assert maps.count() == 3
    assert len({maps.nth(index).evaluate("(canvas) => canvas.toDataURL()") for index in range(3)}) == 3
    rail = page.locator("#rail .thumb[aria-selected=true]")
    name = f"L{rail.get_attribute('data-layer')}H{rail.get_attribute('data-head')}"
    expect(page.locator("#pair .name")).to_have_text(name)  # the head that is selected on the page
    page.locator("#pair .most").click()
    expect(page.locator("#pair .name")).to_have_text(page.locator("#pair .most").inner_text().split()[-1])
    click_at(page, "#difference", 4.5 / 6, 0.5 / 4)
    expect(page.locator("#pair .name")).to_contain_text("L3H4")
    expect(page.locator("#text-mixed .view-head .title")).to_contain_text("B with L3H4 of A")
    settle(page)
    shows_every_entry_of_its_menus_and_a_single_token(page, "Compare")


FITS = """() => {
    const figure = document.querySelector("#training .figure");
    return figure.querySelector(".main-svg").getBoundingClientRect().width === figure.clientWidth;
}"""


def a_plot_fits_the_window_that_changed_while_it_was_hidden(page: Page) -> None:
    """From wide to narrow; at the end the window is wide again."""
    tab(page, "Attention")
    settle(page)
    page.set_viewport_size({"width": 420, "height": 900})
    tab(page, "Training")
    page.wait_for_function(FITS)
    page.set_viewport_size({"width": 1300, "height": 900})
    settle(page)


def test_training_plays_a_head_opens_a_checkpoint_and_shows_every_entry_of_its_menu(visit: Visit):
    page = visit.open("tab=Training&layer=2&head=5")
    assert drawn(page, "#through") == "L2H5"
    plotted(page, "#training")
    expect(page.locator("#training .note")).to_contain_text("L2H5 in front")
    for part in ("#training .figure", "#through .axis", "#player"):  # all in the first screen, below the hint
        box = page.locator(part).first.bounding_box()
        assert box["y"] + box["height"] <= 900, part
    picture = "document.querySelector('#through canvas.map').toDataURL()"
    late = page.evaluate(picture)
    slider = page.locator("#player .at")
    slider.focus()
    slider.press("Home")
    expect(page.locator("#player .where")).to_contain_text("step 0")
    expect(page.locator("#through .which")).to_contain_text("step 0")
    page.wait_for_function(f"(late) => {picture} !== late", arg=late)
    place = "(({ data, layout }) => data[0].meta.indexOf(layout.shapes[0].x0))"
    page.wait_for_function(f"{place}(document.querySelector('#training .js-plotly-plot')) === 0")  # the player's line
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('#through .which').textContent.includes('step 100 ')")  # each frame
    page.get_by_role("button", name="Pause").click()
    assert drawn(page, "#through") == "L2H5"
    point = page.locator("#training .scatterlayer .trace").last.locator(".point").nth(1).bounding_box()
    page.mouse.click(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.wait_for_function("new URL(location).searchParams.get('checkpoint')?.endsWith('step50')")
    expect(page.locator("#player .where")).to_contain_text("step 50 ")
    fits_and_passes_axe(page, "Training")
    a_plot_fits_the_window_that_changed_while_it_was_hidden(page)
    shows_every_entry_of_its_menus_and_a_single_token(page, "Training")
