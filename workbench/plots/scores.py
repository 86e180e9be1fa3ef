"""Plots of scores: bars, or points where bars would look alike."""

import re
from collections.abc import Sequence
from math import floor, isfinite, log10

import numpy as np
import plotly.graph_objects as go

from workbench.colours import BLUE, GREY, ORANGE
from workbench.plots.figure import (
    HOVER,
    axis_label,
    finish,
    limited,
    said,
    said_errors,
    ticks,
)
from workbench.results import Scores
from workbench.tokens import escape

LAYER_OF = re.compile(r"L(\d+)(?:\D|$)|(embed)")


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
    rows = [-0.7, len(names) - 0.3]  # for many bars, the range that plotly chooses has room for several more
    order = rows if goes_upwards(scores.names) else rows[::-1]
    figure.update_yaxes(
        ticks([axis_label(name, 40) for name in scores.names], limit=len(names))
        | {"range": order, "ticklabelstandoff": 4}
    )
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
    """Numbers with equally many decimals: as many as give a large one, larger than nine tenths of them, three
    significant digits.

    Numbers that would read as zero, and those of more than five digits, have three significant digits of their own.
    """
    values = scores.tolist()
    sizes = sorted(abs(value) for value in values if isfinite(value) and value)
    places = limited(2 - floor(log10(sizes[9 * len(sizes) // 10])), 0, 6) if sizes else 0

    def written(value: float) -> str:
        is_fixed = value == 0 or 0.5 * 10**-places <= abs(value) < 1e5
        return f"{value:.{places}f}" if is_fixed else f"{value:.3g}"

    return [re.sub("^-", "−", written(value)) for value in values]


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
