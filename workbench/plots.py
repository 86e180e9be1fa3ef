"""Plots of results: `plot(result)` returns a plotly figure.

Colours are those of `workbench.colours`, for light and dark pages. Backgrounds are transparent and text is grey, so
that a figure is readable where no page's style applies. Layer 0 is at the bottom. Cells of grids keep their shape;
`CELL` is their height in pixels where there is room. Axes are integers with labels, because equal tokens would merge on
a categorical axis. Arrays are float32, which plotly encodes as binary.
"""

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from functools import singledispatch
from math import ceil, floor, isfinite, log10
from typing import TypeVar

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import colours as palette
from workbench.colours import BLUE, FAINT, GREY, LINES, ORANGE
from workbench.results import Curves, Estimated, Grid, Maps, Measures, Points, Result, Scores
from workbench.tokens import escape

SEQUENTIAL, DIVERGING = palette.plotly_scale(palette.SEQUENTIAL), palette.plotly_scale(palette.DIVERGING)
NARROW = 300  # pixels that the cells of a grid have in a narrow column
CELL, LEAST_CELL = 28, 4  # pixels of a cell's height
WIDTH, HEIGHT = 620, 560  # pixels that the cells of a grid take at most: Python does not know the window
MAX_TICKS = 48  # with more labels on one axis, they overlap
ROW_CHARACTERS = 130  # characters that fit into one row of cells
LEAST_CELL_CHARACTERS, MAX_CELL_CHARACTERS = 5, 12
CHARACTER = 7.2  # pixels of a character in a cell
CELL_WIDTH = 42  # pixels for `LEAST_CELL_CHARACTERS` characters
TICK_CHARACTER = 6.6  # pixels of a character beside an axis
LEGEND_MARK, LEGEND_LINE = 36, 20  # pixels of a line's sample before its name, and of a line of a legend
SHORTEST = 14  # pixels between two labels of an axis
MAX_TEXT_COLUMNS = 128  # with more columns, cells show no text
WIDE = "▁⏎⇥"
COUNTED = ("step", "tokens")  # axes whose ticks are numbers, not labels
HOVER = {"bgcolor": "#fff", "bordercolor": GREY, "font_color": "#18181b"}
SQUARE = {"scaleanchor": "x", "constrain": "domain", "constraintoward": "top"}  # of a vertical axis, below its title
FRAME = {"showline": True, "mirror": True, "linecolor": FAINT}
MARGIN = 12  # pixels above a figure without a title
LINE_HEIGHT = 16  # pixels of a line of a colour bar's title
BAR_HEIGHT = 46  # pixels of a colour bar with its title and numbers
BETWEEN_MAPS = 40  # pixels between rows of maps, for the titles
TITLE_CHARACTERS = 95  # per line


Number = TypeVar("Number", int, float)


@singledispatch
def plot(result: Result | Measures) -> go.Figure:
    """The plotly figure of a result. For `Measures`, plot one of them: `plot(atlas["entropy"])`.

    Errors: TypeError for `Measures` and for anything that is not a result.
    """
    raise TypeError(
        f"a {type(result).__name__} cannot be plotted; results that can: Grid, Maps, Scores, Curves, Points"
    )


@plot.register
def _(measures: Measures) -> go.Figure:
    first = next(iter(measures))
    raise TypeError(
        f"this has several measures ({', '.join(measures)}); plot one of them, for example plot(result[{first!r}])"
    )


@plot.register
def plot_grid(grid: Grid) -> go.Figure:
    """A heatmap with the first row at the bottom, so that layers go upwards, and texts in cells that have room.

    Cells keep their shape: squares, or as wide as their texts.
    """
    rows, columns = [escape(r) for r in grid.rows], [escape(c) for c in grid.columns]
    room = limited(ROW_CHARACTERS // len(columns), LEAST_CELL_CHARACTERS, MAX_CELL_CHARACTERS)
    texts = None if grid.text is None or len(columns) > MAX_TEXT_COLUMNS else cell_texts(grid.text, room)
    shown = np.log10(grid.values) if grid.log else grid.values
    low, high = value_range(shown, grid.signed)
    heatmap = go.Heatmap(
        z=shown,
        x=np.arange(len(columns), dtype=np.float32),
        y=np.arange(len(rows), dtype=np.float32),
        zmin=low,
        zmax=high,
        colorscale=colours(grid),
        colorbar=colour_bar() | (powers_of_ten(high) if grid.log else bar_ticks(grid, low, high)),
        text=None if texts is None else in_ink(texts, (shown - low) / (high - low), grid.signed),
        texttemplate=None if texts is None else "%{text}",
        textfont={"size": 11, "color": "#000"},
        customdata=hover_texts(grid),
        hovertemplate="%{customdata}<extra></extra>",
        hoverlabel=HOVER,
        hoverongaps=False,
    )
    wide = texts is not None and room * len(columns) > ROW_CHARACTERS  # a wide figure keeps the texts readable
    shape = 1.0 if texts is None else (CHARACTER * room + 8) / CELL  # width by height
    fitting = fitting_cell(len(rows), len(columns), shape)
    keeps_shape = not wide and fitting >= LEAST_CELL
    cell = limited(fitting if keeps_shape else HEIGHT / len(rows), LEAST_CELL, CELL)
    figure = with_bar(finish(go.Figure(heatmap), grid, height=HEIGHT), grid.value_label)
    figure.update_traces(xgap=1 if cell > 6 else 0, ygap=1 if cell > 6 else 0)
    across = CELL_WIDTH if wide else cell * shape if keeps_shape else WIDTH / len(columns)
    labelled = part_ticks(columns, across) if is_of_parts(grid) else column_ticks(columns, across)
    figure.update_xaxes(labelled | {"title": escape(column_title(grid))} | FRAME)
    figure.update_yaxes(ticks(rows, limit=max(1, int(len(rows) * cell / SHORTEST))) | FRAME)
    figure.update_yaxes(title={"text": escape(grid.row_name), "standoff": 6})
    if wide:
        figure = begun_left(figure, label_height(columns, across)).update_layout(width=150 + CELL_WIDTH * len(columns))
    if keeps_shape:
        figure.update_xaxes(constrain="domain").update_yaxes(SQUARE | {"scaleratio": 1 / shape})
    return with_height(figure, cell * len(rows) + label_height(columns, across))


@plot.register
def plot_maps(maps: Maps) -> go.Figure:
    """One heatmap for each head, queries downwards. Keys after the query are masked and stay empty."""
    across = min(len(maps.heads), 4)
    down = ceil(len(maps.heads) / across)
    queries = np.array(maps.queries)
    single = len(maps.heads) == 1
    tall = limited(20 * len(queries), 120, 620) if single else limited(20 * len(queries), 40, 200)  # pixels of one map
    whole = tall * down + BETWEEN_MAPS * (down - 1)
    figure = make_subplots(
        down,
        across,
        subplot_titles=None if single else [escape(h) for h in maps.heads],
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.03,
        vertical_spacing=BETWEEN_MAPS / whole,
    )
    hidden = np.arange(len(maps.tokens)) > queries[:, None]  # query key
    tokens = [escape(token) for token in maps.tokens]
    named = len(tokens) <= (MAX_TICKS if single else 12)
    places = None if queries.tolist() == list(range(len(queries))) else np.broadcast_to(queries[:, None], hidden.shape)
    query, key = "%{pointNumber[0]}" if places is None else "%{customdata}", "%{pointNumber[1]}"
    if named or single:  # else the axes have no labels for all places; those of a long text hold place and token
        query, key = (f"{query} %{{y}}", f"{key} %{{x}}") if named else ("%{y}", "%{x}")
    told = f"query: token {query}<br>key: token {key}<br>{said('%{z:.3g}', maps)}<extra></extra>"
    for n, head in enumerate(maps.heads):
        heatmap = go.Heatmap(
            z=np.where(hidden, np.float32("nan"), maps.values[n]),
            coloraxis="coloraxis",
            hoverongaps=False,
            hoverlabel=HOVER,
            customdata=None if places is None else places.astype(np.float32),
            hovertemplate=f"{escape(head)}<br>{told}",
        )
        figure.add_trace(heatmap, row=n // across + 1, col=n % across + 1)
    low, high = value_range(maps.values, maps.signed)
    bar = colour_bar() | bar_ticks(maps, low, high)
    figure.update_layout(coloraxis={"colorscale": colours(maps), "colorbar": bar, "cmin": low, "cmax": high})
    figure = with_bar(finish(figure, maps, height=HEIGHT), maps.value_label, 0 if single else 20)
    if not single:  # the maps' names stand between them and the bar
        figure.update_layout(coloraxis_colorbar_ypad=26)
    names = tokens if named else [str(position) for position in range(len(tokens))]
    limit = MAX_TICKS if named else 16 if single else 6
    figure.update_xaxes(ticks(names, limit))
    figure.update_yaxes(ticks([names[q] for q in queries], limit) | {"autorange": "reversed"})
    if single and not named:
        both = [f"{position} {token}" for position, token in enumerate(tokens)]
        figure.update_xaxes(aliased(both)).update_yaxes(aliased([both[q] for q in maps.queries]))
    figure.update_xaxes(FRAME).update_yaxes(FRAME).update_xaxes(title="key (source)", row=down)
    with_height(figure, whole + label_height(names, tall / len(tokens)))
    figure.update_xaxes(constrain="domain").update_yaxes(SQUARE)
    return figure.update_yaxes(title="query (destination)", col=1, row=None if tall >= 120 else (down + 1) // 2)


@plot.register
def plot_scores(scores: Scores) -> go.Figure:
    """Horizontal bars in the given order, from the top; in the order of layers, from the bottom.

    Negative scores are bars to the other side. If the scores are signed, positive bars are orange and negative ones
    blue. Scores that are `nearly_equal` are points on an axis that does not begin at 0, since their bars would look
    alike.
    """
    names, are_points = [escape(name) for name in scores.names], nearly_equal(scores)
    look = {"mode": "markers", "marker_size": 9} if are_points else {"orientation": "h"}
    marks = (go.Scatter if are_points else go.Bar)(
        x=scores.values,
        y=np.arange(len(names), dtype=np.float32),
        marker_color=[ORANGE if scores.signed and value > 0 else BLUE for value in scores.values],
        error_x=None if scores.errors is None else {"array": scores.errors, "color": GREY, "thickness": 1.5},
        customdata=np.stack([np.array(names, dtype=object), said_errors(scores)], axis=-1),
        hovertemplate=f"%{{customdata[0]}}<br>{said('%{x:.4g}', scores)}%{{customdata[1]}}<extra></extra>",
        hoverlabel=HOVER,
        **look,
    )
    figure = finish(go.Figure([marks, numbers_beside(scores)]), scores, height=130 + 18 * len(names))
    figure.update_layout(showlegend=False)
    title = escape(scores.value_label) + told_sum(scores) + ("; the axis does not begin at 0" if are_points else "")
    ends = ends_of_bars(scores)
    if are_points:  # with the other ends of the error bars, and room for the numbers
        ends = np.concatenate([2 * scores.values - ends, ends])
        room = 0.12 * (ends.max() - ends.min())
        reach = [float(ends.min() - room), float(ends.max() + room)]
    else:
        reach = with_room(ends)
    figure.update_xaxes(title=title, range=reach, zeroline=not are_points)
    order = True if goes_upwards(scores.names) else "reversed"
    figure.update_yaxes(ticks(names, limit=len(names)) | {"autorange": order, "ticklabelstandoff": 4})
    return figure


def nearly_equal(scores: Scores) -> bool:
    """Whether scores are means with standard errors that all have one sign and differ by less than a half of the
    largest, so that bars from 0 would look alike."""
    if scores.errors is None or scores.total is not None or len(scores.names) < 2:
        return False
    low, high = sorted((abs(scores.values.min()), abs(scores.values.max())))
    return bool(scores.values.min() * scores.values.max() > 0 and low > 0.5 * high and low < high)


def ends_of_bars(scores: Scores) -> np.ndarray:
    """Where each bar and its error bar end, on the side away from zero."""
    errors = 0 if scores.errors is None else np.nan_to_num(scores.errors)
    return scores.values + np.where(scores.values < 0, -1, 1) * errors


def numbers_beside(scores: Scores) -> go.Scatter:
    """The scores as numbers, each beyond the end of its bar and its error bar."""
    sides = np.where(scores.values < 0, "middle left", "middle right")
    look = {"mode": "text", "textposition": sides, "hoverinfo": "skip", "cliponaxis": False}
    texts = [f" {text} " for text in alike(scores.values)]
    return go.Scatter(x=ends_of_bars(scores), y=np.arange(len(sides), dtype=np.float32), text=texts).update(look)


def alike(scores: np.ndarray) -> list[str]:
    """Numbers with equally many decimals: as many as give the median of the magnitudes three significant digits.

    Numbers that would read as zero, and those of more than five digits, have three significant digits of their own.
    """
    values = scores.tolist()
    sizes = sorted(abs(value) for value in values if isfinite(value) and value)
    places = limited(2 - floor(log10(sizes[len(sizes) // 2])), 0, 6) if sizes else 0

    def written(value: float) -> str:
        is_fixed = value == 0 or 0.5 * 10**-places <= abs(value) < 1e5
        return f"{value:.{places}f}" if is_fixed else f"{value:.3g}"

    return [re.sub("^-", "−", written(value)) for value in values]


LAYER_OF = re.compile(r"L(\d+)(?:\D|$)|(embed)")


def goes_upwards(names: Sequence[str]) -> bool:
    """Whether names are of parts in the order of layers: embed, L0H0, …, L3 MLP."""
    found = [LAYER_OF.match(name) for name in names]
    layers = [-1 if match[2] else int(match[1]) for match in found if match]
    return len(layers) == len(names) > 1 and layers == sorted(layers) and layers[0] != layers[-1]


def told_sum(scores: Scores) -> str:
    """The sum of the scores, and their expected total if it differs at three digits; "" without a total."""
    if scores.total is None:
        return ""
    found, total = f"{scores.values.sum(dtype=np.float64):.3g}", f"{scores.total:.3g}"
    return f"; in sum {found}" + ("" if found == total else f" of {total}")


def with_room(values: np.ndarray, share: float = 0.12) -> list[float]:
    """The range of an axis that covers zero and all values, with room for a number beside the longest bars."""
    low, high = min(0.0, np.nanmin(values, initial=0.0)), max(0.0, np.nanmax(values, initial=0.0))
    room = share * ((high - low) or 1.0)
    room_below = 2.2 * room  # a number to the left of a bar stands near the names, in a narrow window too
    return [float(low - room_below * (low < 0)), float(high + room * (high > 0 or low == 0))]


@plot.register
def plot_curves(curves: Curves) -> go.Figure:
    """Lines with a colour each (shades if the lines are ordered) and bands of ± 1 standard error.

    If there are more unordered lines than colours, the lines with the widest range have colours; the others are faint
    and without bands, and their names appear on hover.
    """
    figure = go.Figure()
    x = log_places(curves.x) if curves.log_x else curves.x
    told = told_apart(curves)
    for n, name in sorted(enumerate(curves.lines), key=lambda line: line[0] in told):
        colour = line_colour(told.index(n), len(told), curves.ordered) if n in told else FAINT
        errors = np.full(len(x), np.nan) if curves.errors is None else curves.errors[n]
        if n in told and np.isfinite(errors).sum() > 1:
            there = np.isfinite(errors)
            low, high = (curves.values[n][there] + sign * errors[there] for sign in (-1, 1))
            around, edges = np.concatenate([x[there], x[there][::-1]]), np.concatenate([high, low[::-1]])
            band = go.Scatter(x=around, y=edges, fill="toself", opacity=0.25)
            band.update(
                fillcolor=colour, line_width=0, mode="lines", hoverinfo="skip", showlegend=False, legendgroup=str(n)
            )
            figure.add_trace(band)
        line = go.Scatter(x=x, y=curves.values[n], name=escape(name), legendgroup=str(n), showlegend=n in told)
        line.update(meta=x.tolist() if len(x) <= MAX_TICKS else None)  # for scripts, since x and y are encoded
        line.update(mode="lines+markers" if len(curves.x) <= MAX_TICKS else "lines", line_color=colour)
        if curves.x_labels is not None:
            places = zip(curves.x_labels, curves.x.tolist(), strict=True)
            line.update(customdata=np.array([f"{escape(label)} ({at:,.7g})" for label, at in places], dtype=object))
        shown = "%{customdata}" if curves.x_labels is not None else "%{x:,}"
        number = f"{escape(curves.x_name)} {shown}<br>{said('%{y:.4g}', curves)}<extra></extra>"
        line.update(hovertemplate=number if len(curves.lines) == 1 else f"{escape(name)}<br>{number}")
        figure.add_trace(line)
    figure = finish(figure, curves, height=420)
    figure.update_layout(showlegend=len(curves.lines) > 1)
    scale = {True: "log", False: "linear"}
    figure.update_xaxes(title=escape(curves.x_name), type=scale[curves.log_x], showgrid=True)
    figure.update_yaxes(title=escape(curves.value_label), type=scale[curves.log_y], showgrid=True)
    return figure.update_yaxes(zeroline=curves.signed).update_xaxes(places_of(curves, x))


def places_of(curves: Curves, x: np.ndarray) -> dict[str, object]:
    """Ticks for an axis of few, labelled points: numbers for steps and tokens, labels otherwise; else no settings."""
    if curves.x_labels is None or len(x) > MAX_TICKS:
        return {}
    counts = curves.x_name in COUNTED
    kept = apart(np.log(x) if curves.log_x else x)
    texts = [tick_label(curves.x[n]) if counts else escape(curves.x_labels[n]) for n in kept]
    return {"tickmode": "array", "tickvals": x[kept], "ticktext": texts, "autotickangles": [0, -90]}


def told_apart(curves: Curves) -> list[int]:
    """Indices of the lines with a colour of their own: all lines, or those with the widest range if there are too
    many."""
    if len(curves.lines) <= len(LINES) or curves.ordered:
        return list(range(len(curves.lines)))
    ranges = np.nanmax(curves.values, 1, initial=-np.inf) - np.nanmin(curves.values, 1, initial=np.inf)
    return sorted(np.argsort(-ranges, kind="stable")[: len(LINES)].tolist())


def tick_label(number: float) -> str:
    """A count in short form: "6,000", "84B"."""
    size, unit = next(((10**n, unit) for n, unit in ((12, "T"), (9, "B"), (6, "M")) if number >= 10**n), (1, ""))
    return f"{number / size:,.4g}{unit}" if unit else f"{number:,.0f}"


def emphasise(figure: go.Figure, name: str) -> go.Figure:
    """A figure of many curves with one in front, with its band, and the others thin and grey; names on hover."""
    front = escape(name)
    groups = [trace.legendgroup for trace in figure.data if trace.name == front]
    figure.data = [trace for trace in figure.data if trace.name is not None or trace.legendgroup in groups]
    names = [trace.name for trace in figure.data]
    for trace in figure.data:
        if trace.name is None:  # the band of the front line
            trace.update(fillcolor=BLUE)
            continue
        mine = trace.name == front
        trace.update(line={"color": BLUE if mine else GREY, "width": 3 if mine else 1, "dash": "solid"})
        trace.update(opacity=1 if mine else 0.5, marker_size=7 if mine else 5)
    if front in names:
        figure.data = [*(trace for trace in figure.data if trace.name != front), figure.data[names.index(front)]]
    return figure.update_layout(showlegend=False)


def same_colours(figure: go.Figure, other: go.Figure) -> go.Figure:
    """A heatmap with the colour scale and range of another, so that equal values have equal colours."""
    shown = other.data[0]
    bar = {"colorbar_tickvals": shown.colorbar.tickvals, "colorbar_ticktext": shown.colorbar.ticktext}
    return figure.update_traces(zmin=shown.zmin, zmax=shown.zmax, colorscale=shown.colorscale, **bar)


def marked(figure: go.Figure, places: Sequence[float]) -> go.Figure:
    """A figure of curves with a tick above its axis at each place; a place left of all points stands at the first.

    Ticks have no hover and take no clicks, so a click near them is one on a point of a curve.
    """
    first = min((float(np.min(trace.x)) for trace in figure.data if trace.x is not None and len(trace.x)), default=0.0)
    x = [value for place in places for value in (max(place, first), max(place, first), None)]
    ticks = go.Scatter(x=x, y=[0, 0.05, None] * len(places), yaxis="y2", mode="lines", hoverinfo="skip")
    ticks.update(showlegend=False, line={"color": ORANGE, "width": 1})
    hidden = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    return figure.add_trace(ticks).update_layout(yaxis2=hidden)


def log_places(x: np.ndarray) -> np.ndarray:
    """The points of a logarithmic axis, with zero moved to half of the smallest positive point."""
    return np.where(x > 0, x, x[x > 0].min() / 2) if (x > 0).any() else x + 1


def apart(places: np.ndarray, least: float = 0.08) -> list[int]:
    """Indices of the axis labels to show: a share `least` of the axis length or more between any two; the first and
    the last are among them.

    On an evenly spaced axis all labels are shown, because plotly rotates them.
    """
    length = np.ptp(places)
    if len(places) < 3 or np.ptp(np.diff(places)) <= 1e-6 * length:
        return list(range(len(places)))
    order = np.argsort(places, kind="stable").tolist()
    kept = [order[0]]
    for n in order[1:-1]:
        if min(places[n] - places[kept[-1]], places[order[-1]] - places[n]) >= least * length:
            kept.append(n)
    return [*kept, order[-1]]


@plot.register
def plot_points(points: Points) -> go.Figure:
    """Markers in two or three dimensions, with names on hover.

    In two dimensions, names are also shown where they do not overlap; in three, plotly would not escape them.
    """
    names = np.array([escape(name) for name in points.names], dtype=object)
    coloured = "" if points.colour is None else f"<br>{escape(points.colour_name)} %{{marker.color}}"
    unit = f" {escape(points.unit)}" if points.unit else ""
    axes = "".join(f"<br>{escape(axis)} %{{{at}:.4g}}{unit}" for at, axis in zip("xyz", points.axes, strict=False))
    flat = len(points.axes) == 2
    look = {
        "mode": "markers+text" if flat else "markers",
        "text": np.where(with_space(points), names, ""),
        "textposition": "top center",
        "customdata": names,
        "marker": {"size": 8 if flat else 4, "color": BLUE} | colouring(points),
        "hovertemplate": f"%{{customdata}}{coloured}{axes}<extra></extra>",
    }
    places = dict(zip("xyz", np.ascontiguousarray(points.values.T), strict=False))
    figure = finish(go.Figure((go.Scatter if flat else go.Scatter3d)(look, **places)), points, height=520)
    titles = {f"{letter}axis_title": escape(axis) for letter, axis in zip("xyz", points.axes, strict=False)}
    if flat:
        return figure.update_layout(titles).update_xaxes(showgrid=True).update_yaxes(showgrid=True)
    plain = {"gridcolor": FAINT, "backgroundcolor": "rgba(0,0,0,0)", "zerolinecolor": GREY}
    figure.update_scenes(titles | {"camera_eye": dict.fromkeys("xyz", 1.5)})
    return figure.update_scenes({f"{letter}axis": plain for letter in "xyz"})


def colouring(points: Points) -> dict[str, object]:
    """Marker settings for colour by number; empty without `colour`."""
    if points.colour is None:
        return {}
    line = {"width": 1, "color": GREY}
    bar = colour_bar() | {"title": {"text": escape(points.colour_name), "side": "top", "font": {"size": 12}}}
    return {"color": points.colour, "colorscale": SEQUENTIAL, "colorbar": bar, "line": line}


def with_space(points: Points, width: float = 620.0, height: float = 420.0) -> np.ndarray:
    """Boolean, point: the names that can be shown without overlap in a plot of width × height pixels.

    Of overlapping names, the first one is shown.
    """
    extent = np.ptp(points.values[:, :2], axis=0)
    places = points.values[:, :2] / np.where(extent > 0, extent, 1) * (width, height)
    shown: list[int] = []
    for n, place in enumerate(places):
        near = np.abs(places[shown] - place) < (7 * max(2, len(points.names[n])), 14)
        if not near.all(axis=1).any():
            shown.append(n)
    return np.isin(np.arange(len(places)), shown)


def value_range(values: np.ndarray, signed: bool) -> tuple[float, float]:
    """Ends of the colour scale: symmetric around zero if signed; otherwise from min(0, lowest value) to the highest."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    if signed:
        largest = float(np.abs(finite).max()) or 1.0
        return -largest, largest
    low, high = min(0.0, float(finite.min())), float(finite.max())
    return low, high if high > low else low + 1.0


def colours(result: Result) -> list[list[float | str]]:
    """The colour scale of a result: blue–orange if it is signed, else white–blue."""
    return DIVERGING if result.signed else SEQUENTIAL


def colour_bar() -> dict[str, object]:
    """A thin, horizontal colour bar above the cells, in the middle; see `with_bar` for its title."""
    return {
        "orientation": "h",
        "x": 0.5,
        "xanchor": "center",
        "y": 1,
        "yanchor": "bottom",
        "ypad": 6,
        "len": 200,
        "lenmode": "pixels",
        "thickness": 8,
        "outlinewidth": 1,
        "outlinecolor": FAINT,
        "tickfont": {"size": 11},
    }


def bar_ticks(result: Result, low: float, high: float) -> dict[str, object]:
    """Ticks of a colour bar at its two ends and its middle."""
    places = [low, (low + high) / 2, high]
    texts = [f"{place:.3g}".replace("-", "−") for place in places]
    if is_probability(result):
        texts = [escape(percent(place)) for place in places]
        if high < 0.01:  # as "< 0.1 %", both would read alike
            texts = [f"{100 * place:.2g} %" for place in places]
    return {"tickmode": "array", "tickvals": places, "ticktext": texts}


def line_colour(n: int, lines: int, ordered: bool) -> str:
    """The colour of line `n` of `lines`: a shade of the sequential scale if the lines are ordered."""
    shade = np.array(0.3 + 0.6 * n / max(1, lines - 1))
    return palette.css(palette.sampled(palette.SEQUENTIAL, shade)) if ordered and lines > 1 else LINES[n]


def cell_texts(texts: np.ndarray, room: int) -> np.ndarray:
    """The texts of cells, escaped; longer ones are cut to `room` characters and "…". A wide character counts as two."""
    return np.vectorize(lambda text: escape(shortened(text, room + 1)), otypes=[object])(texts)


def in_ink(texts: np.ndarray, shares: np.ndarray, signed: bool) -> np.ndarray:
    """The texts of cells, marked with the colours of `palette.inks`; `shares` are the cells' places on the scale."""
    inks = palette.inks(palette.DIVERGING if signed else palette.SEQUENTIAL, shares)
    marked = np.vectorize(lambda text, ink: f'<span style="color:{ink}">{text}</span>' if text else "", otypes=[object])
    return marked(texts, inks)


def shortened(text: str, room: int) -> str:
    """The text, cut and ended with "…" if it is wider than `room` characters; a wide character counts as two."""
    ends = np.cumsum([2 if c in WIDE or unicodedata.east_asian_width(c) in "WF" else 1 for c in text])
    return text if not text or ends[-1] <= room else text[: int((ends < room).sum())] + "…"


def hover_texts(grid: Grid) -> np.ndarray:
    """What each cell says under the pointer, row column, escaped: its place, its whole text, its number with a unit."""
    places = [[cell_name(grid, row, column) for column in range(len(grid.columns))] for row in range(len(grid.rows))]
    texts = np.full(grid.values.shape, "", object) if grid.text is None else grid.text

    def told(place: str, text: str, value: float, error: str) -> str:
        number = f"{value:.6g}"
        if is_probability(grid):
            number = escape(f"{percent(value)} ({number})")
        return place + (f"<br>{escape(text)}" if text else "") + f"<br>{said(number, grid)}{error}"

    return np.vectorize(told, otypes=[object])(np.array(places, object), texts, grid.values, said_errors(grid))


def cell_name(grid: Grid, row: int, column: int) -> str:
    """The name of a cell, escaped: "L2H5", "L2 MLP", "layer 2<br>token 5 ▁the", or both labels with their names."""
    names = grid.rows[row], grid.columns[column]
    if grid.row_name == "layer" and grid.column_name in ("head", "part"):
        return f"L{names[0]}H{names[1]}" if names[1].isdigit() else escape(f"L{names[0]} {names[1]}")
    token = f"token {column}" + (f" {names[1]}" if names[1] != str(column) else "")
    across = token if is_of_tokens(grid) else f"{grid.column_name} {names[1]}"
    return f"{escape(f'{grid.row_name} {names[0]}')}<br>{escape(across)}"


def is_of_parts(grid: Grid) -> bool:
    """Whether the columns of a grid are the heads of a layer and last its MLP."""
    return grid.column_name == "part" and grid.columns[-1] == "MLP"


def column_title(grid: Grid) -> str:
    """The title of the horizontal axis."""
    if is_of_parts(grid):
        return "head (last column: MLP)"
    return f"token ({grid.column_name})" if is_of_tokens(grid) and grid.column_name == "position" else grid.column_name


def is_of_tokens(grid: Grid) -> bool:
    """Whether the columns of a grid are tokens of a text."""
    return grid.column_name in ("position", "key (source)")


def is_probability(result: Result) -> bool:
    """Whether the values of a result are probabilities, which are written as percentages."""
    return result.value_name == "probability" and not result.unit and not result.signed


def percent(probability: float) -> str:
    """A probability as people read it: "53 %", "1.2 %", "< 0.1 %"; the same as `percent` in common.js."""
    if np.isnan(probability):
        return "–"
    if probability in (0, 1):
        return f"{100 * probability:.0f} %"
    if probability < 0.001:
        return "< 0.1 %"
    if probability > 0.995:
        return "> 99 %"
    return f"{100 * probability:.{1 if probability < 0.0995 else 0}f} %"


def said(number: str, result: Result) -> str:
    """A number with the name of the values before it and their unit behind it, escaped: "loss 2.31 nats"."""
    return escape(result.value_name) + f" {number}" + (f" {escape(result.unit)}" if result.unit else "")


def said_errors(result: Estimated) -> np.ndarray:
    """The standard error of each value, and the number of texts, to follow the value in a hover; "" where unknown."""
    said = np.full(result.values.shape, "", object)
    if result.errors is not None:
        shown = np.vectorize(" ± {:.2g}".format, otypes=[object])(result.errors)
        said = np.where(np.isnan(result.errors), "", shown)
    several = result.texts is not None and not np.ndim(result.texts) and result.texts > 1
    return said + (f" ({result.texts:,} texts)" if several else "")


def powers_of_ten(high: float) -> dict[str, object]:
    """Ticks at powers of ten, for a colour bar of base-ten logarithms up to `high`."""
    exponents = np.arange(0, int(high) + 1, dtype=np.int32)
    return {"tickmode": "array", "tickvals": exponents, "ticktext": [f"{10**n:,}" for n in exponents.tolist()]}


def ticks(names: Sequence[str], limit: int = MAX_TICKS) -> dict[str, object]:
    """Ticks of an integer axis with these labels; every nth label if there are more than `limit`."""
    step = max(1, ceil(len(names) / limit))
    shown = np.arange(0, len(names), step, dtype=np.int32)
    return {"tickmode": "array", "tickvals": shown, "ticktext": [names[i] for i in shown.tolist()]}


def column_ticks(names: Sequence[str], apart: float) -> dict[str, object]:
    """Ticks of a horizontal axis whose places are `apart` pixels from each other.

    Where labels are wider, there are fewer numbers, and words stand upright.
    """
    upright = label_height(names, apart) > SHORTEST
    room = SHORTEST if upright else TICK_CHARACTER * max(map(len, names)) + 4
    limit = max(1, int(len(names) * min(1, apart / room))) if upright or are_whole(names) else len(names)
    return ticks(names, limit) | {"tickangle": -90 if upright else 0}


def part_ticks(names: Sequence[str], apart: float) -> dict[str, object]:
    """Ticks of a horizontal axis of heads and, last, the MLP, `apart` pixels from each other in a wide window.

    The numbers have room in a narrow column too, and so has "MLP" beside the last of them.
    """
    heads, apart = len(names) - 1, min(apart, NARROW / len(names))
    step = ceil(SHORTEST / apart)
    last = heads - ceil((SHORTEST + TICK_CHARACTER) / apart)
    shown = [*range(0, max(0, last) + 1, step), heads]
    return {"tickmode": "array", "tickvals": shown, "ticktext": [names[n] for n in shown], "tickangle": 0}


def label_height(names: Sequence[str], apart: float) -> float:
    """Pixels that labels of a horizontal axis take below it, without its title."""
    widest = TICK_CHARACTER * max(map(len, names))
    return SHORTEST if widest <= apart or are_whole(names) else widest


def are_whole(names: Sequence[str]) -> bool:
    """Whether all labels are whole numbers."""
    return all(name.isdigit() for name in names)


def with_height(figure: go.Figure, inside: float) -> go.Figure:
    """A figure as high as its cells and their labels, `inside`, with the margin above and the axis title below."""
    return figure.update_layout(height=round(figure.layout.margin.t + inside + 40))


def with_bar(figure: go.Figure, title: str, below: int = 0) -> go.Figure:
    """A figure with room for a horizontal colour bar above its cells, and the bar's title.

    `below` is the room between bar and cells, in pixels. The title is an annotation, because for a title of its own a
    colour bar takes twice the room.
    """
    lines = textwrap.wrap(title, TITLE_CHARACTERS // 2, break_long_words=False)
    place = {"xref": "paper", "x": 0.5, "xanchor": "center", "yref": "paper", "y": 1, "yanchor": "bottom"}
    text = {"text": "<br>".join(map(escape, lines)), "font_size": 12, "showarrow": False}
    figure.add_annotation(place | text | {"yshift": BAR_HEIGHT - LINE_HEIGHT - 2 + below})
    room = BAR_HEIGHT + LINE_HEIGHT * max(0, len(lines) - 1) + below
    return figure.update_layout(margin_t=figure.layout.margin.t + room)


def begun_left(figure: go.Figure, labels: float) -> go.Figure:
    """A figure wider than its window, which shows the first columns: the bar and the horizontal axis' title are there.

    `labels` is the height of the labels between the axis and its title, in pixels.
    """
    below = {"xref": "paper", "yref": "paper", "y": 0, "yanchor": "top", "yshift": -round(labels) - 10}
    figure.add_annotation(text=figure.layout.xaxis.title.text, font_size=14, showarrow=False, **below)
    figure.update_xaxes(title=" ")  # which keeps its room
    return figure.update_traces(colorbar={"x": 0, "xanchor": "left"}).update_annotations(x=0, xanchor="left")


def narrowed(figure: go.Figure) -> go.Figure:
    """A grid of cells that keep their shape, as high as they are in a column with `NARROW` pixels for them. Of its row
    labels, every nth is kept if they would overlap."""
    if figure.layout.yaxis.constrain != "domain" or len(figure.data) > 1:
        return figure
    rows, columns = figure.data[0].z.shape
    shape = 1 / figure.layout.yaxis.scaleratio
    cell = max(LEAST_CELL, NARROW / columns / shape)
    excess = limited(fitting_cell(rows, columns, shape), LEAST_CELL, CELL) - cell
    places, names = figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext
    step = ceil(SHORTEST * len(places) / (cell * rows))
    figure.update_yaxes(tickvals=places[::step], ticktext=names[::step])
    return figure.update_layout(height=round(figure.layout.height - rows * max(0.0, excess)))


def with_legend_below(figure: go.Figure) -> go.Figure:
    """Curves with their legend below the axis, for a narrow column; the figure is higher by the lines of the legend."""
    names = [trace.name for trace in figure.data if trace.name and trace.showlegend is not False]
    if not figure.layout.showlegend or not names:
        return figure
    across = max(1, int(NARROW / (LEGEND_MARK + TICK_CHARACTER * max(map(len, names)))))
    room = LEGEND_LINE * ceil(len(names) / across)
    place = {"orientation": "h", "x": 0, "xref": "container", "y": 0, "yref": "container", "yanchor": "bottom"}
    place |= {"tracegroupgap": 0}
    return figure.update_layout(legend=place, margin_b=room + 10, height=figure.layout.height + room)


def fitting_cell(rows: int, columns: int, shape: float) -> float:
    """The height in pixels of a cell of a grid that fits into WIDTH and HEIGHT; `shape` is its width by its height."""
    return min(WIDTH / columns / shape, HEIGHT / rows)


def untitled(figure: go.Figure) -> go.Figure:
    """A figure without its title and the room for it."""
    if not figure.layout.title.text:
        return figure
    room = 20 + 18 * (1 + figure.layout.title.text.count("<br>"))
    height, top = figure.layout.height - room, figure.layout.margin.t - room
    return figure.update_layout(title=None, margin_t=top, height=height)


def aliased(names: Sequence[str], limit: int = 16) -> dict[str, object]:
    """Ticks of an integer axis with every nth label, and all labels on hover."""
    alias = {str(place): name for place, name in enumerate(names)}
    return {"tickmode": "linear", "tick0": 0, "dtick": ceil(len(names) / limit), "labelalias": alias}


def limited(value: Number, low: Number, high: Number) -> Number:
    """The value limited to low … high."""
    return max(low, min(high, value))


def finish(figure: go.Figure, result: Result, height: int) -> go.Figure:
    """Apply the common layout: transparent background, grey text, title, and the provenance as metadata."""
    title = textwrap.wrap(result.title, TITLE_CHARACTERS)
    figure.update_layout(
        title={"text": "<br>".join(escape(line) for line in title), "font_size": 14, "x": 0, "xref": "paper"},
        height=height + 18 * max(0, len(title) - 1),
        margin={"l": 10, "r": 10, "t": MARGIN + (20 + 18 * len(title) if title else 0), "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 12, "family": "system-ui, sans-serif"},
        hoverlabel={"font_family": "ui-monospace, monospace"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY},
        meta=dict(result.provenance),
    )
    plain = {"showgrid": False, "zeroline": False, "gridcolor": FAINT, "zerolinecolor": GREY, "automargin": True}
    return figure.update_xaxes(plain).update_yaxes(plain)
