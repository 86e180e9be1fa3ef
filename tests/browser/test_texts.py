"""Sets of texts in the browser: choose one, sort its table, make a row the prompt; paste one's own; be refused."""

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from .conftest import Visit, saved
from .looks import fits_and_passes_axe

HOSTILE = "<img src=x onerror=\"document.title='broken'\"> & <b>bold</b>"
ROWS = "#set-table tbody tr"


def paste(page: Page, text: str) -> None:
    page.locator("#sets select").select_option("")
    page.locator("#sets textarea").fill(text)
    page.locator("#sets button[type=submit]").click()


def test_a_set_is_chosen_and_a_row_becomes_the_prompt(visit: Visit):
    page = visit.open("tab=Texts")
    expect(page.locator("#set-table .summary")).to_contain_text("number (110 texts)")
    page.locator("#sets select").select_option("tiny-olmo/language")
    expect(page.locator("#set-table .summary")).to_contain_text("language (144 texts)")
    page.wait_for_function("new URL(location).searchParams.get('set') === 'tiny-olmo/language'")
    expect(page.locator("#probe .js-plotly-plot .main-svg").first).to_be_visible()
    page.locator("#set-table .after").click()
    expect(page.locator(ROWS)).to_have_count(44)
    page.locator("#set-table th.number button").click()  # the highest loss first
    losses = [float(text) for text in page.locator(f"{ROWS} td.number").all_inner_texts()]
    assert len(losses) == 100 and losses == sorted(losses, reverse=True)
    lines = Path(saved(page, "#set-table", "csv").path()).read_text().splitlines()
    assert sum(not line.startswith("#") for line in lines) == 145 and "# texts: language (144 texts)" in lines
    row = page.locator(ROWS).nth(3)
    text = row.locator("td.words").inner_text()
    row.locator("td.words button").press("Enter")
    page.wait_for_function("(text) => document.querySelector('#prompt textarea').value === text", arg=text)
    tokens = row.locator("td.count").nth(1).inner_text()
    expect(page.locator("#spine .token")).to_have_count(int(tokens))
    offered = page.locator("#steering-tools .put-on")  # the direction between the labels
    expect(offered).to_contain_text("Edit: +1 label tiny-olmo/language/")
    edit = offered.inner_text().removeprefix("Edit: ")
    offered.click()
    expect(page.locator("#interventions .toggle")).to_have_text([edit])
    page.wait_for_function("(edit) => new URL(location).searchParams.get('edits') === edit", arg=edit)
    expect(page.locator("#steering-tools .note")).to_contain_text(f"With {edit}.")
    written = page.locator("#steered-texts-table tbody tr")  # five strengths, with the direction and with a random one
    expect(page.locator("#steered-texts-tools .note")).to_contain_text(f"With {edit}.")
    expect(written).to_have_count(5)
    steered, random = written.nth(2).locator("td.prose").all_inner_texts()
    assert steered == random != "" and written.nth(2).locator("td.signed").inner_text() == "0"
    expect(page.locator("#probe-tools .put-on")).to_contain_text("Edit: +1 probe tiny-olmo/language/")
    fits_and_passes_axe(page, "Texts")


def test_a_pasted_set_is_shown_as_text_and_is_not_in_the_link(visit: Visit, tmp_path: Path):
    page = visit.open("tab=Generate&set=tiny-olmo%2Fplace")
    rows = [{"text": HOSTILE, "label": "hostile"}, {"text": "The cat sat.", "label": "plain"}]
    paste(page, "\n".join(map(json.dumps, rows)))
    expect(page.locator("#set-table .summary")).to_contain_text("pasted.jsonl (2 texts)")
    expect(page.locator(ROWS).first.locator("td.words")).to_have_text(HOSTILE)
    assert page.locator("#set-table img").count() == 0 and page.title() != "broken"
    assert page.evaluate("new URL(location).searchParams.get('set')") is None
    expect(page.locator("#probe > .problem")).to_contain_text("needs at least")
    page.locator("#sets select").select_option("")
    page.locator("#sets input[type=file]").set_input_files(
        {"name": "wrong.csv", "mimeType": "text/csv", "buffer": b"text,label\none\n"}
    )
    expect(page.locator("#sets .own")).to_be_visible()
    page.locator("#sets button[type=submit]").click()
    expect(page.locator("#sets .problem")).to_contain_text("wrong.csv, line 2: 1 cells for the 2 columns text, label")
    visit.wrong[:] = [wrong for wrong in visit.wrong if "422" not in wrong]  # the browser logs the refusal
    page.locator("#sets input[type=file]").set_input_files(
        {"name": "large.txt", "mimeType": "text/plain", "buffer": b"word " * 250_000}
    )
    page.locator("#sets button[type=submit]").click()
    expect(page.locator("#sets .problem")).to_contain_text("1,250,000 bytes; the page takes at most 1,000,000")
    expect(page.locator("#set-table .summary")).to_contain_text("pasted.jsonl (2 texts)")  # nothing is lost
    page.reload(wait_until="commit")  # the visit goes on
    expect(page.locator("#set-table .summary")).to_contain_text("pasted.jsonl (2 texts)")
    assert page.locator("#sets select").input_value().startswith("own:")
