"""The tab Circuits in a browser: the number of edges, the paths of a node, an edge by keyboard, a proof, a picture."""

import json
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from .conftest import Visit, saved, settle
from .looks import SIDEWAYS, fits_and_passes_axe, violations

GRAPH = "#circuit .graph"
PLACES = (
    "[...document.querySelectorAll('#assembling .node rect')].map(({ x, y }) => [x.baseVal.value, y.baseVal.value])"
)

# The place in the window of a checkpoint's point on the first curve.
POINT = """(number) => {
  const plot = document.querySelector("#assembly .js-plotly-plot"), { xaxis, yaxis } = plot._fullLayout;
  plot.scrollIntoView({ block: "center", behavior: "instant" });
  const { x, y } = plot.calcdata.find(([first]) => first.trace.meta)[number], box = plot.getBoundingClientRect();
  return [box.x + xaxis._offset + xaxis.c2p(x), box.y + yaxis._offset + yaxis.c2p(y)];
}"""


def edges(page: Page) -> int:
    """The number of edges in the picture."""
    return page.locator(f"{GRAPH} .edge").count()


def width(page: Page) -> float:
    """The width of the widest edge of the graph along training."""
    widths = page.locator("#assembling .edge").evaluate_all(
        "(all) => all.map((edge) => edge.getAttribute('stroke-width'))"
    )
    return max(map(float, widths))


def test_a_circuit_is_drawn_lit_proved_and_saved(visit: Visit):
    page = visit.open("tab=Circuits&pairs=number-pairs")
    expect(page.locator("#circuit .proof")).to_contain_text("of the effect with 60 of 927 edges")
    assert edges(page) == 60
    page.locator(f"{GRAPH} [data-name=L1H5]").click()
    page.wait_for_function("new URL(location).searchParams.get('head') === '5'")
    expect(page.locator("#head .name")).to_have_text("L1H5")
    expect(page.locator("#circuit .reading b")).to_have_text("L1H5")
    lit = page.locator(f"{GRAPH} .edge.on").count()
    assert 2 < lit < 60

    slider = page.locator("#circuit .how-many")
    slider.focus()
    slider.press("ArrowLeft")
    expect(page.locator("#circuit .proof")).to_contain_text("Not run with")
    number = int(page.evaluate("new URL(location).searchParams.get('circuit_edges')"))
    assert edges(page) == number < 60
    expect(page.locator("#circuit .prove")).to_have_text(re.compile(rf"Prove it at {number} edges \(about .* s"))
    page.locator("#circuit .prove").click()
    expect(page.locator("#circuit .proof")).to_contain_text(f"of the effect with {number} of 927 edges")
    assert page.locator("#circuit .curve circle").count() == 4  # none, these, 60, all

    page.locator("#circuit summary").click()
    row = page.locator("#circuit tbody tr").nth(25)
    row.locator("button").press("Enter")
    name = row.locator("button").inner_text()
    expect(page.locator("#circuit .reading")).to_contain_text("Not patched exactly yet")
    expect(page.locator("#circuit .reading b")).to_contain_text(f"{name}: ")
    page.locator("#circuit .patch").click()
    expect(page.locator("#circuit .reading")).to_contain_text("Patched alone, exactly")

    page.locator(f"{GRAPH} [data-name=L1H5]").focus()
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.dataset.name") == "L2H5"
    picture = Path(saved(page, "#circuit .heading", "svg").path()).read_text()
    assert "L1H5" in picture and picture.count("stroke-width") == number

    page.locator("#assembly-price").click()  # it waits for a click, whatever the price
    expect(page.locator("#assembly .note")).to_contain_text(
        re.compile(r"Needed from step [\d,]+ on: there the 60 best edges")
    )
    expect(page.locator("#assembling .proof")).to_contain_text(f"the {number} strongest edges of 927")
    still, widest = page.evaluate(PLACES), width(page)
    at, play = page.locator("#assembly-player .at"), page.locator("#assembly-player .play")
    at.press("Home")
    expect(page.locator("#assembling .proof")).to_contain_text("step 0: the ")
    assert page.evaluate(PLACES) == still and width(page) < widest / 2
    at.press("End")
    at.press("ArrowLeft")
    play.click()
    expect(play).to_have_text("Play")
    assert at.evaluate("(at) => at.value === at.max") and width(page) == widest
    spot = page.evaluate(POINT, 3)
    page.mouse.move(*spot)
    expect(page.locator("#assembly .hovertext").first).to_be_visible()
    page.mouse.click(*spot)
    expect(at).to_have_js_property("value", "4")
    expect(page.locator("#assembling .proof")).to_contain_text(page.locator("#assembly-player .where").inner_text())
    fits_and_passes_axe(page, "Circuits")


FEATURES = "features, of this prompt"
CAT = "prompt=The+cat+sat+on+the"


def test_the_features_of_a_prompt_are_drawn_lit_proved_and_opened(visit: Visit):
    page = visit.open(f"tab=Circuits&pairs=number-pairs&{CAT}")
    expect(page.locator("#circuit .proof")).to_contain_text("of the effect with")
    page.get_by_label("Nodes").click()
    page.get_by_role("option", name=FEATURES).click()
    proof = page.locator("#circuit .proof")
    expect(proof).to_contain_text(re.compile(r"\d+ of 20 nodes confirmed .*, correlation 0\.\d\d \("))
    expect(proof).to_contain_text(re.compile(r"60 of [\d,]+ edges: paths along them carry \d+ % of the influence"))
    assert edges(page) == 60 and not page.locator("#assembly").is_visible()
    verdicts = page.locator(f"{GRAPH} .verdict").count()
    assert verdicts > 0

    page.locator("#circuit summary").click()
    expect(page.locator("#circuit tbody tr")).to_have_count(60)
    slider = page.locator("#circuit .how-many")
    slider.focus()
    slider.press("ArrowLeft")
    number = edges(page)
    assert 40 < number < 60
    expect(page.locator("#circuit tbody tr")).to_have_count(number)

    node = page.locator(f"{GRAPH} .node.feature.in:has(.verdict)").last
    name = node.get_attribute("data-name")
    node.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#circuit .reading")).to_contain_text("Taken away in the model: ")
    expect(page.locator("#circuit .reading b")).to_have_text(name)
    assert 0 < page.locator(f"{GRAPH} .edge.on").count() < number
    page.wait_for_function("new URL(location).searchParams.get('token') !== null")
    picture = Path(saved(page, "#circuit .heading", "svg").path()).read_text()
    assert picture.count("stroke-width") == number
    graph = json.loads(Path(saved(page, "#circuit .heading", "json").path()).read_text())
    assert graph["metadata"]["prompt"].endswith("cat sat on the") and len(graph["nodes"]) > 40

    slider.press("End")
    new = page.locator(f"{GRAPH} .node.feature.in:not(:has(.verdict))").last
    fresh = new.get_attribute("data-name")
    new.focus()
    page.keyboard.press("Enter")
    page.locator("#circuit .patch").click()
    expect(proof).to_contain_text(" of 21 nodes confirmed")
    assert page.locator(f"{GRAPH} .node[data-name='{fresh}'] .verdict").count() == 1
    page.locator("#circuit .prove").click()
    expect(proof).to_contain_text(re.compile(r" of 4[01] nodes confirmed"))
    expect(page.locator("#circuit .count")).to_contain_text("1,000 of")

    page.locator(f"{GRAPH} .node.token.in").first.click()
    page.wait_for_function("new URL(location).searchParams.get('token') === '0'")
    settle(page)
    assert violations(page) == []
    page.set_viewport_size({"width": 420, "height": 900})
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and page.evaluate(SIDEWAYS) == []
    page.set_viewport_size(visit.size)

    page = visit.open(page.url.partition("?")[2])  # the link brings the graph back
    expect(proof).to_contain_text(" of 20 nodes confirmed")
    expect(page.locator("#circuit .count")).to_contain_text("1,000 of")
    page.locator(f"{GRAPH} .node[data-name='{name}']").click()
    page.locator(f"{GRAPH} .node[data-name='{name}']").click()  # it is locked already
    layer, feature = re.fullmatch(r"L(\d+) F(\d+) @\d+", name).groups()
    expect(page.locator("#feature-card .name")).to_have_text(f"Feature {feature}")
    assert f"blocks.{layer}.mlp" in page.evaluate("new URL(location).searchParams.get('dictionary')")


def test_a_checkpoint_without_transcoders_says_which_one_has_some(visit: Visit):
    page = visit.open(f"tab=Circuits&{CAT}&circuit_of={FEATURES}&checkpoint=tiny-olmo@step4000")
    expect(page.locator("#circuit .none")).to_contain_text("there are no transcoders of tiny-olmo@step4000")
    expect(page.locator("#circuit .none")).to_contain_text("Choose tiny-olmo@step6000, or train some")
    assert not page.locator("#circuit .graph").is_visible() and not page.locator("#assembly").is_visible()
