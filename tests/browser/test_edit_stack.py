"""The stack of edits in a browser: added by a click or typed, switched, removed, compared, and reopened by a link."""

from playwright.sync_api import Page, expect

from .conftest import Visit

NEW = "#written .token:not(.given)"


def chips(page: Page) -> list[str]:
    return page.locator("#interventions .toggle").all_inner_texts()


def address_of_edits(page: Page, edits: str) -> None:
    page.wait_for_function("(edits) => (new URL(location).searchParams.get('edits') ?? '') === edits", arg=edits)


def test_edits_are_clicked_typed_or_drafted_by_the_inspector_and_hold_on_every_tab(visit: Visit):
    page = visit.open("tab=Hidden%20states&layer=2&head=5&length=4&ends=false")
    expect(page.locator("#lens-tools .title")).to_have_text("Probability of the likeliest next token")
    edits_are_typed_and_the_difference_is_shown(page)
    the_inspector_takes_away_a_tokens_state_and_drafts_a_patch(page)
    page.get_by_role("button", name="Clear").click()
    address_of_edits(page, "")
    a_head_is_switched_off_by_a_click_and_holds_on_every_tab(page)


def a_head_is_switched_off_by_a_click_and_holds_on_every_tab(page: Page) -> None:
    """Also after a reload; it is switched on again, and removed."""
    page.locator("#inspector").get_by_role("button", name="Switch off").click()
    expect(page.locator("#interventions .toggle")).to_have_text(["L2H5 off"])
    expect(page.locator("#lens-tools .note")).to_contain_text("With L2H5 off.")
    address_of_edits(page, "L2H5 off")
    page.get_by_role("tab", name="Generate").click()
    expect(page.locator("#edited .title")).to_contain_text("With L2H5 off")
    page.reload(wait_until="commit")
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#interventions .toggle")).to_have_text(["L2H5 off"])
    page.get_by_role("button", name="L2H5 off", exact=True).click()
    address_of_edits(page, "# L2H5 off")
    expect(page.locator("#edited .token")).to_have_count(0)
    page.get_by_role("button", name="remove L2H5 off").click()
    expect(page.locator("#interventions .toggle")).to_have_count(0)


def edits_are_typed_and_the_difference_is_shown(page: Page) -> None:
    """A line that is no edit of this model stays, with the reason; the unedited model is shown, or the difference."""
    page.get_by_role("button", name="+ Edit the model").click()
    line = page.get_by_label("edit of the model", exact=True)
    line.fill("zero blocks.9.attn.z heads=1")
    line.press("Enter")
    expect(page.locator("#interventions .problem")).to_contain_text(
        "needs layer 9; the layers of this model are 0 to 3"
    )
    expect(line).to_have_value("zero blocks.9.attn.z heads=1")
    assert chips(page) == []
    line.fill("scale blocks.1.mlp_out .5")
    line.press("Enter")
    expect(page.locator("#interventions .toggle")).to_have_text(["MLP 1 × 0.5"])
    expect(line).to_have_value("")
    expect(page.locator("#lens-tools .note")).to_contain_text("With MLP 1 × 0.5.")
    page.get_by_role("radio", name="difference").click()
    expect(page.locator("#lens-tools .title")).to_have_text("Probability of the likeliest next token (change)")
    expect(page.locator("#spine .measure")).to_have_text("change of surprisal")
    page.get_by_role("tab", name="Attention").click()
    expect(page.locator("#head .to h3")).to_contain_text("(edited − unedited)")
    page.get_by_role("tab", name="Hidden states").click()
    page.get_by_role("radio", name="unedited").click()
    expect(page.locator("#lens-tools .title")).to_have_text("Probability of the likeliest next token")
    expect(page.locator("#spine .measure")).to_contain_text("surprisal, mean")
    assert chips(page) == ["MLP 1 × 0.5"]
    page.get_by_role("button", name="Clear").click()
    address_of_edits(page, "")
    expect(page.get_by_role("button", name="+ Edit the model")).to_be_visible()


def the_inspector_takes_away_a_tokens_state_and_drafts_a_patch(page: Page) -> None:
    """Buttons of the inspector edit the model at the token, and begin an edit of the head."""
    page.locator("#spine .token").nth(3).click()
    page.locator("#details").get_by_role("button", name="Off after layer 2").click()
    expect(page.locator("#interventions .toggle")).to_have_text(["token 3 at layer 2 off"])
    page.locator("#head").get_by_role("button", name="Patch from …").click()
    line = page.get_by_label("edit of the model", exact=True)
    expect(line).to_have_value('L2H5 from ""')
    expect(line).to_be_focused()
    page.keyboard.type("too short")  # between the quotes
    page.keyboard.press("Enter")
    expect(page.locator("#interventions .problem")).to_contain_text("L2H5")
    assert chips(page) == ["token 3 at layer 2 off"]


def test_a_hostile_link_is_text(visit: Visit):
    page = visit.open("length=2&edits=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E%20off")
    expect(page.locator("#interventions .problem")).to_contain_text("is not an edit")
    expect(page.locator("#interventions .toggle")).to_have_text(["<img src=x onerror=alert(1)> off"])
    assert page.locator("#interventions img").count() == 0
