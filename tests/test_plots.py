"""Every result type has a plot that is readable, safe against markup, and stores its numbers in binary."""

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from workbench import colours as palette
from workbench.plots import narrowed, plot, with_legend_below
from workbench.plots.curves import apart, tick_label
from workbench.plots.figure import LABEL_CHARACTERS, shortened, value_range
from workbench.results import Curves, Grid, Maps, Measures, Points, Result, Scores
from workbench.views import asset

HEADS = [f"L0H{n}" for n in range(5)]
HOSTILE = ["<b>x</b>", "$a^2$", "&amp;", "▁the", "▁the", "<script>"]
N = len(HOSTILE)
CURVES = Curves(torch.rand(2, N), HOSTILE[:2], range(N), x_labels=HOSTILE, errors=torch.rand(2, N), title=HOSTILE[0])
RESULTS: dict[str, Result] = {
    "grid": Grid(torch.rand(2, N), HOSTILE[:2], HOSTILE, text=[HOSTILE] * 2, title=HOSTILE[1], value_name=HOSTILE[0]),
    "signed grid": Grid(torch.randn(2, N), HOSTILE[:2], HOSTILE, signed=True),
    "logarithmic grid": Grid(torch.tensor([[1.0, 1000.0, float("nan")]]), ["a"], HOSTILE[:3], log=True),
    "one map": Maps(torch.rand(1, N, N), HOSTILE[:1], HOSTILE, value_name=HOSTILE[0]),
    "maps": Maps(torch.rand(5, 2, N), HOSTILE[:5], HOSTILE, queries=[1, 4]),
    "scores": Scores(torch.randn(N), HOSTILE, signed=True, total=1.0, value_name=HOSTILE[0]),
    "curves": CURVES,
    "ordered curves": Curves(torch.rand(3, 4), HOSTILE[:3], range(1, 5), ordered=True, log_x=True),
    "points": Points(torch.rand(N, 2), HOSTILE, HOSTILE[:2], colour=range(N), colour_name=HOSTILE[0]),
    "points in space": Points(torch.rand(N, 3), HOSTILE, HOSTILE[:3]),
}


@pytest.fixture(params=RESULTS)
def result(request: pytest.FixtureRequest) -> Result:
    return RESULTS[request.param]


def test_backgrounds_are_transparent_and_text_is_grey(result: Result) -> None:
    layout = plot(result).layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert layout.font.color == palette.GREY


def test_no_label_is_read_as_markup_or_mathematics(result: Result) -> None:
    text = json.dumps(json.loads(plot(result).to_json()), ensure_ascii=False).replace("<br>", "")
    text = text.replace("<extra>", "").replace("</extra>", "")
    assert "<b>" not in text and "<script" not in text and "$a" not in text


def test_numbers_travel_in_binary(result: Result) -> None:
    for trace in json.loads(plot(result).to_json())["data"]:
        for name in {"x", "y", "z"} & set(trace):
            assert "bdata" in trace[name], f"{trace['type']}.{name} is a list"


def test_equal_tokens_stay_apart() -> None:
    for name in ("grid", "one map"):
        axis = plot(RESULTS[name]).layout.xaxis
        assert axis.tickmode == "array" and len(axis.tickvals) == N


def test_zero_is_the_centre_of_what_is_signed() -> None:
    assert value_range(np.array([-1.0, 3.0, np.nan]), signed=True) == (-3, 3)
    assert value_range(np.array([0.2, 0.5]), signed=False) == (0, 0.5)
    assert value_range(np.array([np.nan]), signed=True) == (0, 1)
    (heatmap,) = plot(RESULTS["signed grid"]).data
    assert heatmap.zmin == -heatmap.zmax


def test_logarithms_are_labelled_by_what_they_stand_for() -> None:
    (heatmap,) = plot(RESULTS["logarithmic grid"]).data
    np.testing.assert_allclose(heatmap.z, [[0, 3, np.nan]])
    assert heatmap.colorbar.ticktext == ("1", "10", "100", "1,000")
    assert heatmap.customdata[0, 1].endswith("value 1000")


def test_keys_after_the_query_are_empty() -> None:
    figure = plot(RESULTS["maps"])
    assert len(figure.data) == 5
    z = figure.data[0].z
    assert np.isnan(z[0, 2:]).all() and np.isfinite(z[0, :2]).all() and np.isnan(z[1, 5:]).all()


def test_attention_axes_are_named() -> None:
    layout = plot(RESULTS["one map"]).layout
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("key (source)", "query (destination)")


def test_nearly_equal_means_are_points_on_an_axis_of_their_own() -> None:
    losses = Scores([6.8, 7.0, 6.6], ["all", "a", "b"], errors=[0.1, 0.3, 0.2], value_name="loss", unit="nats")
    figure = plot(losses)
    assert figure.data[0].mode == "markers" and list(figure.data[0].error_x.array) == pytest.approx([0.1, 0.3, 0.2])
    low, high = figure.layout.xaxis.range
    assert 6 < low < 6.4 and 7.3 < high < 8  # with both ends of every error bar
    assert figure.layout.xaxis.title.text == "loss (nats); the axis does not begin at 0"
    for values in ([6.8, 7.0, 3.0], [-1.0, 1.0, 1.1], [2.0, 2.0, 2.0]):
        assert plot(Scores(values, "abc", errors=[0.1] * 3)).data[0].type == "bar"
    assert plot(Scores([6.8, 7.0], "ab")).data[0].type == "bar"  # without errors it is not known what is equal


def test_long_axes_are_thinned() -> None:
    figure = plot(Grid(torch.rand(1, 500), ["a"], range(500)))
    assert len(figure.layout.xaxis.tickvals) <= 48


def test_provenance_travels_with_the_figure() -> None:
    assert plot(CURVES.with_provenance({"seed": 3})).layout.meta == {"seed": 3}


def test_what_has_no_plot_says_so() -> None:
    with pytest.raises(TypeError, match=r"several measures \(loss\); plot one of them"):
        plot(Measures(loss=CURVES))
    with pytest.raises(TypeError, match="a list cannot be plotted"):
        plot([1])


def test_every_shape_gives_a_figure(result: Result) -> None:
    assert isinstance(plot(result), go.Figure)


def test_labels_of_an_axis_do_not_run_into_each_other():
    steps = np.array([0, 50, 100, 200, 2000, 4000, 6000], dtype=np.float32)
    assert apart(steps) == [0, 4, 5, 6]
    assert apart(np.arange(12)) == list(range(12))
    assert apart(np.zeros(1)) == [0]
    kept = apart(np.log([25.0, 50, 100, 200, 400, 500, 550, 600, 700, 1000, 2000, 4000, 6000]))
    assert kept[0] == 0 and kept[-1] == 12 and 11 not in kept  # 4,000 is too near to 6,000


def test_the_last_head_leaves_room_for_the_name_of_the_mlp():
    def labels(heads: int) -> tuple[str, ...]:
        parts = [*map(str, range(heads)), "MLP"]
        return plot(Grid(torch.rand(heads, heads + 1), range(heads), parts, column_name="part")).layout.xaxis.ticktext

    assert labels(6) == ("0", "1", "2", "3", "4", "5", "MLP")
    assert labels(16) == ("0", "2", "4", "6", "8", "10", "12", "14", "MLP")
    assert labels(32)[-2:] == ("28", "MLP") and len(labels(32)) < 20


def test_small_probabilities_have_different_ends_on_the_colour_bar():
    (heatmap,) = plot(Grid([[0.0004, 0.0008]], "a", "bc", value_name="probability", as_percent=True)).data
    assert heatmap.colorbar.ticktext == ("0 %", "0.04 %", "0.08 %")


def test_numbers_stand_beyond_the_error_bars():
    bars, numbers = plot(Scores([3.0, -2.0], "ab", errors=[0.5, 0.25])).data
    assert bars.x.tolist() == [3, -2] and numbers.x.tolist() == [3.5, -2.25]
    assert numbers.textposition.tolist() == ["middle right", "middle left"]


def test_maps_are_square_and_name_their_cells():
    several = plot(Maps(torch.rand(5, 2, N), HEADS, HOSTILE, queries=[1, 4]))
    assert all(axis.scaleanchor and axis.constrain == "domain" for axis in several.select_yaxes())
    assert several.data[0].hovertemplate.startswith("L0H0<br>query: token %{customdata} %{y}<br>key: token %{point")
    assert several.data[0].customdata[:, 0].tolist() == [1, 4]
    whole = plot(Maps(torch.rand(1, N, N), HEADS[:1], HOSTILE)).data[0]
    assert whole.customdata is None and "query: token %{pointNumber[0]} %{y}<br>" in whole.hovertemplate


def test_curves_and_points_name_what_is_under_the_pointer():
    curves = Curves([[1.0, 2.0], [2.0, 3.0]], ["L0H1", "L0H2"], [0, 1], x_name="step", value_name="loss", unit="nats")
    assert plot(curves).data[0].hovertemplate == "L0H1<br>step %{x:,}<br>loss %{y:.4g} nats<extra></extra>"
    points = Points([[1.0, 2.0]], ["a"], ["PC1 (50.0%)", "PC2 (20.0%)"])
    told = plot(points).data[0].hovertemplate
    assert told == "%{customdata}<br>PC1 (50.0%) %{x:.4g}<br>PC2 (20.0%) %{y:.4g}<extra></extra>"


def test_of_many_lines_those_that_change_most_have_colours() -> None:
    values = torch.linspace(0, 1, 4) * torch.arange(24.0)[:, None]  # line x
    lines = [f"L{n // 6}H{n % 6}" for n in range(24)]
    traces = {trace.name: trace for trace in plot(Curves(values, lines, range(4))).data}
    named = {name for name, trace in traces.items() if trace.showlegend}
    assert named == set(lines[-8:]) and len({traces[name].line.color for name in named}) == 8
    assert len({traces[name].line.color for name in lines[:-8]}) == 1
    assert list(traces)[-8:] == lines[-8:]  # on top of the others


def test_names_of_points_do_not_lie_on_each_other() -> None:
    there = torch.tensor([[0.0, 0.0], [0.01, 0.0], [1.0, 1.0], [1.0, 0.99]])
    (trace,) = plot(Points(there, ["one", "two", "three", "four"], "xy")).data
    assert trace.text.tolist() == ["one", "", "three", ""]
    assert trace.customdata.tolist() == ["one", "two", "three", "four"]


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """The contrast of two colours (WCAG 2.2)."""
    darker, lighter = sorted(float(palette.luminance(colour)) for colour in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def shown(ink: str, *, dark: bool) -> np.ndarray:
    """The colour of a text on the page: that of the stylesheet's variable, or the fallback, inverted on a dark page."""
    own = dict(part.split(": ") for part in palette.ON_DARK.split("; ") if part.startswith("--"))
    name, _, fallback = ink.removeprefix("var(").removesuffix(")").rpartition(",")
    colour = own[name] if dark and name else fallback
    (value,) = np.array([palette.rgb("#" + "".join(2 * digit for digit in colour[1:]))])
    return palette.on_dark(value) if dark else value


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_texts_can_be_read_on_every_cell_of_both_scales_on_both_pages(signed: bool, dark: bool) -> None:
    values = np.linspace(-1.0 if signed else 0.0, 1.0, 100, dtype=np.float32)[None]
    texts = np.full(values.shape, "a < b", object)
    (cells,) = plot(Grid(values, ["0"], [str(n) for n in range(100)], text=texts, signed=signed)).data
    stops = tuple(colour for _, colour in cells.colorscale)
    for value, text in zip(values[0].tolist(), cells.text[0], strict=True):
        cell = palette.sampled(stops, np.array((value - cells.zmin) / (cells.zmax - cells.zmin)))
        ink = re.fullmatch(r'<span style="color:(.*)">a &lt; b</span>', text)[1]
        assert contrast(palette.cells_on_dark(cell) if dark else cell, shown(ink, dark=dark)) > 4.5, value
        if not dark:  # a notebook has no stylesheet
            assert "var(" not in ink or contrast(cell, shown(ink, dark=False)) > 4.5


def test_nothing_has_the_colour_of_the_background() -> None:
    white, ground = np.ones(3), np.full(3, palette.GROUND)
    for nothing in (palette.SEQUENTIAL[0], palette.DIVERGING[len(palette.DIVERGING) // 2]):
        assert (np.array(palette.rgb(nothing)) == white).all()
    np.testing.assert_allclose(palette.cells_on_dark(white), ground, atol=1e-9)


@pytest.mark.parametrize("dark", [False, True])
def test_the_scales_are_steady_in_grey(dark: bool) -> None:
    middle = len(palette.DIVERGING) // 2
    for arm in (palette.SEQUENTIAL, palette.DIVERGING[middle:], palette.DIVERGING[middle::-1]):
        shades = palette.sampled(arm, np.linspace(0, 1, 50))
        light = np.diff(palette.luminance(palette.cells_on_dark(shades) if dark else shades))
        assert (light > 0).all() if dark else (light < 0).all()


def test_the_canvas_has_the_same_colours() -> None:
    script = asset("maps.js")
    for name in ("SEQUENTIAL", "DIVERGING"):
        listed = re.search(rf"const {name} = \[(.*?)\]", script, re.DOTALL)[1]
        assert tuple(f"#{stop}" for stop in re.findall(r"[0-9a-f]{6}", listed)) == getattr(palette, name)
    turn = re.search(r"const TURN = \[(.*?)\];", script, re.DOTALL)[1]
    numbers = np.array(re.findall(r"-?\d+\.\d+", turn), float).reshape(3, 3)
    assert np.array_equal(numbers, palette._TURN)
    assert float(re.search(r"const GROUND = ([0-9.]+)", script)[1]) == palette.GROUND


def test_cells_keep_their_shape_and_fit() -> None:
    for rows, columns in ((4, 6), (5, 44), (16, 16), (32, 33)):
        figure = plot(Grid(torch.rand(rows, columns), range(rows), range(columns)))
        assert figure.layout.yaxis.scaleanchor == "x" and figure.layout.yaxis.scaleratio == 1
        assert figure.layout.height <= 560 + 120
    assert plot(Grid(torch.rand(4, 6), range(4), range(6))).layout.height < 4 * 28 + 130


def test_in_a_narrow_column_a_grid_is_as_high_as_its_cells() -> None:
    def height(heads: int) -> int:
        return narrowed(plot(Grid(torch.rand(heads, heads + 1), range(heads), range(heads + 1)))).layout.height

    assert height(4) == plot(Grid(torch.rand(4, 5), range(4), range(5))).layout.height
    assert height(16) < 16 * 300 / 17 + 130 and height(32) < 32 * 300 / 33 + 130
    labels = narrowed(plot(Grid(torch.rand(32, 33), range(32), range(33)))).layout.yaxis.tickvals
    assert labels[0] == 0 and (labels[1] - labels[0]) * 300 / 33 >= 14  # pixels, so that they do not overlap


def test_in_a_narrow_column_the_legend_of_curves_stands_below_them() -> None:
    lines = [f"step {n} row {n}" for n in range(5)]
    curves = plot(Curves(torch.rand(5, 3), lines, x=[1, 10, 100], x_name="step"))
    height = curves.layout.height
    below = with_legend_below(curves)
    assert below.layout.legend.orientation == "h" and below.layout.margin.b < below.layout.height - height + 20
    alone = plot(Curves(torch.rand(1, 3), ["loss"], x=[1, 10, 100], x_name="step"))
    assert with_legend_below(alone).layout.legend.orientation is None


def test_the_numbers_beside_bars_have_equally_many_decimals() -> None:
    def beside(*values: float) -> list[str]:
        return [text.strip() for text in plot(Scores(list(values), range(len(values)))).data[1].text]

    assert beside(8.4, 8.41, 8.3999) == ["8.40", "8.41", "8.40"]
    assert beside(-0.51, 7.34, 1.65, 0.281) == ["−0.51", "7.34", "1.65", "0.28"]
    assert beside(0.5, 0.25, 1e-5, 0.0) == ["0.500", "0.250", "1e-05", "0.000"]
    assert beside(0.0, 0.0) == ["0", "0"] and beside(20_000.0, 3e6) == ["20000", "3e+06"]


def test_heads_and_tokens_are_named_under_the_pointer_with_their_number_and_unit() -> None:
    def told(grid: Grid) -> list[str]:
        return plot(grid).data[0].customdata[-1].tolist()

    parts = Grid([[0.0, 1.0], [2.0, -0.5]], range(2), [0, "MLP"], column_name="part", value_name="loss", unit="nats")
    assert told(parts) == ["L1H0<br>loss 2 nats", "L1 MLP<br>loss -0.5 nats"]
    assert plot(parts).layout.xaxis.title.text == "head (last column: MLP)"
    lens = Grid(
        [[0.5, 5.4e-12]], ["embed"], ["▁the", "<b>"], value_name="probability", as_percent=True, text=[["a", ""]]
    )
    assert told(lens) == [
        "layer embed<br>token 0 ▁the<br>a<br>probability 50 % (0.5)",
        "layer embed<br>token 1 &lt;b&gt;<br>probability &lt; 0.1 % (5.4e-12)",
    ]


def test_layers_go_upwards_in_every_figure() -> None:
    parts = Scores([1.0, 2.0, 3.0, 4.0], ["embed", "L0H0", "L0 MLP", "L1H0"])
    low, high = plot(parts).layout.yaxis.range
    assert low < 0 and high > len(parts.names) - 1
    low, high = plot(Scores([1.0, 2.0], ["L1H0", "L0H0"])).layout.yaxis.range
    assert low > 1 and high < 0
    assert plot(RESULTS["grid"]).layout.yaxis.range is None


def test_long_titles_are_broken_into_lines() -> None:
    title = "of <b>many</b> words " * 12
    shown = plot(Scores([1.0], ["a"], title=title)).layout.title.text
    assert shown.count("<br>") == 2 and "&lt;b&gt;many" in shown and "<b>" not in shown


def test_one_map_of_a_long_text_names_its_positions() -> None:
    layout = plot(Maps(torch.rand(1, 2, 60), ["L0H0"], [f"w{n}" for n in range(60)], queries=[8, 50])).layout
    assert layout.xaxis.dtick == 4 and layout.xaxis.labelalias["59"] == "59 w59"
    assert layout.yaxis.dtick == 1 and layout.yaxis.labelalias == {"0": "8 w8", "1": "50 w50"}


def test_what_scores_add_up_to_is_said_beside_what_they_should() -> None:
    def said(total: float | None) -> str:
        return plot(Scores([1.0, 2.0], "ab", total=total, value_name="logit")).layout.xaxis.title.text

    assert [said(total) for total in (None, 3.0, 4.0)] == ["logit", "logit; in sum 3", "logit; in sum 3 of 4"]


def test_a_wide_text_is_cut_earlier() -> None:
    assert [shortened(text, 6) for text in ("wordy!", "wordy!!", "▁word", "▁words", "⏎▁▁▁▁", "")] == [
        "wordy!", "wordy…", "▁word", "▁wor…", "⏎▁…", "",
    ]  # fmt: skip


def test_steps_and_tokens_are_counted_in_words() -> None:
    assert [tick_label(n) for n in (0, 550, 6000, 24_600_000, 84e9, 3.9e12)] == [
        "0",
        "550",
        "6,000",
        "24.6M",
        "84B",
        "3.9T",
    ]
    run = Curves([[1.0, 2.0]], ["loss"], [0, 6000], x_name="step", x_labels=["step0", "step6000"])
    assert plot(run).layout.xaxis.ticktext == ("0", "6,000")


def test_errors_and_numbers_of_texts_are_said_on_hover() -> None:
    grid = Grid([[1.0, 2.0]], ["0"], ["0", "1"], errors=[[0.125, float("nan")]], texts=7)
    cells = plot(grid).data[0].customdata
    assert [cell.split("<br>")[-1] for cell in cells[0]] == ["value 1 ± 0.12 (7 texts)", "value 2 (7 texts)"]
    scores = Scores([1.0, 2.0], ["a", "b"], errors=[0.5, 0.25], texts=[3, 4])
    bars = plot(scores).data[0]
    assert bars.error_x.array.tolist() == [0.5, 0.25] and [name[1] for name in bars.customdata] == [" ± 0.5", " ± 0.25"]
    assert plot(Scores([1.0], ["a"])).data[0].error_x.array is None


def test_long_labels_are_cut_beside_an_axis_and_whole_under_the_pointer() -> None:
    long = "x" * 60
    grid = plot(Grid(torch.rand(1, 2), ["0"], [long, "a"], column_name="position"))
    labels = [*grid.layout.xaxis.ticktext, *plot(Maps(torch.rand(1, 2, 2), ["a"], [long, "b"])).layout.yaxis.ticktext]
    assert all(len(label) <= LABEL_CHARACTERS for label in labels) and labels[0].endswith("…")
    assert long in grid.data[0].customdata[0][0]
