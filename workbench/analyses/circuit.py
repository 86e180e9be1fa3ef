"""Which edges between the parts of a model carry the difference between two sets of prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.cost import Work, pass_flops, planned, work_of
from workbench.analyses.support.edge_choices import strongest
from workbench.analyses.support.edge_graph import ARROW, Graph, edges_flops, heads_flops, neurons_in, node_and_input
from workbench.analyses.support.edge_neurons import NeuronsLike, choice_flops, chosen_neurons, spread_neurons
from workbench.analyses.support.edge_pairs import (
    Sides,
    Study,
    measure_of,
    measured_cells,
    sides_bytes,
    sides_flops,
    sides_of,
)
from workbench.analyses.support.edge_runs import cell_bytes, cell_flops
from workbench.analyses.support.edge_slopes import GATED, RAW, STREAMS, slopes
from workbench.analyses.support.means import MeansOverTexts
from workbench.analyses.support.memory import run_bytes
from workbench.analyses.support.prompt_pairs import (
    Contrast,
    Ends,
    LogitsMetric,
    Pairs,
    TokenLike,
    batches_in_memory,
    contrast,
    last_logits_bytes,
    measured,
    outlined,
    scale_between,
)
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, report
from workbench.progress import steps as reported
from workbench.results import Scores, Values, check_shape, count, frozen_array
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer

SHOWN = 30  # edges in a figure


@dataclass(frozen=True, eq=False, repr=False)
class Circuit(Scores):
    """The scores of all edges of a model, as `circuit` computes them.

    Attributes:
        values: the score of each edge, in the unit of the measure; positive where the edge raises the measure.
        names: the edges: `L1H5 → L2H5 k`.
        exact: the exact effect of each edge by patching it alone; NaN for an edge that was not patched.
        effect: the measure with all edges minus the measure with none.
        scale_error: ‖held − scores‖ / ‖scores‖ over all edges. `held` are scores from the same gradients, with the
            divisors of the norms after attention and MLPs held at those of the clean runs. 0 in OLMo 1, which has no
            such norms; NaN for `replacement` "mean" and "zero", whose outputs do not come from a run.
        measure: the name of the measure.
        replacement: what absent edges carry: "counterfactual", "mean" or "zero".
    """

    exact: Values = field(kw_only=True)  # edge
    effect: float = field(kw_only=True)
    scale_error: float = field(kw_only=True)
    measure: str = field(kw_only=True)
    replacement: str = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        exact = frozen_array(self.exact)
        check_shape(exact, self.values.shape, count(self.names, "edge"), what="exact effects")
        self._keep(exact=exact)

    @property
    def correlation(self) -> float:
        """Pearson's correlation of score and exact effect over the edges that were patched; NaN with fewer than two."""
        known = np.isfinite(self.exact)
        if known.sum() < 2:
            return float("nan")
        return float(np.corrcoef(self.exact[known], self.values[known])[0, 1])

    def top(self, n: int) -> "Circuit":
        """The `n` edges with the largest absolute scores, in descending order of them."""
        order = strongest(self.values)[:n]
        return replace(
            self,
            values=self.values[order],
            names=[self.names[edge] for edge in order],
            errors=None if self.errors is None else self.errors[order],
            exact=self.exact[order],
        )

    def table(self) -> pd.DataFrame:
        """One row for each edge: `source`, `target`, `input` (q, k, v, mlp or logits), `value`, `share` (of the
        effect), `exact`, and `standard_error` and `texts` if known.
        """
        ends = [name.split(ARROW) for name in self.names]
        table = pd.DataFrame({"source": [source for source, _ in ends]}, dtype=object)
        targets = [node_and_input(target) for _, target in ends]
        table["target"], table["input"] = [node for node, _ in targets], [letter for _, letter in targets]
        table["value"], table["share"], table["exact"] = self.values, self.values / self.effect, self.exact
        return self._with_errors(table)

    def plot(self) -> Any:  # noqa: ANN401 - as `Labelled.plot`
        """The plotly figure of the strongest edges."""
        return super().plot() if len(self.names) <= SHOWN else self.top(SHOWN).plot()


def circuit(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    token: TokenLike | None = None,
    against: TokenLike | None = None,
    *,
    metric: LogitsMetric | None = None,
    measure: str | None = None,
    steps: int = 5,
    replacement: str = "counterfactual",
    exact: int | Sequence[str] = 20,
    neurons: NeuronsLike = 0,
    position: int = -1,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Circuit:
    """One score for each edge of a model: its effect on a measure, by attribution with integrated gradients (EAP-IG).

    The nodes are the embedding, the heads, the MLPs and the logits. The residual stream is the sum of the outputs of
    nodes, so each input of each node (q, k and v of a head, an MLP, the logits) reads the sum of the outputs of all
    earlier nodes. An edge is one term of this sum. Its score estimates how much the measure falls when the source's
    output is replaced on this edge alone:

        score(u → v) = Σ (clean output of u − replacement of u) · mean over steps of ∂measure/∂(input of v)

    summed over positions and dimensions, then averaged over the pairs of prompts (Hanna et al. 2024, arXiv 2403.17806;
    Syed et al. 2023, arXiv 2310.10348). The gradients come from runs that start at points on the line from the replaced
    to the clean embeddings: the `steps` points of a Gauss–Legendre quadrature. With `steps=0` they come from the clean
    run alone (edge attribution patching). With counterfactual replacement, the sum of the scores of all edges from the
    embedding approaches `effect` as `steps` grows. The scores of all edges together take `steps` forward and backward
    passes.

    `replacement` decides what an absent edge carries:

    - "counterfactual": the output of its source in the corrupted prompt;
    - "mean": the source's mean over all tokens of the clean prompts;
    - "zero".

    In OLMo 2 and 3 the output of a head or MLP includes the norm after it, with the divisor of the same run. With a
    fixed divisor the norm is linear, so the outputs sum exactly to the residual stream. `scale_error` of the result
    says how much the scores depend on the divisors. In these models the queries of all heads share a norm, and so do
    the keys; these norms are computed again.

    With `neurons`, single neurons of the MLPs are nodes too, named `L2 N417`, and the node of an MLP is then the sum of
    its other neurons. `neurons` is either a number, which takes the neurons with the largest |Σ (clean − corrupted
    activation) · gradient|, or a list of neurons, (layer, neuron) each. The score of a whole MLP is the sum of the
    scores of its neurons and of the rest.

    The `exact` strongest edges, or the edges named in `exact`, are also patched one by one, without gradients. The
    `correlation` of the result compares these exact effects with the scores.

    Arguments and measures are those of `activation_patching`. `measure` is one of them: by default `metric` if given,
    or the logit (or logit difference).

    Errors: WorkbenchError as in `activation_patching`, for an unknown measure, replacement, neuron or edge, for
    negative `steps`, `exact` or `neurons`, for a model with edits (`tapped`), and if the measure differs by no more
    than rounding between all edges and none.
    """
    pair = contrast(model, clean, corrupted, token, against, position, tokenizer, metric)
    measure = measure_of(pair, measure)
    _check_counts(steps, exact, neurons)
    batches, size = _batches(model, pair, Graph.of(model, spread_neurons(model, neurons)))
    graph = Graph.of(model, chosen_neurons(model, pair, measure, batches, neurons))
    named = None if isinstance(exact, int) else np.array(graph.places(exact), dtype=int)
    study = Study(model, pair, measure, sides_of(model, pair, replacement, graph), batches, size)
    share = 0.5 if _count(exact) else 1.0
    means, held, ends = _mean_scores(study, steps, part(progress, 0.0, share))
    scale_between(pair, ends, one="clean", dtype=model.dtype)
    values = means.values.numpy()
    patched = strongest(values)[:exact] if named is None else named
    return Circuit(
        values,
        graph.edges(),
        errors=means.errors,
        texts=len(study),
        exact=_exact_effects(study, patched, len(values), part(progress, share, 1.0)),
        effect=_mean_end(study, ends, "clean") - _mean_end(study, ends, "corrupted"),
        scale_error=_scale_error(model, replacement, held.values.numpy(), values),
        measure=measure,
        replacement=replacement,
        title=f"Edges that carry {pair.name}",
        value_name=measure.replace("_", " "),
        signed=True,
        provenance={"steps": steps, "replacement": replacement, "measure": measure}
        | ({"neurons": len(neurons_in(graph.sources))} if any(graph.neurons) else {}),
    )


def _check_counts(steps: int, exact: int | Sequence[str], neurons: NeuronsLike) -> None:
    if steps < 0 or (isinstance(exact, int) and exact < 0):
        raise WorkbenchError(f"steps is {steps} and exact is {exact}; neither can be negative")
    if isinstance(neurons, int) and neurons < 0:
        raise WorkbenchError(f"neurons is {neurons}; it cannot be negative")


def edge_scores(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    token: TokenLike,
    against: TokenLike | None = None,
    *,
    edges: Sequence[str] | None = None,
    steps: int = 5,
    replacement: str = "counterfactual",
) -> Scores:
    """The scores of some edges (all if None), as in `circuit`, also if the model answers both prompts alike.

    Errors: WorkbenchError for an edge that the model does not have, and as in `circuit`.
    """
    pair, graph = contrast(model, clean, corrupted, token, against, -1, None), Graph.of(model, neurons_in(edges or ()))
    names = graph.edges()
    places = list(range(len(names))) if edges is None else graph.places(edges)
    study = Study(
        model, pair, measure_of(pair, None), sides_of(model, pair, replacement, graph), *_batches(model, pair, graph)
    )
    means, _held, _ends = _mean_scores(study, steps, None)
    errors = None if means.errors is None else means.errors[places]
    return Scores(means.values[places], [names[place] for place in places], errors=errors, texts=len(study))


def _mean_scores(
    study: Study, steps: int, progress: Progress | None
) -> tuple[MeansOverTexts, MeansOverTexts, list[Ends]]:
    """The mean scores of all edges, the same with the divisors of norms held, and the ends of all batches."""
    means, held, ends = MeansOverTexts(), MeansOverTexts(), []
    for number, pairs in enumerate(study.batches):
        both = study.sides(pairs)
        ends.append(both.ends)
        stage = part(progress, number / len(study.batches), (number + 1) / len(study.batches))
        scores, of_held = _scores(study, both, steps, stage)
        means.add(scores)
        held.add(of_held)
    return means, held, ends


def _scores(study: Study, both: Sides, points: int, progress: Progress | None) -> tuple[Tensor, Tensor]:
    """The scores of all edges, and the same with the divisors of norms held: text edge each, float64."""
    graph = both.graph
    mask, end, start = graph.mask(), both.outs[0], both.replaced[0]
    changes = [both.outs - replaced for replaced in (both.replaced, both.held) if replaced is not None]
    found = torch.zeros(len(changes), len(end), *mask.shape, dtype=torch.float64)
    reach = mask.sum(1).tolist()

    def value(logits: Tensor) -> Tensor:
        return measured(study.pair, both.pairs, both.log_clean, logits[None])[study.measure]

    for alpha, weight in reported(_points(points), progress, "gradients of edges"):
        embedded = (start + alpha * (end - start)).to(study.model.dtype)
        for targets, slope in slopes(study.model, embedded, value, graph):
            sources = reach[targets.start]
            for kind, change in enumerate(changes):
                score = torch.einsum("sbpd,tbpd->bts", change[:sources], slope)
                found[kind, :, targets, :sources] += weight * score.double().cpu()
    scores = found[:, :, mask]
    return scores[0], scores[-1]


def _points(steps: int) -> list[tuple[float, float]]:
    """Places on the line from 0 (replaced) to 1 (clean), and their weights, which sum to 1."""
    if steps == 0:
        return [(1.0, 1.0)]
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


def _exact_effects(study: Study, edges: np.ndarray, every: int, progress: Progress | None) -> np.ndarray:
    """How much the measure falls when one edge carries its replacement, mean over the pairs: edge.

    NaN for those of the `every` edges that are not among `edges`.
    """
    found = np.full(every, np.nan)
    if len(edges):
        found[edges] = _patched_edges(study, edges, progress)
    return found


def _patched_edges(study: Study, edges: np.ndarray, progress: Progress | None) -> np.ndarray:
    """The effects of these edges, patched one by one: edge."""
    total = torch.zeros(len(edges), dtype=torch.float64)
    for number, pairs in enumerate(study.batches):
        report(progress, number / len(study.batches), "patching edges")
        both = study.sides(pairs)
        every = torch.arange(int(both.graph.mask().sum()))
        kept = (every != edge for edge in edges.tolist())
        values = torch.cat(list(measured_cells(study, both, kept)))
        total += (both.ends.clean[study.measure].cpu() - values).sum(1)
    report(progress, 1.0, "patching edges")
    return (total / len(study)).numpy()


def _mean_end(study: Study, ends: Sequence[Ends], side: str) -> float:
    return sum(float(getattr(end, side)[study.measure].sum()) for end in ends) / len(study)


def _scale_error(model: OlmoForCausalLM, replacement: str, held: np.ndarray, values: np.ndarray) -> float:
    if model.model.blocks[0].norm_first:
        return 0.0
    if replacement != "counterfactual":
        return float("nan")
    return float(np.linalg.norm(held - values) / np.linalg.norm(values))


def _batches(model: OlmoForCausalLM, pair: Contrast, graph: Graph) -> tuple[list[Pairs], int]:
    """The pairs in batches, and the number of tokens of cells to compute at a time."""
    return batches_in_memory(model, pair, "edges", *_bytes(model, pair, graph))


def _bytes(model: OlmoForCausalLM, pair: Contrast, graph: Graph) -> tuple[float, float]:
    """Returns two numbers of bytes: for each token of a batch, its `Sides` and its gradients; and for each token of a
    cell.
    """
    wide, gated = 4 * model.config.hidden_size, GATED if any(graph.neurons) else ()
    captured = [f"blocks.*.{name}" for name in (*RAW, *STREAMS, *gated)]
    lasts = last_logits_bytes(model) / min(pair.clean.lengths)
    gradients = (
        run_bytes(model, capture=2 * captured, grad=True)
        + wide * 4 * (graph.heads + max(map(len, graph.neurons)))
        + 3 * lasts
    )
    pairs = 3 * 8 * graph.mask().numel() / min(pair.clean.lengths)  # scores of each pair
    return sides_bytes(model, pair, graph) + gradients + pairs, cell_bytes(model, graph) + lasts


def _count(exact: int | Sequence[str]) -> int:
    """The number of edges that are patched exactly."""
    return exact if isinstance(exact, int) else len(exact)


@work_of(circuit)
def _work(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    *_: object,
    steps: int = 5,
    replacement: str = "counterfactual",
    exact: int | Sequence[str] = 20,
    neurons: NeuronsLike = 0,
    position: int = -1,
    **__: object,
) -> Work:
    exact, pair = _count(exact), outlined(model, clean, corrupted, position)
    graph = Graph.of(model, spread_neurons(model, neurons))
    batches, size = _batches(model, pair, graph)
    kept, of_cell = _bytes(model, pair, graph)
    tokens, texts, batch = pair.clean.tokens, len(pair.clean), max(pairs.clean.numel() for pairs in batches)
    points, kinds = max(1, steps), 1 + (replacement == "counterfactual" and not model.model.blocks[0].norm_first)
    gradients = pass_flops(model, 2 * tokens, logits=2 * texts) + tokens * (
        heads_flops(model) + kinds * edges_flops(model, graph)
    )
    both = sides_flops(model, pair, replacement) * (2 if exact else 1)
    return Work(
        both
        + points * gradients
        + exact * cell_flops(model, graph, tokens, texts)
        + choice_flops(model, tokens, texts, neurons),
        nbytes=kept * batch + of_cell * min(size, max(1, exact) * batch),
    )


@work_of(edge_scores)
def _work_of_scores(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    *_: object,
    steps: int = 5,
    replacement: str = "counterfactual",
    **__: object,
) -> Work:
    return planned(circuit, model, clean, corrupted, steps=steps, replacement=replacement, exact=0)
