"""Plots of attention maps: a heatmap for each head."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.plots.figure import (
    FRAME,
    HEIGHT,
    HOVER,
    MAX_TICKS,
    SQUARE,
    axis_label,
    bar_ticks,
    colour_bar,
    colours,
    finish,
    label_height,
    limited,
    said,
    ticks,
    value_range,
    with_bar,
    with_height,
)
from workbench.results import Maps
from workbench.tokens import escape

BETWEEN_MAPS = 40  # pixels between rows of maps, for the titles


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
    named = len(maps.tokens) <= (MAX_TICKS if single else 12)
    places = None if queries.tolist() == list(range(len(queries))) else np.broadcast_to(queries[:, None], hidden.shape)
    told = hover_template(maps, named, all_queries=places is None)
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
    names = label_axes(figure, maps, named)
    figure.update_xaxes(FRAME).update_yaxes(FRAME).update_xaxes(title="key (source)", row=down)
    with_height(figure, whole + label_height(names, tall / len(names)))
    figure.update_xaxes(constrain="domain").update_yaxes(SQUARE)
    return figure.update_yaxes(title="query (destination)", col=1, row=None if tall >= 120 else (down + 1) // 2)


def hover_template(maps: Maps, named: bool, all_queries: bool) -> str:
    """What a cell says under the pointer: its query, its key and its value.

    Args:
        maps: the maps.
        named: whether the axes have the tokens as labels.
        all_queries: whether the number of a row is the position of its query; if not, `customdata` has it.
    """
    query, key = "%{pointNumber[0]}" if all_queries else "%{customdata}", "%{pointNumber[1]}"
    if named or len(maps.heads) == 1:  # else there are no labels of all places; those of a long text hold both
        query, key = (f"{query} %{{y}}", f"{key} %{{x}}") if named else ("%{y}", "%{x}")
    return f"query: token {query}<br>key: token {key}<br>{said('%{z:.3g}', maps)}<extra></extra>"


def label_axes(figure: go.Figure, maps: Maps, named: bool) -> list[str]:
    """Label the axes of all maps, with the tokens if `named`, else with positions; returns the labels of the keys."""
    tokens, single = [axis_label(token) for token in maps.tokens], len(maps.heads) == 1
    names = tokens if named else [str(position) for position in range(len(tokens))]
    limit = MAX_TICKS if named else 16 if single else 6
    figure.update_xaxes(ticks(names, limit))
    figure.update_yaxes(ticks([names[q] for q in maps.queries], limit) | {"autorange": "reversed"})
    if single and not named:
        both = [f"{position} {token}" for position, token in enumerate(tokens)]
        figure.update_xaxes(aliased(both)).update_yaxes(aliased([both[q] for q in maps.queries]))
    return names


def aliased(names: Sequence[str], limit: int = 16) -> dict[str, object]:
    """Ticks of an integer axis with every nth label, and all labels on hover."""
    alias = {str(place): name for place, name in enumerate(names)}
    return {"tickmode": "linear", "tick0": 0, "dtick": ceil(len(names) / limit), "labelalias": alias}
