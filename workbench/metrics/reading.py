"""Curves of metrics, read: shares, the strongest lines, and the step from which a line stays above another."""

from dataclasses import replace

import numpy as np

from workbench.errors import WorkbenchError
from workbench.results import Curves

LEAST_EFFECT = 0.05
"""The share of the largest effect along a run below which shares of an effect are not defined."""


def circuit_shares(effect: Curves) -> Curves:
    """The shares of the effect of all edges, at each checkpoint: what a circuit keeps, and what random ones keep.

        shares = circuit_shares(trajectory(series, circuit_effect(circuit, 60, pairs, tokenizer)))
        needed_from(shares, "highest of random edges")

    `needed_from` then returns the step from which the circuit keeps more than every random circuit drawn. The lines are
    "the circuit", "all other edges", "random edges" (mean over the draws) and "highest of random edges"; 1 is the
    effect of all edges. Values are undefined (NaN) at checkpoints where the effect of all edges is less than
    `LEAST_EFFECT` of its largest, because it is too small to divide by.

    Errors: WorkbenchError for curves that are not those of `circuit_effect`.
    """
    if tuple(effect.lines[:1]) != ("all edges",):
        raise WorkbenchError(f"the lines are {', '.join(effect.lines[:3])}; give the trajectory of `circuit_effect`")
    whole = effect.values[0]
    shares = np.where(whole >= LEAST_EFFECT * whole.max(), effect.values[1:] / np.where(whole == 0, 1, whole), np.nan)
    return replace(
        effect, values=shares, lines=effect.lines[1:], errors=None, unit="", value_name="share of the effect"
    )


def strongest_lines(curves: Curves, count: int) -> Curves:
    """The `count` lines with the largest absolute value at any point, the largest first.

        strongest_lines(trajectory(series, edge_scores(pairs, tokenizer)), 8)

    These are the edges that carry most at some checkpoint, also if they carry nothing at the last one.

    Errors: WorkbenchError for a count below 1.
    """
    if count < 1:
        raise WorkbenchError(f"count is {count}; choose 1 line or more")
    largest = np.nan_to_num(np.abs(curves.values)).max(1)
    places = np.argsort(-largest, kind="stable")[:count]
    return replace(
        curves,
        values=curves.values[places],
        lines=[curves.lines[place] for place in places],
        errors=None if curves.errors is None else curves.errors[places],
        texts=[curves.texts[place] for place in places] if np.ndim(curves.texts) else curves.texts,
    )


def needed_from(curve: Curves, floor: float | str, line: int = 0) -> float | None:
    """The position on the axis from which a line stays above `floor` until the end; None if its last value is not above
    it. `floor` is a number, or the name of another line.

    With `head_needed` and the noise floor of the loss, this is the step from which the head is needed; with
    `circuit_shares`, the step from which a circuit is more than random edges.

    Errors: WorkbenchError for a line that the curves do not have.
    """
    if isinstance(floor, str) and floor not in curve.lines:
        raise WorkbenchError(f"no line {floor!r}; choices: {', '.join(curve.lines)}")
    above = curve.values[line] > (curve.values[curve.lines.index(floor)] if isinstance(floor, str) else floor)
    if not above[-1]:
        return None
    below = [index for index, high in enumerate(above) if not high]
    return float(curve.x[below[-1] + 1 if below else 0])
