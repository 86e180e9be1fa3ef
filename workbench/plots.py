"""One picture for each shape of result: `plot(result)` gives a plotly figure.

Colours can be told apart by colour-blind readers: cividis, and blue–orange around zero. Backgrounds are transparent
and text is grey, so a figure reads on a light page and on a dark one. Axes are integers with labels, because equal
tokens would merge on a categorical axis. Arrays are handed over as float32, which plotly sends as binary.
"""

from collections.abc import Sequence
from functools import singledispatch
from math import ceil

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from workbench.results import Curves, Grid, Maps, Measures, Points, Result, Scores
from workbench.text import escape

SEQUENTIAL = "cividis"
DIVERGING = [[0, "#0f4c9c"], [0.25, "#6f9fd8"], [0.5, "#e9e9e6"], [0.75, "#e8964a"], [1, "#a34700"]]
BLUE, ORANGE = "#4a86cf", "#d9772b"
LINES = [BLUE, ORANGE, "#2a9d7c", "#c2679d", "#8a8a35", "#8c6bc8", "#c9504a", "#7f7f7f"]
DASHES = ["solid", "dash", "dot", "dashdot"]
GREY, FAINT = "#808080", "rgba(128,128,128,0.25)"
MAX_TICKS = 48  # more labels than this on one axis run into each other
ROW_CHARACTERS = 130  # that fit side by side into the cells of one row
LEAST_CELL_CHARACTERS, MAX_CELL_CHARACTERS = 5, 12
CELL_WIDTH = 42  # pixels that the fewest characters need
MAX_TEXT_COLUMNS = 128  # cells of more have no texts


@singledispatch
def plot(result: Result) -> go.Figure:
    """The figure of a result. Of `Measures`, plot one: `plot(atlas["entropy"])`."""
    raise TypeError(
        f"there is no plot for a {type(result).__name__}; there is one for Grid, Maps, Scores, Curves, Points"
    )


@plot.register
def _(measures: Measures) -> go.Figure:
    first = next(iter(measures))
    raise TypeError(f"this holds several measures ({', '.join(measures)}); plot one of them, say plot(it[{first!r}])")


@plot.register
def plot_grid(grid: Grid) -> go.Figure:
    """A heatmap, first row at the bottom (layers rise), with the cells' texts where they can be read."""
    rows, columns = [escape(r) for r in grid.rows], [escape(c) for c in grid.columns]
    room = clamp(ROW_CHARACTERS // len(columns), LEAST_CELL_CHARACTERS, MAX_CELL_CHARACTERS)
    readable = grid.text is not None and len(columns) <= MAX_TEXT_COLUMNS
    texts = cell_texts(grid.text, room) if readable else None
    shown = np.log10(grid.values) if grid.log else grid.values
    low, high = value_range(shown, grid.signed)
    heatmap = go.Heatmap(
        z=shown,
        x=np.arange(len(columns), dtype=np.float32),
        y=np.arange(len(rows), dtype=np.float32),
        zmin=low,
        zmax=high,
        colorscale=colours(grid),
        colorbar=colour_bar(fitting(grid)) | (powers_of_ten(high) if grid.log else {}),
        text=texts,
        texttemplate=None if texts is None else "%{text}",
        textfont_size=11,
        customdata=hover_names(grid),
        hovertemplate=f"{escape(grid.row_name)} %{{customdata[0]}}<br>{escape(grid.column_name)} %{{customdata[1]}}"
        f"%{{customdata[2]}}<br>{escape(grid.value_label)} %{{customdata[3]}}<extra></extra>",
        hoverongaps=False,
        xgap=1 if len(columns) <= MAX_TICKS else 0,
        ygap=1 if len(rows) <= MAX_TICKS else 0,
    )
    figure = finish(go.Figure(heatmap), grid, height=190 + min(26 * len(rows), 900))
    if readable and room * len(columns) > ROW_CHARACTERS:  # wider than a window rather than not to be read
        figure.update_layout(width=150 + CELL_WIDTH * len(columns))
    figure.update_xaxes(title=escape(grid.column_name), **ticks(columns))
    figure.update_yaxes(title=escape(grid.row_name), **ticks(rows))
    return figure


@plot.register
def plot_maps(maps: Maps) -> go.Figure:
    """One heatmap a head, queries downwards; keys after the query, which cannot be seen, are left empty."""
    across = min(len(maps.heads), 4)
    down = ceil(len(maps.heads) / across)
    figure = make_subplots(
        down,
        across,
        subplot_titles=[escape(h) for h in maps.heads] if len(maps.heads) > 1 else None,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.03,
        vertical_spacing=min(0.12, 0.3 / down),
    )
    queries = np.array(maps.queries)
    hidden = np.arange(len(maps.tokens)) > queries[:, None]  # query key
    tokens = [escape(token) for token in maps.tokens]
    for n, head in enumerate(maps.heads):
        heatmap = go.Heatmap(
            z=np.where(hidden, np.float32("nan"), maps.values[n]),
            coloraxis="coloraxis",
            hoverongaps=False,
            hovertemplate="query %{y}<br>key %{x}<br>"
            + f"{escape(maps.value_label)} %{{z}}<extra>{escape(head)}</extra>",
        )
        figure.add_trace(heatmap, row=n // across + 1, col=n % across + 1)
    low, high = value_range(maps.values, maps.signed)
    bar = colour_bar(maps.value_label)
    figure.update_layout(coloraxis={"colorscale": colours(maps), "colorbar": bar, "cmin": low, "cmax": high})
    single = len(maps.heads) == 1
    figure = finish(figure, maps, height=130 + down * (clamp(20 * len(queries), 120, 620) if single else 240))
    named = len(tokens) <= (MAX_TICKS if single else 12)
    names = tokens if named else [str(position) for position in range(len(tokens))]
    limit = MAX_TICKS if named else 16 if single else 6
    figure.update_xaxes(ticks(names, limit))
    figure.update_yaxes(ticks([names[q] for q in queries], limit) | {"autorange": "reversed"})
    figure.update_xaxes(title="key (source)", row=down)
    figure.update_yaxes(title="query (destination)", col=1)
    return figure


@plot.register
def plot_scores(scores: Scores) -> go.Figure:
    """Horizontal bars in the order given; orange above zero and blue below, where the sign means something."""
    names = [escape(name) for name in scores.names]
    bars = go.Bar(
        x=scores.values,
        y=np.arange(len(names), dtype=np.float32),
        orientation="h",
        marker_color=[ORANGE if scores.signed and value > 0 else BLUE for value in scores.values],
        customdata=np.array(names, dtype=object),
        hovertemplate=f"%{{customdata}}<br>{escape(scores.value_label)} %{{x}}<extra></extra>",
    )
    figure = finish(go.Figure(bars), scores, height=130 + 18 * len(names))
    total = "" if scores.total is None else f"; all parts together {scores.total:.3g}"
    figure.update_xaxes(title=escape(scores.value_label) + total, zeroline=True)
    figure.update_yaxes(ticks(names, limit=len(names)) | {"autorange": "reversed"})
    return figure


@plot.register
def plot_curves(curves: Curves) -> go.Figure:
    """A line each, told apart by colour and dash (by shade where the lines stand in order), in bands of ± 1 error."""
    figure = go.Figure()
    x = log_places(curves.x) if curves.log_x else curves.x
    for n, name in enumerate(curves.lines):
        colour, dash = line_style(n, len(curves.lines), curves.ordered)
        if curves.errors is not None:
            edges = np.concatenate([curves.values[n] + curves.errors[n], (curves.values[n] - curves.errors[n])[::-1]])
            band = go.Scatter(x=np.concatenate([x, x[::-1]]), y=edges, fill="toself", opacity=0.25)
            band.update(
                fillcolor=colour, line_width=0, mode="lines", hoverinfo="skip", showlegend=False, legendgroup=str(n)
            )
            figure.add_trace(band)
        line = go.Scatter(x=x, y=curves.values[n], name=escape(name), legendgroup=str(n))
        line.update(
            mode="lines+markers" if len(curves.x) <= MAX_TICKS else "lines", line={"color": colour, "dash": dash}
        )
        if curves.x_labels is not None:
            places = zip(curves.x_labels, curves.x.tolist(), strict=True)
            line.update(customdata=np.array([f"{escape(label)} ({at:,.7g})" for label, at in places], dtype=object))
        shown = "%{customdata}" if curves.x_labels is not None else "%{x}"
        line.update(hovertemplate=f"{escape(curves.x_name)} {shown}<br>{escape(curves.value_label)} %{{y}}")
        figure.add_trace(line)
    figure = finish(figure, curves, height=420)
    figure.update_layout(showlegend=len(curves.lines) > 1)
    figure.update_xaxes(title=escape(curves.x_name), type="log" if curves.log_x else "linear", showgrid=True)
    figure.update_yaxes(title=escape(curves.value_label), showgrid=True, zeroline=curves.signed)
    if curves.x_labels is not None and len(curves.x) <= MAX_TICKS:
        kept = apart(np.log(x) if curves.log_x else x)
        texts = [escape(curves.x_labels[n]) for n in kept]
        figure.update_xaxes(tickmode="array", tickvals=x[kept], ticktext=texts)
    return figure


def emphasise(figure: go.Figure, name: str) -> go.Figure:
    """A figure of many curves with one of them in front, the others thin and grey; the names are left to hovering."""
    front, names = escape(name), [trace.name for trace in figure.data]
    for trace in figure.data:
        mine = trace.name == front
        trace.update(line={"color": BLUE if mine else GREY, "width": 3 if mine else 1, "dash": "solid"})
        trace.update(opacity=1 if mine else 0.5, marker_size=7 if mine else 5)
    if front in names:
        figure.data = [*(trace for trace in figure.data if trace.name != front), figure.data[names.index(front)]]
    return figure.update_layout(showlegend=False)


def same_colours(figure: go.Figure, other: go.Figure) -> go.Figure:
    """A heatmap with the colours of another, so that equal numbers look equal."""
    return figure.update_traces(zmin=other.data[0].zmin, zmax=other.data[0].zmax)


def log_places(x: np.ndarray) -> np.ndarray:
    """Where points stand on a logarithmic axis: zero, which has no place there, at half the least of the others."""
    return np.where(x > 0, x, x[x > 0].min() / 2) if (x > 0).any() else x + 1


def apart(places: np.ndarray, least: float = 0.06) -> list[int]:
    """Which labels of an axis can stand: none nearer to the one before than a share of the axis's length."""
    kept: list[int] = []
    for n in np.argsort(places, kind="stable"):
        if not kept or places[n] - places[kept[-1]] >= least * np.ptp(places):
            kept.append(int(n))
    return kept


@plot.register
def plot_points(points: Points) -> go.Figure:
    """Markers, named where the names can be read (in three dimensions plotly shows them unescaped) and on hover."""
    names = np.array([escape(name) for name in points.names], dtype=object)
    marker = {"size": 8 if len(points.axes) == 2 else 4, "color": BLUE}
    hover = "%{customdata}"
    if points.colour is not None:
        bar = colour_bar(points.colour_name)
        marker |= {
            "color": points.colour,
            "colorscale": SEQUENTIAL,
            "colorbar": bar,
            "line": {"width": 1, "color": GREY},
        }
        hover += f"<br>{escape(points.colour_name)} %{{marker.color}}"
    look = {
        "mode": "markers+text" if len(names) <= MAX_TICKS and len(points.axes) == 2 else "markers",
        "text": names,
        "textposition": "top center",
        "customdata": names,
        "marker": marker,
        "hovertemplate": hover + "<extra></extra>",
    }
    x, y, *z = np.ascontiguousarray(points.values.T)
    trace = go.Scatter3d(look, x=x, y=y, z=z[0]) if z else go.Scatter(look, x=x, y=y)
    figure = finish(go.Figure(trace), points, height=520)
    titles = {f"{letter}axis_title": escape(axis) for letter, axis in zip("xyz", points.axes, strict=False)}
    if z:
        plain = {"gridcolor": FAINT, "backgroundcolor": "rgba(0,0,0,0)", "zerolinecolor": GREY}
        return figure.update_scenes(titles).update_scenes({f"{letter}axis": plain for letter in "xyz"})
    return figure.update_layout(titles).update_xaxes(showgrid=True).update_yaxes(showgrid=True)


def value_range(values: np.ndarray, signed: bool) -> tuple[float, float]:
    """Ends of the colour scale: symmetric around zero if signed; otherwise from zero, or the least if that is lower."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    if signed:
        largest = float(np.abs(finite).max()) or 1.0
        return -largest, largest
    low, high = min(0.0, float(finite.min())), float(finite.max())
    return low, high if high > low else low + 1.0


def colours(result: Result) -> str | list[list[float | str]]:
    """The colour scale of a result: cividis, or blue–orange where zero is the centre."""
    return DIVERGING if result.signed else SEQUENTIAL


def fitting(grid: Grid) -> str:
    """The title of a colour bar: what the numbers are, where that fits beside the rows; else their unit."""
    return grid.value_label if len(grid.value_label) <= max(16, 4 * len(grid.rows)) else grid.unit


def colour_bar(title: str) -> dict[str, object]:
    """A thin colour bar with its title along its side."""
    return {"title": {"text": escape(title), "side": "right"}, "thickness": 12, "outlinewidth": 0}


def line_style(n: int, lines: int, ordered: bool) -> tuple[str, str]:
    """Colour and dash of the nth line."""
    if ordered and lines > 1:
        return sample_colorscale(SEQUENTIAL, 0.3 + 0.6 * n / (lines - 1))[0], "solid"
    return LINES[n % len(LINES)], DASHES[n // len(LINES) % len(DASHES)]


def cell_texts(texts: np.ndarray, room: int) -> np.ndarray:
    """As much of each cell's text as there is room for, in characters."""
    return np.vectorize(lambda t: escape(t if len(t) <= room else t[: room - 1] + "…"), otypes=[object])(texts)


def hover_names(grid: Grid) -> np.ndarray:
    """What hovering says of each cell: labels of row and column, its whole text, its value. row column 4"""
    rows, columns = np.meshgrid(np.array(grid.rows, object), np.array(grid.columns, object), indexing="ij")
    texts = np.full(rows.shape, "", object) if grid.text is None else grid.text
    values = np.vectorize("{:.6g}".format, otypes=[object])(grid.values)
    parts = np.vectorize(escape, otypes=[object])(np.stack([rows, columns, texts, values], axis=-1))
    parts[..., 2] = np.where(parts[..., 2] == "", "", "<br>" + parts[..., 2])
    return parts


def powers_of_ten(high: float) -> dict[str, object]:
    """Ticks of a colour bar that shows logarithms to base ten."""
    exponents = np.arange(0, int(high) + 1, dtype=np.int32)
    return {"tickmode": "array", "tickvals": exponents, "ticktext": [f"{10**n:,}" for n in exponents.tolist()]}


def ticks(names: Sequence[str], limit: int = MAX_TICKS) -> dict[str, object]:
    """An integer axis with these labels; with every nth of them where there are too many."""
    step = max(1, ceil(len(names) / limit))
    shown = np.arange(0, len(names), step, dtype=np.int32)
    return {"tickmode": "array", "tickvals": shown, "ticktext": [names[i] for i in shown]}


def clamp(value: int, low: int, high: int) -> int:
    """The value, brought within its bounds."""
    return max(low, min(high, value))


def finish(figure: go.Figure, result: Result, height: int) -> go.Figure:
    """The look all figures share: transparent, grey text, its title, and where it comes from as meta data."""
    figure.update_layout(
        title={"text": escape(result.title), "font_size": 14, "x": 0, "xref": "paper"},
        height=height,
        margin={"l": 10, "r": 10, "t": 50 if result.title else 25, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 12, "family": "system-ui, sans-serif"},
        hoverlabel={"font_family": "ui-monospace, monospace"},
        meta=dict(result.provenance),
    )
    plain = {"showgrid": False, "zeroline": False, "gridcolor": FAINT, "zerolinecolor": GREY, "automargin": True}
    return figure.update_xaxes(plain).update_yaxes(plain)
