"""The attention view as a separate page: it opens offline, draws every head, and shows the given numbers."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
import torch
from playwright.sync_api import Browser, Page

from tests.preloaded import python
from workbench.analyses.attention_maps import attention_maps
from workbench.analyses.head_atlas import head_atlas
from workbench.errors import WorkbenchError
from workbench.results import Maps
from workbench.views.standalone import StandalonePage, attention

HEADS = tuple(f"L{layer}H{head}" for layer in range(2) for head in range(3))


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A browser page without network access."""
    context, problems = chromium.new_context(offline=True, viewport={"width": 1000, "height": 900}), []
    tab = context.new_page()
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: problems.append(request.url))
    yield tab
    context.close()
    assert [problem for problem in problems if not problem.startswith(("about:", "data:", "blob:"))] == []


def random_maps(seed: int = 0, **options) -> Maps:
    scores = torch.randn(6, 9, 9, generator=torch.Generator().manual_seed(seed)) * 2
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return Maps(weights, HEADS, [f"t{n}" for n in range(8)] + ["</script><b>"], **options)


def weights_shown(frame) -> dict[int, float]:
    """The weights in the list of the last query: key -> weight."""
    rows = frame.locator(".to p").evaluate_all(
        "rows => rows.map(row => [row.querySelector('.index').textContent, row.querySelector('.number').title])"
    )
    return {int(key): float(weight) for key, weight in rows}


def test_a_frame_shows_the_weights_it_was_given(page):
    maps = random_maps()
    page.set_content(attention(maps)._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator("#attention[data-drawn='L0H0']").wait_for()
    assert frame.locator(".thumb").count() == 6
    frame.locator(".thumb[data-layer='1'][data-head='2']").click()
    frame.locator("#attention[data-drawn='L1H2']").wait_for()
    shown = weights_shown(frame)
    assert len(shown) == 6
    for key, weight in shown.items():
        assert weight == float(maps.values[5, -1, key])


def test_a_token_that_looks_like_markup_is_shown_as_text(page):
    page.set_content(attention(random_maps())._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator("#attention[data-drawn='L0H0']").wait_for()
    frame.locator(".plane").press("ArrowDown")
    frame.locator(".cell", has_text="query 8 </script><b>").wait_for()


@pytest.mark.parametrize(
    ("weighting", "said"), [("probability", "Each row sums to 1"), ("value-norm", "moves into the query, ‖α v W_O‖")]
)
def test_it_says_how_its_numbers_are_read(page, make_model, tokens, weighting, said):
    page.set_content(attention(attention_maps(make_model("olmo2"), tokens[0], weighting=weighting))._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator("#attention[data-drawn='L0H0']").wait_for()
    assert said in frame.locator(".note").inner_text()
    frame.locator("#attention .export").click()
    items = frame.locator("#attention .export-menu [role=menuitem]").all_inner_texts()
    assert items[:1] == ["Picture (PNG)"] and not any("Python" in item for item in items)


def test_the_maximum_of_a_difference_is_that_of_the_maxima(page):
    a, b = random_maps(), random_maps(seed=1)
    page.set_content(attention(a, other=b)._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator("#attention[data-drawn='L0H0']").wait_for()
    assert "B − A is orange where B attends more" in frame.locator(".note").inner_text()
    frame.locator(".combine").select_option("max")
    frame.locator("#attention[data-drawn='L0 max']").wait_for()
    assert "may sum to more than 1" in frame.locator(".note").inner_text()
    together, shown = b.values[:3, -1].max(0) - a.values[:3, -1].max(0), weights_shown(frame)
    assert shown and all(abs(together[key] - weight) < 0.006 * abs(weight) for key, weight in shown.items())


@pytest.mark.parametrize("how", ["mean", "max"])
def test_heads_of_a_layer_are_put_together(page, how):
    maps = random_maps()
    page.set_content(attention(maps)._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator("#attention[data-drawn='L0H0']").wait_for()
    frame.locator(".combine").select_option(how)
    frame.locator(f"#attention[data-drawn='L0 {how}']").wait_for()
    together = maps.values[:3].mean(0) if how == "mean" else maps.values[:3].max(0)
    shown = weights_shown(frame)
    assert shown and all(abs(together[-1, key] - weight) < 0.006 * weight for key, weight in shown.items())


def test_two_checkpoints_stand_side_by_side(page):
    a, b = random_maps(), random_maps(seed=1, provenance={"checkpoints": "one & other"})
    page.set_content(attention(b, other=a)._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator("#attention[data-drawn='L0H0']").wait_for()
    assert frame.locator("canvas.map").count() == 3
    frame.locator(".plane").nth(2).press("End")
    frame.locator(".cell .weight").nth(2).wait_for()
    shown = frame.locator(".cell .weight").evaluate_all("parts => parts.map(part => Number(part.title))")
    expected = [b.values[0, -1, -1], a.values[0, -1, -1], a.values[0, -1, -1] - b.values[0, -1, -1]]
    assert shown == [float(weight) for weight in expected]
    assert "one & other" in frame.locator(".about").inner_text()
    with pytest.raises(WorkbenchError, match="different heads or tokens"):
        attention(a, other=Maps(a.values, HEADS, [*a.tokens[:-1], "other"]))


def test_it_opens_at_the_best_induction_head(page, make_model, tokens, tmp_path):
    model = make_model("olmo3")
    atlas = head_atlas(model, tokens[:1], samples=4)
    view = attention(attention_maps(model, tokens[0]), atlas)
    view.save(tmp_path / "view.html")
    assert (tmp_path / "view.html").read_text() == view.page
    best = atlas["induction"].rank().iloc[0]
    page.set_content(view._repr_html_())
    page.frame_locator("iframe").locator(
        f"#attention[data-drawn='L{int(best['layer'])}H{int(best['head'])}']"
    ).wait_for()


def test_the_page_asks_for_nothing_and_tokens_are_no_markup():
    view = attention(random_maps())
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", view.page)
    assert view.page.count("</script>") == view.page.count("<script")


def test_notebooks_need_no_gradio():
    code = "import sys, workbench.views.standalone; print('gradio' in sys.modules, 'plotly' in sys.modules)"
    done = python("-c", code)
    assert done.stdout == "False False\n"


def test_the_view_needs_every_head_and_every_query():
    maps = random_maps()
    some = Maps(maps.values[:2, -2:], HEADS[:2], maps.tokens, queries=[7, 8])
    with pytest.raises(WorkbenchError, match="every query"):
        attention(some)
    with pytest.raises(WorkbenchError, match="L1H0"):
        attention(Maps(maps.values[3:], HEADS[3:], maps.tokens))


def test_a_page_is_shown_in_a_browser_and_stays_as_a_file(monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    page = StandalonePage("<p>▁the</p>", 100)
    page.show()
    file = Path(url2pathname(urlparse(opened[0]).path))
    assert file.read_text(encoding="utf-8") == page.page and file.suffix == ".html"
    file.unlink()
