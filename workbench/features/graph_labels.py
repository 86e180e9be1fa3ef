"""`feature_labels`: what the features of a graph mean, in a few words."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.features.cross_layer import CrossLayerTranscoder
from workbench.features.dictionary import Dictionary
from workbench.features.feature_table import TOKENS, reaches_logits, read_by_logits
from workbench.features.graph import FEATURE, AttributionGraph
from workbench.features.names import names_of
from workbench.features.replaced_mlps import Transcoders
from workbench.tokens import Tokenizer, vocabulary_labels


@torch.no_grad()
def feature_labels(
    model: OlmoForCausalLM,
    graph: AttributionGraph,
    transcoders: Transcoders,
    tokenizer: Tokenizer | None = None,
) -> dict[str, str]:
    """A label for each feature of a graph, by the name of its node.

    The name that a person gave to the feature; without one, the tokens whose logits its direction raises most (`raises
    ▁was · ▁is`). Features that have neither, because their dictionary does not write to the residual stream, are left
    out.

    Args:
        model: the model of the graph.
        graph: usually a pruned one, because each feature takes a product with the unembedding.
        transcoders: the dictionaries of the graph.
        tokenizer: for readable tokens; token ids without it.
    """
    names, nodes = graph.names, graph.nodes
    found: dict[str, str] = {}
    for layer, name in enumerate(graph.transcoders):
        rows = nodes.index[(nodes["kind"] == FEATURE) & (nodes["layer"] == layer)].tolist()
        if not rows:
            continue
        dictionary, directions = _of_layer(transcoders[name], layer)
        given = names_of(dictionary)
        features = sorted(set(nodes["feature"][rows].tolist()))
        said = {feature: given[feature] for feature in features if feature in given}
        rest = [feature for feature in features if feature not in given]
        if rest and reaches_logits(dictionary):
            logits = read_by_logits(model, directions[rest])
            most = logits.topk(min(TOKENS, logits.shape[-1])).indices
            for feature, ids in zip(rest, most.tolist(), strict=True):
                said[feature] = "raises " + " · ".join(vocabulary_labels(ids, tokenizer))
        found |= {names[row]: said[feature] for row in rows if (feature := int(nodes["feature"][row])) in said}
    return found


def _of_layer(transcoder: Dictionary | CrossLayerTranscoder, layer: int) -> tuple[Dictionary, Tensor]:
    """The dictionary of a layer, and what its features write, to all layers together: feature d_model."""
    if isinstance(transcoder, Dictionary):
        return transcoder, transcoder.decoder
    own = transcoder.layers[layer]
    return own, own.decoder + transcoder.later[layer].sum(1)
