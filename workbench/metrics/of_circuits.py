"""Metrics of circuits: the scores of edges, and the effect of a set of edges."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from workbench.analyses.circuit import Circuit
from workbench.analyses.circuit import edge_scores as scores_of_edges
from workbench.analyses.faithfulness import circuit_effect as effect_of_circuit
from workbench.analyses.trajectory import Metric
from workbench.text_pairs import TextPairs
from workbench.tokens import token_id


def edge_scores(
    pairs: TextPairs,
    tokenizer: PreTrainedTokenizerBase,
    *,
    edges: Sequence[str] | None = None,
    steps: int = 5,
    replacement: str = "counterfactual",
) -> Metric:
    """The score of each edge between parts of the model, as in `circuit`, in logits.

    `edges` are the names of the edges, such as "L1H5 → L2H5 k"; None means all edges.
    """
    arguments = _of_pairs(pairs, tokenizer) | {"edges": edges, "steps": steps, "replacement": replacement}
    note = (
        "How much the answer to the clean prompts falls if an edge carries its replacement, estimated from gradients."
    )
    return Metric("scores of edges", scores_of_edges, arguments, unit="logits", note=note)


def circuit_effect(
    circuit: Circuit, size: int, pairs: TextPairs, tokenizer: PreTrainedTokenizerBase, *, draws: int = 5, seed: int = 0
) -> Metric:
    """The effect, in logits, of four sets of edges alone: the best `size` edges of a circuit, all edges, all except
    the best, and random ones.

    Give the circuit of the last checkpoint to see when it forms (see `circuit_shares`).
    """
    kept = circuit.top(size).names
    arguments = _of_pairs(pairs, tokenizer) | {"kept": kept, "replacement": circuit.replacement}
    note = "The answer with these edges alone, less the answer with none. Random circuits have as many edges."
    return Metric(
        f"effect of a circuit of {size} edges",
        effect_of_circuit,
        arguments | {"draws": draws, "seed": seed},
        unit="logits",
        note=note,
    )


def _of_pairs(pairs: TextPairs, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The arguments of patching, with the answers as ids."""
    answers, others = (
        None if words is None else [token_id(word, tokenizer, len(tokenizer)) for word in words]
        for words in (pairs.answers, pairs.others)
    )
    return {"clean": pairs.clean, "corrupted": pairs.corrupted, "token": answers, "against": others}
