"""The nodes of an attribution graph: its logits, the table of all nodes, and the numbers of each, given the edges."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hooks import OlmoForCausalLM, Run
from workbench.features.graph import ERROR, FEATURE, LOGIT, TOKEN, AttributionGraph
from workbench.features.graph_influence import along_paths, influences, scores
from workbench.features.replaced_run import ReplacedRun
from workbench.tokens import Tokenizer, token_id, token_labels, vocabulary_labels

COVERED, MOST_LOGITS = 0.95, 10
"""The likeliest next tokens are logit nodes until they have this probability together, and at most this many."""


@dataclass(frozen=True, eq=False)
class LogitNodes:
    """Logit nodes.

    Attributes:
        ids: their tokens; of a difference of two logits, the first one.
        names: what they are called.
        read_out: what each reads from the output of the final norm, float32: target d_model.
        values: of the clean run: target.
        weights: probabilities; 1 for a difference.
        against: the token whose logit is subtracted; None for the mean logit.
    """

    ids: list[int]
    names: list[str]
    read_out: Tensor
    values: Tensor
    weights: Tensor
    against: int | None = None


@torch.no_grad()
def logit_nodes(
    model: OlmoForCausalLM, clean: Run, token: int | str | None, against: int | str | None, tokenizer: Tokenizer | None
) -> LogitNodes:
    """The logit nodes of a run whose last position has logits.

    Args:
        model, clean: the model and the run.
        token, against: as in `attribution_graph`.
        tokenizer: reads them, and names the nodes.
    """
    logits = clean.logits[0, -1].float()
    chances = logits.softmax(-1)
    unembedding = model.get_output_embeddings().weight.detach()
    if token is None:
        order = chances.topk(min(MOST_LOGITS, len(chances)))
        count = int((order.values.cumsum(0) < COVERED).sum()) + 1
        ids = order.indices[:count].tolist()
    else:
        ids = [token_id(token, tokenizer, model.config.vocab_size)]
    names = list(vocabulary_labels(ids, tokenizer))
    rows, values, weights = unembedding[ids].float(), logits[ids], chances[ids]
    if against is None:
        return LogitNodes(ids, names, rows - unembedding.float().mean(0), values - logits.mean(), weights)
    other = token_id(against, tokenizer, model.config.vocab_size)
    names = [f"{names[0]} − {vocabulary_labels([other], tokenizer)[0]}"]
    read_out = rows - unembedding[[other]].float()
    return LogitNodes(ids, names, read_out, values - logits[other], torch.ones_like(weights), other)


def graph_of(
    run: ReplacedRun, target: LogitNodes, edges: Tensor, constants: Tensor, tokenizer: Tokenizer | None
) -> AttributionGraph:
    """The graph of a run, without removed nodes.

    Args:
        run: the run.
        target: its logit nodes.
        edges, constants: those of `direct_edges`.
        tokenizer: for readable tokens; token ids without it.
    """
    nodes, matrix = _nodes(run, target), edges.double().numpy()
    kinds, weights = nodes["kind"].to_numpy(), np.zeros(len(nodes))
    weights[kinds == LOGIT] = target.weights.double().cpu().numpy()
    nodes["constant"] = constants.numpy().astype(float)
    nodes["weight"], nodes["influence"] = weights, influences(matrix, weights)
    nodes["effect"] = along_paths(_responses(matrix, nodes), _first_logit(kinds))
    nodes[["measured", "held"]] = np.nan
    replacement, completeness = scores(matrix, weights, kinds == ERROR, kinds == TOKEN)
    return AttributionGraph(
        matrix,
        nodes=nodes,
        tokens=token_labels(run.ids[0], tokenizer),
        logits=target.names,
        transcoders=run.names,
        replacement_score=replacement,
        completeness_score=completeness,
        against=target.against,
        title=f"Attribution graph of {' · '.join(target.names)}",
        value_name="direct effect",
        signed=True,
    )


def _nodes(run: ReplacedRun, target: LogitNodes) -> pd.DataFrame:
    """The nodes: kind, layer, position, feature (of a token or logit: its id) and value."""
    ids, mlps, length = run.ids, run.mlps, run.ids.shape[1]
    rows: list[tuple] = []
    for mlp in mlps:
        columns = (mlp.positions.tolist(), mlp.features.tolist(), mlp.activations.tolist())
        rows += [(FEATURE, mlp.layer, at, feature, value) for at, feature, value in zip(*columns, strict=True)]
    rows += [(ERROR, mlp.layer, at, -1, np.nan) for mlp in mlps for at in range(length)]
    rows += [(TOKEN, -1, at, int(one), np.nan) for at, one in enumerate(ids[0].tolist())]
    logits = zip(target.ids, target.values.tolist(), strict=True)
    rows += [(LOGIT, len(mlps), length - 1, one, value) for one, value in logits]
    return pd.DataFrame(rows, columns=["kind", "layer", "position", "feature", "value"])


def _responses(matrix: np.ndarray, nodes: pd.DataFrame) -> np.ndarray:
    """How much of each target goes if a source goes: edges divided by the activation of their target, for features."""
    features = (nodes["kind"] == FEATURE).to_numpy()
    found = matrix.copy()
    found[features] /= nodes["value"].to_numpy()[features, None]
    return found


def _first_logit(kinds: np.ndarray) -> np.ndarray:
    found = np.zeros(len(kinds))
    found[int(np.argmax(kinds == LOGIT))] = 1.0
    return found
