"""What is proved of a graph, by runs of the model: the results that clicks request, and the rows that show them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from workbench.analyses.circuit import Circuit
from workbench.analyses.faithfulness import Faithfulness
from workbench.errors import WorkbenchError
from workbench.page.session.bench import Bench
from workbench.page.session.circuit_requests import OF, chosen_by, key_of
from workbench.page.session.feature_graphs import key_of_features
from workbench.page.session.menus import choice
from workbench.page.session.requests import TabRequest


@dataclass(frozen=True)
class Proofs:
    """Further results of a circuit that the user requested with a click on their price.

    Attributes:
        of: the key of the circuit: its checkpoint, pairs and measure.
        whole: whether the whole curve of faithfulness.
        sizes: further numbers of edges to run.
        edges: edges to patch exactly.
    """

    of: tuple[object, ...] = ()
    whole: bool = False
    sizes: tuple[int, ...] = ()
    edges: tuple[str, ...] = ()

    def about(self, of: tuple[object, ...]) -> "Proofs":
        """These results if they are of this circuit, else none."""
        return self if self.of == of else Proofs(of)


def after_click(change: Callable[[Proofs, Mapping[str, Any]], Proofs]) -> Callable[..., Proofs]:
    """The handler of a click that requests more results: `change` gets those so far and the data of the click.

    It takes what the picture depends on: of, pairs, measure, the results so far, and the texts that choose what a graph
    of features explains. Results of another circuit are dropped.
    """

    @wraps(change)
    def handle(
        bench: Bench,
        request: TabRequest,
        data: Mapping[str, Any],
        of: str,
        pairs: str,
        measure: str,
        proofs: Proofs,
        token: str = "",
        against: str = "",
    ) -> Proofs:
        return change(proofs.about(proven(request, of, pairs, measure, token, against)), data)

    return handle


@after_click
def more_edges(proofs: Proofs, data: Mapping[str, Any]) -> Proofs:
    """One more number of edges, or of nodes of a graph of features."""
    size = data.get("edges")
    if not isinstance(size, int) or size < 1:
        raise WorkbenchError(f"no circuit of {size!r} edges")
    return replace(proofs, sizes=(*proofs.sizes, size))


@after_click
def whole_curve(proofs: Proofs, data: Mapping[str, Any]) -> Proofs:
    """The whole curve of faithfulness."""
    return replace(proofs, whole=True)


@after_click
def exact_edge(proofs: Proofs, data: Mapping[str, Any]) -> Proofs:
    """The exact effect of an edge, or of a node of a graph of features."""
    edge = data.get("edge")
    if not isinstance(edge, str):
        raise WorkbenchError(f"no edge {edge!r}")
    return replace(proofs, edges=(*proofs.edges, edge))


def proven(request: TabRequest, of: str, pairs: str, measure: str, token: str, against: str) -> tuple[object, ...]:
    """What is proved in the picture."""
    is_features = choice(of, OF, "kind of nodes") == "features"
    return key_of_features(request, token, against) if is_features else key_of(request, chosen_by(of, pairs, measure))


def proof_rows(curves: Sequence[Faithfulness]) -> list[list[float | None]]:
    """The shares that circuits of each size keep, from several results, in ascending order; see `proof` in
    circuit_graph.js."""
    rows: dict[int, list[float | None]] = {}
    for found in curves:
        errors = [None] * len(found.x) if found.errors is None else known(found.errors[0].tolist())
        connected = found.x if found.connected is None else found.connected
        for place, size in enumerate(found.x.tolist()):
            best, without, random, magnitude, nodes = found.values[:, place].tolist()
            others = [without, random, float(found.deviation[place]), magnitude, nodes]
            rows[int(size)] = [int(size), best, errors[place], *others, int(connected[place])]
    return [rows[size] for size in sorted(rows)]


def with_exact(rows: Sequence[list[Any]], found: Circuit, edge: str) -> list[list[Any]]:
    """The rows with the exact effect of one edge."""
    exact = float(found.exact[found.names.index(edge)])
    return [[*row[:3], exact] if row[0] == edge else row for row in rows]


def known(numbers: Sequence[float]) -> list[float | None]:
    """The numbers, with None in place of NaN."""
    return [None if number != number else number for number in numbers]
