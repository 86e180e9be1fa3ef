"""`attribution_graph`: which features, at which layers and positions, lead from a prompt to its prediction."""

import math
from collections.abc import Mapping, Sequence

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import one_text
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.errors import WorkbenchError
from workbench.features.frozen_run import constant_sites
from workbench.features.graph import ERROR, FEATURE, LOGIT, AttributionGraph
from workbench.features.graph_checks import with_checks
from workbench.features.graph_edges import GRAPH_WHAT, direct_edges
from workbench.features.graph_nodes import MOST_LOGITS, graph_of, logit_nodes
from workbench.features.replaced_mlps import LayerTranscoder, Transcoders, transcoders_by_layer
from workbench.features.replaced_run import ReplacedRun
from workbench.progress import Progress, part, report
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer

MINIMUM = 2**20
"""Bytes of what does not grow with the model."""


def attribution_graph(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    transcoders: Transcoders,
    token: int | str | None = None,
    against: int | str | None = None,
    *,
    most: int = 4096,
    checks: int = 20,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> AttributionGraph:
    """Which features lead from a prompt to its next-token prediction (Ameisen et al. 2025, "Circuit Tracing").

    Nodes, in this order:

    - *feature*: a feature of a transcoder that is active at a position; one of a cross-layer transcoder is a single
      node, whose edges sum over all layers that it writes to;
    - *error*: what the transcoder of a layer leaves out at a position; for a layer without a transcoder all that its
      MLP writes;
    - *token*: the embedding at a position;
    - *logit*: a next token's logit less the mean logit. The likeliest tokens are taken until they have 95 % of the
      probability, at most 10; or `token` alone; or with `against` the difference of two logits.

    An edge is the exact direct effect of a source on a feature's pre-activation or on a logit, with attention patterns,
    divisors of norms and outputs of MLPs held at those of the run. Everything between the two is then linear: the
    residual stream, the values and outputs of heads, the norms, and the linear skip of a transcoder. So

        Σ edges into a node + constant = its pre-activation (its logit less the mean),

    where `constant` holds the biases of encoder, decoders and attention, and of values that OLMo 1 clips.
    `rounding` of the result is the largest deviation. An edge does not say why a head attends where it does.

    The features and errors of the largest `effect` on the first logit are also removed from the model itself, one by
    one, in runs in which attention, norms and MLPs respond. `measured` of the result's nodes is how much the logit
    falls, and `agreement` is its correlation with the effect that the graph predicts. `held` is measured in the same
    way, with attention patterns and divisors of norms held fixed: if it equals the effect and `measured` does not, the
    difference comes from attention or norms.

    Args:
        model, tokens: a model, and one prompt.
        transcoders: transcoders of MLPs by name, at most one of each layer; or a `CrossLayerTranscoder`, by its name.
        token, against: ids, or with a `tokenizer` texts of single tokens.
        most: the most features. If more are active, those that write the longest vectors are nodes, and the others
            count as error.
        checks: the number of nodes to take away in the model.
        tokenizer: for readable tokens; token ids without it.
        progress: called before and after each group of targets.

    Errors: WorkbenchError for a dictionary that is no transcoder of an MLP or does not fit the model, for two of one
    layer, for `against` without `token`, for `most` below 1, for negative `checks`, and if the prompt does not fit into
    memory.
    """
    ids = one_text(tokens, model)
    _check_options(token, against, most, checks)
    named = transcoders_by_layer(model, transcoders)
    copies = _copies(model, ids.shape[1])
    report(progress, 0.0, GRAPH_WHAT)
    run = ReplacedRun.of(model, ids, named, most, also=["embed", *constant_sites(model)])
    target = logit_nodes(model, run.clean, token, against, tokenizer)
    share = 0.9 if checks else 1.0
    edges, constants = direct_edges(run, target, copies, part(progress, 0.0, share))
    graph = graph_of(run, target, edges, constants, tokenizer)
    order = graph.strongest_inner()[:checks]
    return with_checks(graph, run, target.read_out[0], order, copies, part(progress, share, 1.0) if order else None)


def check_nodes(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    transcoders: Transcoders,
    graph: AttributionGraph,
    nodes: int | Sequence[str] = 20,
    *,
    progress: Progress | None = None,
) -> AttributionGraph:
    """The same graph, with `measured` and `held` of more nodes: each is taken away in the model (`attribution_graph`).

    Args:
        model, tokens, transcoders: those that the graph is of.
        graph: the whole graph, not a pruned one.
        nodes: the number of features and errors of the largest effect, or names of nodes (`L2 F417 @5`).
        progress: called before and after each group of runs.

    Errors: WorkbenchError if the graph has other features than this prompt, for a negative number, and for a name that
    is not a feature or error of the graph.
    """
    ids = one_text(tokens, model)
    order = _node_numbers(graph, nodes)
    named, features = transcoders_by_layer(model, transcoders), int((graph.nodes["kind"] == FEATURE).sum())
    run = ReplacedRun.of(model, ids, named, features)
    _check_same(graph, run)
    token = int(graph.nodes["feature"][graph.nodes["kind"] == LOGIT].iloc[0])
    read_out = logit_nodes(model, run.clean, token, graph.against, None).read_out[0]
    return with_checks(graph, run, read_out, order, _copies(model, ids.shape[1]), progress)


def _node_numbers(graph: AttributionGraph, nodes: int | Sequence[str]) -> list[int]:
    """The numbers of the nodes to take away."""
    if isinstance(nodes, int):
        if nodes < 0:
            raise WorkbenchError(f"nodes is {nodes}; it cannot be negative")
        return graph.strongest_inner()[:nodes]
    places = {name: number for number, name in enumerate(graph.names)}
    inner = graph.nodes["kind"].isin([FEATURE, ERROR])
    for name in nodes:
        if name not in places or not inner[places[name]]:
            raise WorkbenchError(f"no feature or error {name!r} in this graph; a name is, for example, L2 F417 @5")
    return [places[name] for name in nodes]


def _check_same(graph: AttributionGraph, run: ReplacedRun) -> None:
    """Errors: WorkbenchError if the nodes of a graph are not those of this run."""
    mlps, columns = run.mlps, ["layer", "position", "feature"]
    found = [row for mlp in mlps for row in zip(mlp.positions.tolist(), mlp.features.tolist(), strict=True)]
    layers = [mlp.layer for mlp in mlps for _ in range(len(mlp))]
    of_graph = graph.nodes.loc[graph.nodes["kind"] == FEATURE, columns].to_numpy().tolist()
    errors = int((graph.nodes["kind"] == ERROR).sum())
    here = [[layer, *row] for layer, row in zip(layers, found, strict=True)]
    if of_graph != here or errors != len(mlps) * run.ids.shape[1]:
        raise WorkbenchError(
            "the nodes of the graph are not those of this prompt, model and transcoders; give the whole graph of these"
        )


def _check_options(token: int | str | None, against: int | str | None, most: int, checks: int) -> None:
    if against is not None and token is None:
        raise WorkbenchError("against is given without a token; give both tokens of the difference")
    if most < 1:
        raise WorkbenchError(f"most is {most}; at least one feature should be a node")
    if checks < 0:
        raise WorkbenchError(f"checks is {checks}; it cannot be negative")


def _copies(model: OlmoForCausalLM, length: int) -> int:
    """How many copies of a text run at a time. Errors: WorkbenchError if one does not fit into memory."""
    return max(1, tokens_at_a_time(model, GRAPH_WHAT, _bytes(model, length), length) // length)


def _bytes(model: OlmoForCausalLM, length: int) -> float:
    """Bytes for each token of the frozen run and of its gradients."""
    captured = ["blocks.*.mlp_in", *(f"blocks.*.{name}" for name in ("mlp_out", "attn.v", "attn.v_raw"))]
    patterns = 3 * model.config.num_hidden_layers * model.config.num_attention_heads * length * model.dtype.itemsize
    return run_bytes(model, capture=2 * captured, grad=True) + patterns


@work_of(attribution_graph)
def _work(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    transcoders: Transcoders,
    token: int | str | None = None,
    *_: object,
    most: int = 4096,
    checks: int = 20,
    **__: object,
) -> Work:
    """A gate without a k is taken to have one in 16 features active."""
    config, length = model.config, one_text(tokens, model).shape[1]
    named, layers = transcoders_by_layer(model, transcoders), config.num_hidden_layers
    active = {layer: (one.dictionary.gate.k or len(one.dictionary) // 16) * length for layer, one in named.items()}
    share = min(1.0, most / max(1, sum(active.values())))
    targets = {layer: math.ceil(share * count) for layer, count in active.items()}
    logits = 1 if token is not None else MOST_LOGITS
    copies = min(_copies(model, length), max(logits, sum(targets.values())))
    d_head, heads = model.sites.sizes["d_head"], config.num_attention_heads + config.num_key_value_heads
    of_attention = 2 * config.hidden_size * d_head * heads + 2 * length * d_head * config.num_attention_heads
    passes = sum(-(-count // copies) * (layer + 1) for layer, count in targets.items()) + layers
    flops = pass_flops(model, length, logits=1) + pass_flops(model, length * copies)
    flops += 2 * pass_flops(model, length * (1 + checks)) if checks else 0
    flops += passes * length * copies * of_attention
    earlier = length  # nodes of earlier layers
    for layer in range(layers):
        flops += 2.0 * targets.get(layer, 0) * earlier * config.hidden_size
        earlier += targets.get(layer, 0) + length
    flops += 2.0 * logits * earlier * config.hidden_size
    flops += _transcoder_flops(named, length)
    matrix = 60 * (earlier + logits) ** 2
    return Work(flops, nbytes=_bytes(model, length) * copies * length + matrix + MINIMUM)


@work_of(check_nodes)
def _work_of_checks(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    transcoders: Transcoders,
    graph: AttributionGraph | None = None,
    nodes: int | Sequence[str] = 20,
    **_: object,
) -> Work:
    """Two runs without each of the nodes, beside the clean run and the transcoders."""
    length, count = one_text(tokens, model).shape[1], nodes if isinstance(nodes, int) else len(nodes)
    copies = min(_copies(model, length), max(1, count))
    flops = pass_flops(model, length, logits=1) + 2 * pass_flops(model, length * (1 + count))
    flops += _transcoder_flops(transcoders_by_layer(model, transcoders), length)
    return Work(flops, nbytes=_bytes(model, length) * copies * length + MINIMUM)


def _transcoder_flops(named: Mapping[int, LayerTranscoder], length: int) -> float:
    """Operations of encoding and decoding a text."""
    dictionaries = [one.dictionary for one in named.values()]
    return sum(2.0 * length * (one.encoder.numel() + one.decoder.numel()) for one in dictionaries)
