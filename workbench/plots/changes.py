"""Functions that change a finished figure: its title, colours and markings, and its size in a narrow column."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import plotly.graph_objects as go

from workbench.colours import BLUE, GREY, ORANGE
from workbench.plots.figure import (
    CELL,
    LEAST_CELL,
    LEGEND_LINE,
    LEGEND_MARK,
    NARROW,
    SHORTEST,
    TICK_CHARACTER,
    fitting_cell,
    limited,
)
from workbench.tokens import escape


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


def untitled(figure: go.Figure) -> go.Figure:
    """A figure without its title and the room for it."""
    if not figure.layout.title.text:
        return figure
    room = 20 + 18 * (1 + figure.layout.title.text.count("<br>"))
    height, top = figure.layout.height - room, figure.layout.margin.t - room
    return figure.update_layout(title=None, margin_t=top, height=height)
