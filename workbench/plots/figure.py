"""What the plots of all results have: colours, the colour bar, ticks, sizes, and numbers in words."""

import textwrap
import unicodedata
from collections.abc import Sequence
from math import ceil
from typing import TypeVar

import numpy as np
import plotly.graph_objects as go

from workbench import colours as palette
from workbench.colours import FAINT, GREY
from workbench.results import Estimated, Result
from workbench.tokens import escape

SEQUENTIAL, DIVERGING = palette.plotly_scale(palette.SEQUENTIAL), palette.plotly_scale(palette.DIVERGING)
NARROW = 300  # pixels that the cells of a grid have in a narrow column
CELL, LEAST_CELL = 28, 4  # pixels of a cell's height
WIDTH, HEIGHT = 620, 560  # pixels that the cells of a grid take at most: Python does not know the window
MAX_TICKS = 48  # with more labels on one axis, they overlap
TICK_CHARACTER = 6.6  # pixels of a character beside an axis
LEGEND_MARK, LEGEND_LINE = 36, 20  # pixels of a line's sample before its name, and of a line of a legend
SHORTEST = 14  # pixels between two labels of an axis
HOVER = {"bgcolor": "#fff", "bordercolor": GREY, "font_color": "#18181b"}
SQUARE = {"scaleanchor": "x", "constrain": "domain", "constraintoward": "top"}  # of a vertical axis, below its title
FRAME = {"showline": True, "mirror": True, "linecolor": FAINT}
MARGIN = 12  # pixels above a figure without a title
LINE_HEIGHT = 16  # pixels of a line of a colour bar's title
BAR_HEIGHT = 46  # pixels of a colour bar with its title and numbers
TITLE_CHARACTERS = 95  # per line
LABEL_CHARACTERS = 24  # of a label beside an axis; longer ones would take the room of the cells
WIDE = "▁⏎⇥"
Number = TypeVar("Number", int, float)


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
    if result.as_percent:
        texts = [escape(percent(place)) for place in places]
        if high < 0.01:  # as "< 0.1 %", both would read alike
            texts = [f"{100 * place:.2g} %" for place in places]
    return {"tickmode": "array", "tickvals": places, "ticktext": texts}


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


def shortened(text: str, room: int) -> str:
    """The text, cut and ended with "…" if it is wider than `room` characters; a wide character counts as two."""
    ends = np.cumsum([2 if c in WIDE or unicodedata.east_asian_width(c) in "WF" else 1 for c in text])
    return text if not text or ends[-1] <= room else text[: int((ends < room).sum())] + "…"


def axis_label(name: str, room: int = LABEL_CHARACTERS) -> str:
    """A name as a label beside an axis, cut to `room` characters and escaped."""
    return escape(shortened(name, room))


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


def fitting_cell(rows: int, columns: int, shape: float) -> float:
    """The height in pixels of a cell of a grid that fits into WIDTH and HEIGHT; `shape` is its width by its height."""
    return min(WIDTH / columns / shape, HEIGHT / rows)


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
