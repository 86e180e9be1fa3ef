"""Plots of grids: a heatmap with texts in its cells."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import plotly.graph_objects as go

from workbench import colours as palette
from workbench.plots.figure import (
    CELL,
    FRAME,
    HEIGHT,
    HOVER,
    LEAST_CELL,
    NARROW,
    SHORTEST,
    SQUARE,
    TICK_CHARACTER,
    WIDTH,
    axis_label,
    bar_ticks,
    colour_bar,
    colours,
    column_ticks,
    finish,
    fitting_cell,
    label_height,
    limited,
    percent,
    said,
    said_errors,
    shortened,
    ticks,
    value_range,
    with_bar,
    with_height,
)
from workbench.results import Grid
from workbench.tokens import escape

LEAST_CELL_CHARACTERS, MAX_CELL_CHARACTERS = 5, 12
CHARACTER = 7.2  # pixels of a character in a cell
CELL_WIDTH = 46  # pixels for `LEAST_CELL_CHARACTERS` characters
MAX_TEXT_COLUMNS = 128  # with more columns, cells show no text


def plot_grid(grid: Grid) -> go.Figure:
    """A heatmap with the first row at the bottom, so that layers go upwards, and texts in cells that have room.

    Cells keep their shape: squares, or as wide as their texts.
    """
    rows, columns = [axis_label(r) for r in grid.rows], [axis_label(c) for c in grid.columns]
    room = limited(int((WIDTH / len(columns) - 8) / CHARACTER), LEAST_CELL_CHARACTERS, MAX_CELL_CHARACTERS)
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
    wide = texts is not None and CELL_WIDTH * len(columns) > WIDTH  # a wide figure keeps the texts readable
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


def cell_texts(texts: np.ndarray, room: int) -> np.ndarray:
    """The texts of cells, escaped; longer ones are cut to `room` characters and "…". A wide character counts as two."""
    return np.vectorize(lambda text: escape(shortened(text, room + 1)), otypes=[object])(texts)


def in_ink(texts: np.ndarray, shares: np.ndarray, signed: bool) -> np.ndarray:
    """The texts of cells, marked with the colours of `palette.inks`; `shares` are the cells' places on the scale."""
    inks = palette.inks(palette.DIVERGING if signed else palette.SEQUENTIAL, shares)
    marked = np.vectorize(lambda text, ink: f'<span style="color:{ink}">{text}</span>' if text else "", otypes=[object])
    return marked(texts, inks)


def hover_texts(grid: Grid) -> np.ndarray:
    """What each cell says under the pointer, row column, escaped: its place, its whole text, its number with a unit."""
    places = [[cell_name(grid, row, column) for column in range(len(grid.columns))] for row in range(len(grid.rows))]
    texts = np.full(grid.values.shape, "", object) if grid.text is None else grid.text

    def told(place: str, text: str, value: float, error: str) -> str:
        number = f"{value:.6g}"
        if grid.as_percent:
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


def part_ticks(names: Sequence[str], apart: float) -> dict[str, object]:
    """Ticks of a horizontal axis of heads and, last, the MLP, `apart` pixels from each other in a wide window.

    The numbers have room in a narrow column too, and so has "MLP" beside the last of them. All are equally far from
    each other where that is possible, so that none seems to be missing before "MLP".
    """
    heads, apart = len(names) - 1, min(apart, NARROW / len(names))
    room = SHORTEST + TICK_CHARACTER  # of "MLP" and a number
    least = ceil(room / apart)
    step = next((n for n in range(least, 2 * least + 1) if heads % n == 0), least)
    shown = [*(n for n in range(0, heads, step) if (heads - n) * apart >= room), heads]
    return {"tickmode": "array", "tickvals": shown, "ticktext": [names[n] for n in shown], "tickangle": 0}


def begun_left(figure: go.Figure, labels: float) -> go.Figure:
    """A figure wider than its window, which shows the first columns: the bar and the horizontal axis' title are there.

    `labels` is the height of the labels between the axis and its title, in pixels.
    """
    below = {"xref": "paper", "yref": "paper", "y": 0, "yanchor": "top", "yshift": -round(labels) - 10}
    figure.add_annotation(text=figure.layout.xaxis.title.text, font_size=14, showarrow=False, **below)
    figure.update_xaxes(title=" ")  # which keeps its room
    return figure.update_traces(colorbar={"x": 0, "xanchor": "left"}).update_annotations(x=0, xanchor="left")


def powers_of_ten(high: float) -> dict[str, object]:
    """Ticks at powers of ten, for a colour bar of base-ten logarithms up to `high`."""
    exponents = np.arange(0, int(high) + 1, dtype=np.int32)
    return {"tickmode": "array", "tickvals": exponents, "ticktext": [f"{10**n:,}" for n in exponents.tolist()]}
