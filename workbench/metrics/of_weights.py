"""The metric of weights: how far they move."""

from workbench.analyses.compare_weights import weight_table
from workbench.analyses.trajectory import Metric
from workbench.checkpoints import Weights


def weight_change() -> Metric:
    """‖B − A‖ / ‖A‖ per training step, from the previous checkpoint A to each checkpoint B: for all parameters and by
    layer.

    Computed from the files, without loading models. The first checkpoint has no previous one and is undefined (NaN).
    """
    note = (
        "‖B − A‖ / ‖A‖ from the previous checkpoint A to this one, B, by layer, divided by the steps between them. "
        "Steps partly cancel each other, so compare only values over equal numbers of steps."
    )
    return Metric("relative weight change per step", _change, reads="weights", note=note)


def _change(weights: Weights, previous: Weights | None, steps: int | None) -> dict[str, float]:
    names = [f"layer {layer}" for layer in range(weights.config.num_hidden_layers)]
    if previous is None or not steps:
        return dict.fromkeys(["all", *names], float("nan"))
    table = weight_table(previous, weights)
    whole = table[table["head"] == ""].assign(changed=lambda t: t["distance"] ** 2, size=lambda t: t["norm_a"] ** 2)
    sums = whole.groupby("layer")[["changed", "size"]].sum()
    relative = [whole["changed"].sum() / whole["size"].sum(), *(sums["changed"] / sums["size"])]
    return {name: square**0.5 / steps for name, square in zip(["all", *names], relative, strict=True)}
