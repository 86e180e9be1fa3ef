"""Plots of results: `plot(result)` returns a plotly figure.

Colours are those of `workbench.colours`, for light and dark pages. Backgrounds are transparent and text is grey, so
that a figure is readable where no page's style applies. Layer 0 is at the bottom. Cells of grids keep their shape;
`CELL` is their height in pixels where there is room. Axes are integers with labels, because equal tokens would merge on
a categorical axis. Arrays are float32, which plotly encodes as binary. Each kind of result has a module.
"""

from functools import singledispatch

import plotly.graph_objects as go

from workbench.plots.changes import emphasise, marked, narrowed, same_colours, untitled, with_legend_below
from workbench.plots.curves import plot_curves
from workbench.plots.grids import plot_grid
from workbench.plots.maps import plot_maps
from workbench.plots.points import plot_points
from workbench.plots.scores import plot_scores
from workbench.results import Measures, Result

__all__ = ("emphasise", "marked", "narrowed", "plot", "same_colours", "untitled", "with_legend_below")


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


plot.register(plot_grid)
plot.register(plot_maps)
plot.register(plot_scores)
plot.register(plot_curves)
plot.register(plot_points)
