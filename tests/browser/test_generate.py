"""Generating text on the page: token details, branching, stopping, edits side by side, and exports."""

from pathlib import Path

import pandas as pd
import psutil
from playwright.sync_api import Browser, Page, expect

from .conftest import Server, Visit, ask, export, saved, settle, tab

NEW = "#written .token:not(.given)"


def looked_at(page: Page, token: int) -> None:
    """Wait until the details show this token."""
    page.wait_for_selector(f"#details .details:not(.busy)[data-token='{token}']")


def first_written(page: Page, new: int) -> int:
    """The index of the first generated token, once all tokens are generated and its details are shown."""
    expect(page.locator(NEW)).to_have_count(new)
    first = page.locator("#written .token.given").count()
    looked_at(page, first)
    return first


def test_a_text_is_looked_at_taken_away_and_becomes_the_prompt(visit: Visit, chromium: Browser, tmp_path: Path):
    page = visit.open("length=8&ends=false")
    first = first_written(page, 8)
    expect(page.locator("#details .expected button, #details .expected .chosen")).to_have_count(10)
    assert page.locator("#details .lens .row").count() == 1 + 1 + 4  # names, embedding, layers
    for part in page.locator("#details .expected .number").all():
        share, exact = part.inner_text(), float(part.get_attribute("title"))
        assert share == "< 0.1 %" if exact < 0.001 else abs(float(share.strip("> %")) / 100 - exact) < 0.006
    assert page.locator("#details .looks button").count() == page.locator("#details .looked_at button").count() == 8
    page.locator("#written .token[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    looked_at(page, first + 1)
    page.keyboard.press("Enter")
    expect(page.locator("#details button.row").first).to_be_focused()
    expect(page.locator("#written .token")).to_have_count(first + 8)  # nothing was pressed
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    expect(page.locator("#written .token").nth(first + 1)).to_be_focused()
    what_can_be_taken_away(page, chromium, tmp_path / "text.html")
    a_token_of_the_prompt_is_chosen_everywhere(page)
    page.locator("#written .token").nth(first + 1).click()
    looked_at(page, first + 1)
    before = page.locator("#spine .token").count()
    page.locator("#details .note button").click()
    expect(page.locator("#spine .token")).not_to_have_count(before)
    assert page.locator("#prompt textarea").input_value().startswith("Old Marta")


def what_can_be_taken_away(page: Page, chromium: Browser, file: Path) -> None:
    """The numbers and pictures of both strips, and a page of the text that opens without a server."""
    for strip in ("#spine", "#written"):
        head = Path(saved(page, strip, "csv").path()).read_text().splitlines()
        assert head[0].startswith("# read with") and any("tiny-olmo" in line for line in head[:12])
        assert Path(saved(page, strip, "png").path()).read_bytes().startswith(b"\x89PNG")
    saved(page, "#written", "page").save_as(file)
    context = chromium.new_context(offline=True)
    alone, wrong = context.new_page(), []
    alone.on("pageerror", lambda error: wrong.append(str(error)))
    alone.goto(file.as_uri())
    alone.locator(".token").nth(9).click()
    expect(alone.locator(".expected .row")).to_have_count(10)
    assert alone.locator(".token").count() == page.locator("#written .token").count() and wrong == []
    context.close()


def a_token_of_the_prompt_is_chosen_everywhere(page: Page) -> None:
    """A click on the written text or on the strip, also while another tab is open."""
    page.locator("#written .token").nth(5).click()
    looked_at(page, 5)
    expect(page.locator("#spine .token").nth(5)).to_have_attribute("aria-selected", "true")
    page.locator("#spine .token").nth(7).click()
    looked_at(page, 7)
    tab(page, "Attention")
    page.locator("#spine .token").nth(9).click()
    looked_at(page, 9)
    tab(page, "Generate")
    expect(page.locator("#written .token").nth(9)).to_have_attribute("aria-selected", "true")
    looked_at(page, 9)


def test_look_at_a_token_of_another_checkpoint_and_branch_and_reopen_by_link(visit: Visit):
    page = visit.open("length=24&temperature=0&ends=false&checkpoint=tiny-olmo%40step1000")
    expect(page.locator(NEW)).to_have_count(24)
    place = page.locator("#written .token.given").count() + 3
    page.locator("#written .token").nth(place).click()
    looked_at(page, place)
    option = page.locator("#details .expected button").nth(2)
    other = option.locator(".word").inner_text()
    option.click()
    expect(page.locator("#written .token").nth(place)).to_have_text(other)
    expect(page.locator("#written .token")).to_have_count(place + 1 + 24)
    expect(page.locator("#written .title")).to_contain_text(f"continued from token {place}")
    page.wait_for_function("new URL(location).searchParams.get('branch')?.includes(':')")
    written = page.locator("#written .tokens").inner_text()
    page.reload(wait_until="commit")
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#written .token")).to_have_count(place + 1 + 24)
    assert page.locator("#written .tokens").inner_text() == written
    settle(page)
    ask(page, "one two three")  # ends the branch: one entry in the history, not also this prompt with the old branch
    expect(page.locator("#written .title")).not_to_contain_text("continued")
    settle(page)
    page.get_by_role("button", name="History").click()
    expect(page.locator("#history").get_by_role("menuitem")).to_have_count(1)


def test_stop_ends_the_stream_and_the_servers_work(visit: Visit, server: tuple[Server, str]):
    page = visit.open("length=5&ends=false")
    written = page.locator(NEW)
    expect(written).to_have_count(5)
    page.get_by_label("Length").fill("512")
    process, before = psutil.Process(server[0].pid), 512
    for _ in range(4):  # on a busy machine the text may be complete before the click
        page.get_by_role("button", name="Generate", exact=True).click()
        page.wait_for_function(f"n => ![0, n].includes(document.querySelectorAll('{NEW}').length)", arg=before)
        page.locator("#stop").evaluate("(stop) => stop.click()")  # the button is hidden at the end of the text
        page.wait_for_timeout(500)
        before, used = written.count(), sum(process.cpu_times()[:2])
        page.wait_for_timeout(600)
        assert written.count() == before, "the text continued after Stop"
        if before < 512:
            assert sum(process.cpu_times()[:2]) - used < 0.3, "the server continued to work after Stop"
            rows = pd.read_csv(saved(page, "#written", "csv").path(), comment="#")
            assert (~rows["given"]).sum() == before  # the exported text is the displayed text
            return
    raise AssertionError("no click came before the end of the text")


def test_edits_stand_beside_the_plain_text_or_below_it_in_a_narrow_window(visit: Visit):
    page = visit.open("length=12&ends=false&edits=scale%20blocks.3.mlp_out%200")
    expect(page.locator("#edited .title")).to_contain_text("With MLP 3 × 0")
    expect(page.locator("#edited .token.parts, #written .token.parts")).to_have_count(2)
    left, right = page.locator("#written").bounding_box(), page.locator("#edited").bounding_box()
    assert abs(left["y"] - right["y"]) < 4 and right["x"] >= left["x"] + left["width"] - 1
    page.set_viewport_size({"width": 420, "height": 900})
    settle(page)
    upper, lower = page.locator("#written").bounding_box(), page.locator("#edited").bounding_box()
    assert lower["y"] >= upper["y"] + upper["height"] - 1 and lower["width"] > 300
    page.locator("#edited .token.parts").click()
    expect(page.locator("#details .numbers")).to_contain_text("with the edits")
    export(page, "#edited", "python")
    expect(page.locator("#edited .code")).to_contain_text("edits.scale('blocks.3.mlp_out', 0.0)")
    page.get_by_role("button", name="MLP 3 × 0", exact=True).click()
    page.wait_for_function("new URL(location).searchParams.get('edits').startsWith('#')")
    expect(page.locator("#edited .token")).to_have_count(0)
