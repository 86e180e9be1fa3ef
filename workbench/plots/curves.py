"""Plots of curves: lines over one axis, with bands of standard errors."""

import numpy as np
import plotly.graph_objects as go

from workbench import colours as palette
from workbench.colours import FAINT, LINES
from workbench.plots.figure import MAX_TICKS, finish, said
from workbench.results import Curves
from workbench.tokens import escape

COUNTED = ("step", "tokens")  # axes whose ticks are numbers, not labels


def plot_curves(curves: Curves) -> go.Figure:
    """Draw each line in its own colour, with a band of ± 1 standard error. Ordered lines are shades of one colour.

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
    """The indices of the lines that are drawn in a colour of their own, in ascending order.

    These are all lines, or, if there are more unordered lines than colours, those whose values vary most.
    """
    if len(curves.lines) <= len(LINES) or curves.ordered:
        return list(range(len(curves.lines)))
    ranges = np.nanmax(curves.values, 1, initial=-np.inf) - np.nanmin(curves.values, 1, initial=np.inf)
    return sorted(np.argsort(-ranges, kind="stable")[: len(LINES)].tolist())


def tick_label(number: float) -> str:
    """A count in short form: "6,000", "84B"."""
    size, unit = next(((10**n, unit) for n, unit in ((12, "T"), (9, "B"), (6, "M")) if number >= 10**n), (1, ""))
    return f"{number / size:,.4g}{unit}" if unit else f"{number:,.0f}"


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


def line_colour(n: int, lines: int, ordered: bool) -> str:
    """The colour of line `n` of `lines`: a shade of the sequential scale if the lines are ordered."""
    shade = np.array(0.3 + 0.6 * n / max(1, lines - 1))
    return palette.css(palette.sampled(palette.SEQUENTIAL, shade)) if ordered and lines > 1 else LINES[n]
