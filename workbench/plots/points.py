"""Plots of points in two or three dimensions."""

import numpy as np
import plotly.graph_objects as go

from workbench.colours import BLUE, FAINT, GREY
from workbench.plots.figure import SEQUENTIAL, colour_bar, finish
from workbench.results import Points
from workbench.tokens import escape


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
