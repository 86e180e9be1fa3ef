"""`AttributionGraph`: the nodes and edges that `attribution_graph` finds."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import WorkbenchError
from workbench.features.graph_influence import normalized, on_paths, prune
from workbench.results import Labelled, Names, Scores, Values, check_shape, count, frozen_array, labels

FEATURE, ERROR, TOKEN, LOGIT = "feature", "error", "token", "logit"
KINDS = (FEATURE, ERROR, TOKEN, LOGIT)
COLUMNS = (
    "kind",
    "layer",
    "position",
    "feature",
    "value",
    "constant",
    "weight",
    "influence",
    "effect",
    "measured",
    "held",
)
SHOWN = 30  # nodes in a figure
FACTOR = 2.0
"""A predicted effect is confirmed if the measured one has the same sign and is within this factor."""
CONFIRMED, IN_PART, CONTRADICTED = "confirmed", "in part", "contradicted"


@dataclass(frozen=True, eq=False, repr=False)
class AttributionGraph(Labelled):
    """The direct effects of nodes on nodes.

        graph.table()             # one row for each node
        graph.edges()             # one row for each edge, the largest first
        graph.pruned().edges()    # those that matter

    Attributes:
        values: edges: target source. An edge has the unit of its target.
        nodes: one row for each node, with the columns

            - `kind`: feature, error, token or logit;
            - `layer`: −1 for a token, the number of layers for a logit;
            - `position`;
            - `feature`: the number of a feature, the id of a token or logit, −1 for an error;
            - `value`: the pre-activation of a feature, which is its activation; a logit less the mean; NaN otherwise;
            - `constant`: the part of the value that no edge carries;
            - `weight`: the probability of a logit, or 1 for a difference; 0 otherwise;
            - `influence` on the logits, along all paths of normalised absolute edges;
            - `effect`: how much the first logit falls along all paths if the node is removed, with attention, norms and
              errors frozen, and active features responding linearly;
            - `measured`: how much it falls in the model, where everything responds; NaN for a node that was not
              removed;
            - `held`: the same with attention patterns and divisors of norms frozen.
        tokens: labels of the tokens of the prompt.
        logits: names of the logit nodes.
        transcoders: the name of the dictionary of each layer; "" for a layer without one.
        replacement_score: of the influence of tokens and errors, the share of tokens: 0 … 1.
        completeness_score: of what enters the nodes, weighted by influence, the share that is no error: 0 … 1.
        against: the id of the token whose logit is subtracted from the first logit; None if it is the mean logit.
    """

    values: Values  # target source
    nodes: pd.DataFrame = field(kw_only=True)
    tokens: Names = field(kw_only=True)
    logits: Names = field(kw_only=True)
    transcoders: Names = field(kw_only=True)
    replacement_score: float = field(kw_only=True)
    completeness_score: float = field(kw_only=True)
    against: int | None = field(kw_only=True, default=None)

    def __post_init__(self) -> None:
        values, nodes = frozen_array(self.values), self.nodes.reset_index(drop=True)
        check_shape(values, (len(nodes), len(nodes)), count(list(nodes.index), "node"))
        if missing := [name for name in COLUMNS if name not in nodes]:
            raise ValueError(f"the nodes have no column {missing[0]}; they need {', '.join(COLUMNS)}")
        if unknown := sorted(set(nodes["kind"]) - set(KINDS)):
            raise ValueError(f"no kind of node {unknown[0]!r}; the kinds are {', '.join(KINDS)}")
        logits = labels(self.logits)
        if (nodes["kind"] == LOGIT).sum() != len(logits):
            raise ValueError(f"{len(logits)} names for {(nodes['kind'] == LOGIT).sum()} logits")
        self._keep(
            values=values, nodes=nodes, tokens=labels(self.tokens), logits=logits, transcoders=labels(self.transcoders)
        )

    def __repr__(self) -> str:
        numbers = self.nodes["kind"].value_counts()
        parts = ", ".join(f"{numbers.get(kind, 0):,} {kind}s" for kind in KINDS)
        return f"<{type(self).__name__} {self.title!r}: {parts}; {np.count_nonzero(self.values):,} edges>"

    @property
    def names(self) -> list[str]:
        """The name of each node: `L2 F417 @5`, `L2 error @5`, `token @5 ▁cat`, `logit ▁sat`."""
        logits = iter(self.logits)
        columns = (self.nodes[name].tolist() for name in COLUMNS[:4])
        return [
            f"logit {next(logits)}" if kind == LOGIT else self._name(kind, layer, at, feature)
            for kind, layer, at, feature in zip(*columns, strict=True)
        ]

    def _name(self, kind: str, layer: int, position: int, feature: int) -> str:
        if kind == TOKEN:
            return f"token @{position} {self.tokens[position]}"
        return f"L{layer} {f'F{feature}' if kind == FEATURE else ERROR} @{position}"

    @property
    def rounding(self) -> float:
        """The largest |Σ edges + constant − value| of a feature or logit, as a share of the largest |value|."""
        known = self.nodes["value"].notna().to_numpy()
        value, constant = (self.nodes[name].to_numpy()[known] for name in ("value", "constant"))
        sums = self.values[known].astype(float).sum(1) + constant
        return float(np.abs(sums - value).max() / np.abs(value).max())

    @property
    def agreement(self) -> float:
        """Pearson's correlation of `effect` and `measured` over the nodes that were removed; NaN with fewer than
        two.
        """
        known = self.nodes.dropna(subset="measured")
        return float(np.corrcoef(known["effect"], known["measured"])[0, 1]) if len(known) > 1 else float("nan")

    @property
    def verdicts(self) -> pd.Series:
        """The check of each node's effect in the model: "confirmed" if `measured` has its sign and is within a factor
        of 2; "in part" if it has its sign only; "contradicted" otherwise; "" for a node that was not removed.
        """
        effect, measured = self.nodes["effect"], self.nodes["measured"]
        ratio = (measured / effect).to_numpy()
        close = (ratio >= 1 / FACTOR) & (ratio <= FACTOR)
        said = np.select([np.isnan(measured), close, ratio > 0], ["", CONFIRMED, IN_PART], CONTRADICTED)
        return pd.Series(said, index=self.nodes.index, dtype=object)

    def said(self) -> str:
        """The result of the runs without a node, in words."""
        counts = self.verdicts.value_counts()
        checked = sum(int(counts.get(name, 0)) for name in (CONFIRMED, IN_PART, CONTRADICTED))
        return (
            f"Of {checked} nodes that were taken away, the model confirms {counts.get(CONFIRMED, 0)}, "
            f"{counts.get(IN_PART, 0)} in part, and contradicts {counts.get(CONTRADICTED, 0)}; the correlation of "
            f"predicted and measured effects is {self.agreement:.2f}"
        )

    def table(self) -> pd.DataFrame:
        """One row for each node: `name`, the columns of `nodes`, and `verdict`."""
        found = self.nodes.assign(verdict=self.verdicts)
        found.insert(0, "name", self.names)
        return found

    def edges(self) -> pd.DataFrame:
        """One row for each edge, the largest in absolute value first: numbers of the nodes `source` and `target`, their
        names, `value`, and `share` of all absolute edges into the target.
        """
        target, source = self.values.nonzero()
        table = self._edge_table(target, source, np.abs(self.values).sum(1))
        return table.sort_values("value", key=np.abs, ascending=False, kind="stable", ignore_index=True)

    def strongest_edges(self, n: int) -> pd.DataFrame:
        """The `n` edges to draw, those of the strongest paths first: the columns of `edges`, `influence` and `path`.

        `influence` is the `share` of an edge times the influence of its target (for a logit, its weight), divided by
        the weights of all logits: the part of all paths into the logits that the edge is in, from 0 to 1. `path` is the
        largest x such that the edge lies on a path from a token or error to a logit along edges of an influence of at
        least x. The edges are in descending order of `path`, so that the first ones make whole paths.
        """
        weights, layers = self.nodes["weight"].to_numpy(), self.nodes["layer"].to_numpy()
        reached = (self.nodes["influence"].to_numpy() + weights) / weights.sum()
        parts = normalized(self.values.astype(float)) * reached[:, None]
        paths = on_paths(parts, np.argsort(layers, kind="stable"), weights > 0)
        n = min(n, int(np.count_nonzero(paths)))
        least = np.partition(paths, paths.size - n, axis=None)[paths.size - n] if n else np.inf
        target, source = (paths >= least).nonzero()
        order = np.lexsort([source, target, -parts[target, source], -paths[target, source]])[:n]
        target, source = target[order], source[order]
        table = self._edge_table(target, source, np.abs(self.values).sum(1))
        return table.assign(influence=parts[target, source], path=paths[target, source])

    def _edge_table(self, target: np.ndarray, source: np.ndarray, sums: np.ndarray) -> pd.DataFrame:
        """The columns of `edges`, given the sums of absolute edges into each node."""
        names = np.array(self.names, dtype=object)
        table = pd.DataFrame({"source": source, "target": target})
        table["source_name"], table["target_name"] = names[source], names[target]
        table["value"] = self.values[target, source]
        table["share"] = np.abs(table["value"]) / sums[target]
        return table

    def pruned(self, nodes: float = 0.8, edges: float = 0.98) -> "AttributionGraph":
        """The graph of the nodes that have this share of all influence, and of the edges between them likewise.

        Tokens and logits are kept. The numbers of the nodes (`influence`, `effect`, `value`) stay those of the whole
        graph, and so do the scores; edges into a node no longer sum to its value.

        Errors: WorkbenchError for a share outside 0 … 1.
        """
        for name, share in (("nodes", nodes), ("edges", edges)):
            if not 0 <= share <= 1:
                raise WorkbenchError(f"the share of {name} is {share}; it should be from 0 to 1")
        kind = self.nodes["kind"].to_numpy()
        always, targets = (kind == TOKEN) | (kind == LOGIT), kind == FEATURE
        weights = self.nodes["weight"].to_numpy()
        kept = prune(self.values.astype(float), weights, always, targets, (nodes, edges))
        values = np.where(kept.edges, self.values, 0)[np.ix_(kept.nodes, kept.nodes)]
        return replace(self, values=values, nodes=self.nodes[kept.nodes])

    def strongest_inner(self) -> list[int]:
        """The numbers of the features and errors that have an effect, the largest absolute one first."""
        effect = np.where(self.nodes["kind"].isin([FEATURE, ERROR]), self.nodes["effect"].abs(), 0.0)
        order = np.argsort(-effect, kind="stable")
        return order[effect[order] > 0].tolist()

    def strongest(self, n: int = SHOWN) -> Scores:
        """The `n` features and errors of the largest absolute `effect`, in descending order of it."""
        order, names = self.strongest_inner()[:n], self.names
        return Scores(
            self.nodes["effect"].to_numpy()[order],
            [names[number] for number in order],
            title=f"What {self.logits[0]} loses without a node",
            value_name="effect",
            signed=True,
            provenance=self.provenance,
        )

    def plot(self) -> Any:  # noqa: ANN401 - as `Labelled.plot`
        """The plotly figure of the strongest nodes."""
        return self.strongest().plot()
