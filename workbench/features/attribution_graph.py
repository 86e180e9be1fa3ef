"""`attribution_graph`: which features, at which layers and positions, lead from a prompt to its prediction."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hooks import OlmoForCausalLM, Run, edits
from workbench.analyses.support.arguments import one_text
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import run_bytes, tokens_at_a_time
from workbench.errors import WorkbenchError
from workbench.features.frozen_run import HELD, LAST, FrozenRun, constant_sites
from workbench.features.graph import ERROR, FEATURE, LOGIT, TOKEN, AttributionGraph
from workbench.features.graph_checks import NodeOutput, losses_without
from workbench.features.graph_influence import along_paths, influences, scores
from workbench.features.replaced_mlps import (
    LayerTranscoder,
    ReplacedMLP,
    Transcoders,
    features_of,
    replaced_mlps,
    sites_of,
    transcoders_by_layer,
    with_most,
)
from workbench.progress import Progress, part, report, steps
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_id, token_labels, vocabulary_labels

WHAT = "attribution graph"
MINIMUM = 2**20
"""Bytes of what does not grow with the model."""
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
    divisors of norms and outputs of MLPs held at those of the run. Then all between them is linear: the residual
    stream, the values and outputs of heads, the norms, and the linear skip of a transcoder. So

        Σ edges into a node + constant = its pre-activation (its logit less the mean),

    where `constant` holds the biases of encoder, decoders and attention, and of values that OLMo 1 clips.
    `rounding` of the result is the largest deviation. An edge does not say why a head attends where it does.

    The features and errors of the largest `effect` on the first logit are also taken away in the model itself, one by
    one, where attention, norms and MLPs respond. `measured` of the result's nodes is what the logit loses, and
    `agreement` its correlation with the effect that the graph predicts. `held` is the same with attention patterns and
    divisors of norms held and MLPs responding: where it equals the effect, and `measured` does not, attention or norms
    make the difference.

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
    report(progress, 0.0, WHAT)
    with torch.no_grad():
        layers = range(model.config.num_hidden_layers)
        sites = dict.fromkeys(["embed", *HELD, LAST, *sites_of(named, layers), *constant_sites(model)])
        clean = model.run(ids, capture=list(sites), logits_to_keep=1)
        target = _target(model, clean, token, against, tokenizer)
        mlps = with_most(replaced_mlps(model, clean, named, layers), most)
    share = 0.9 if checks else 1.0
    edges, constants = _edges(model, ids, clean, mlps, target, copies, part(progress, 0.0, share))
    graph = _graph(ids, mlps, target, edges, constants, _names(named, len(mlps)), tokenizer)
    order = graph.strongest_inner()[:checks]
    stage = part(progress, share, 1.0) if order else None
    return _checked(graph, model, ids, clean, mlps, target.read_out[0], order, copies, stage)


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
    order = _numbers(graph, nodes)
    named, layers = transcoders_by_layer(model, transcoders), range(model.config.num_hidden_layers)
    with torch.no_grad():
        clean = model.run(ids, capture=list(dict.fromkeys([*HELD, LAST, *sites_of(named, layers)])), logits_to_keep=1)
        mlps = with_most(replaced_mlps(model, clean, named, layers), (graph.nodes["kind"] == FEATURE).sum())
        _check_same(graph, mlps, ids)
        token = int(graph.nodes["feature"][graph.nodes["kind"] == LOGIT].iloc[0])
        read_out = _target(model, clean, token, graph.against, None).read_out[0]
    return _checked(graph, model, ids, clean, mlps, read_out, order, _copies(model, ids.shape[1]), progress)


def _numbers(graph: AttributionGraph, nodes: int | Sequence[str]) -> list[int]:
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


def _check_same(graph: AttributionGraph, mlps: Sequence[ReplacedMLP], ids: Tensor) -> None:
    """Errors: WorkbenchError if the nodes of a graph are not those of this run."""
    columns = ["layer", "position", "feature"]
    found = [row for mlp in mlps for row in zip(mlp.positions.tolist(), mlp.features.tolist(), strict=True)]
    layers = [mlp.layer for mlp in mlps for _ in range(len(mlp))]
    of_graph = graph.nodes.loc[graph.nodes["kind"] == FEATURE, columns].to_numpy().tolist()
    errors = int((graph.nodes["kind"] == ERROR).sum())
    here = [[layer, *row] for layer, row in zip(layers, found, strict=True)]
    if of_graph != here or errors != len(mlps) * ids.shape[1]:
        raise WorkbenchError("the graph has other nodes than this prompt, model and transcoders; give the whole graph")


def _checked(
    graph: AttributionGraph,
    model: OlmoForCausalLM,
    ids: Tensor,
    clean: Run,
    mlps: Sequence[ReplacedMLP],
    read_out: Tensor,
    order: Sequence[int],
    copies: int,
    progress: Progress | None,
) -> AttributionGraph:
    """The graph with what the first logit loses without each of the nodes `order`."""
    outputs, nodes = [_output(mlps, number) for number in order], graph.nodes.copy()
    runs = {"measured": [], "held": [edits.patch(site, clean) for site in HELD]}
    for number, (name, held) in enumerate(runs.items()):
        stage = part(progress, 0.5 * number, 0.5 * (number + 1))
        lost = losses_without(model, ids, outputs, read_out, copies, stage, held=held)
        nodes.loc[order, name] = lost.double().numpy()
    return replace(graph, nodes=nodes)


def _check_options(token: int | str | None, against: int | str | None, most: int, checks: int) -> None:
    if against is not None and token is None:
        raise WorkbenchError("against is given without a token; give both tokens of the difference")
    if most < 1:
        raise WorkbenchError(f"most is {most}; at least one feature should be a node")
    if checks < 0:
        raise WorkbenchError(f"checks is {checks}; it cannot be negative")


def _names(named: Mapping[int, LayerTranscoder], layers: int) -> list[str]:
    """The name of the transcoder of each layer; "" where there is none."""
    return [named[layer].name if layer in named else "" for layer in range(layers)]


def _output(mlps: Sequence[ReplacedMLP], number: int) -> NodeOutput:
    """What a feature or error writes, by the number of its node."""
    for mlp in mlps:
        if number < len(mlp):
            written = {mlps[layer].writes: mlp.at(layer)[number] for layer in mlp.layers}
            return NodeOutput(int(mlp.positions[number]), written)
        number -= len(mlp)
    layer, position = divmod(number, len(mlps[0].error))
    return NodeOutput(position, {mlps[layer].writes: mlps[layer].error[position]})


def _target(
    model: OlmoForCausalLM, clean: Run, token: int | str | None, against: int | str | None, tokenizer: Tokenizer | None
) -> LogitNodes:
    """The logit nodes of a run."""
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


def _edges(
    model: OlmoForCausalLM,
    ids: Tensor,
    clean: Run,
    mlps: Sequence[ReplacedMLP],
    target: LogitNodes,
    copies: int,
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    """(edges: node node, in rows the targets; constants: node), float32 on the CPU."""
    n_features, length = features_of(mlps), ids.shape[1]
    first_logit = n_features + (len(mlps) + 1) * length
    count = first_logit + len(target.ids)
    edges, constants = torch.zeros(count, count), torch.zeros(count)
    frozen = FrozenRun(model, ids, clean, mlps, min(copies, max(len(target.ids), n_features)))
    written = _written(clean, mlps)
    for rows, reader, positions, slopes, biases in steps(_groups(mlps, target, length, frozen.copies), progress, WHAT):
        gradients = frozen.gradients(reader, positions, slopes)
        constants[rows] = (biases + frozen.constant_part(gradients)).cpu()
        for site, gradient in gradients.items():
            for position, (columns, vectors, constant) in enumerate(written.get(site, ())):
                of_place = gradient[:, position]  # target d_model
                edges[rows, columns] += (of_place @ vectors.T).cpu()
                constants[rows] += (of_place @ constant).cpu()
    return edges, constants


ReadGroup = tuple[slice, str, Tensor, Tensor, Tensor]


def _groups(mlps: Sequence[ReplacedMLP], target: LogitNodes, length: int, at_once: int) -> list[ReadGroup]:
    """Targets of one layer, at most `at_once` together: (rows of the matrix, site, positions, slopes, biases)."""
    found: list[ReadGroup] = []
    first = 0
    for mlp in mlps:
        for start in range(0, len(mlp), at_once):
            some = slice(start, min(start + at_once, len(mlp)))
            assert mlp.transcoder is not None
            rows = slice(first + some.start, first + some.stop)
            found.append((rows, mlp.transcoder.reads, mlp.positions[some], mlp.slopes[some], mlp.biases[some]))
        first += len(mlp)
    first += (len(mlps) + 1) * length
    for start in range(0, len(target.ids), at_once):
        slopes = target.read_out[start : start + at_once]
        positions = torch.full((len(slopes),), length - 1, device=slopes.device)
        rows = slice(first + start, first + start + len(slopes))
        found.append((rows, LAST, positions, slopes, slopes.new_zeros(len(slopes))))
    return found


WrittenAt = tuple[Tensor, Tensor, Tensor]


def _written(clean: Run, mlps: Sequence[ReplacedMLP]) -> dict[str, list[WrittenAt]]:
    """For each writing site and position: (columns of the matrix, what their nodes write, what no node writes)."""
    embed = clean["embed"][0].float()
    n_features, length = features_of(mlps), len(embed)
    nothing, token = torch.zeros_like(embed[0]), n_features + len(mlps) * length
    found = {mlp.writes: _written_to(mlp.layer, mlps) for mlp in mlps}
    found["embed"] = [(torch.tensor([token + n]), row[None], nothing) for n, row in enumerate(embed)]
    return found


def _written_to(layer: int, mlps: Sequence[ReplacedMLP]) -> list[WrittenAt]:
    """The same for the site that the MLP of one layer writes: features of this layer and of earlier ones, and error."""
    own, errors = mlps[layer], features_of(mlps) + layer * len(mlps[layer].error)
    writers = [mlp for mlp in mlps if layer in mlp.layers]
    first = dict(zip((mlp.layer for mlp in mlps), np.cumsum([0, *map(len, mlps)]).tolist(), strict=False))
    bounds = {mlp.layer: _bounds(mlp) for mlp in writers}
    written = {mlp.layer: mlp.at(layer) for mlp in writers}
    places = []
    for position in range(len(own.error)):
        some = {one: range(*of_layer[position : position + 2]) for one, of_layer in bounds.items()}
        columns = [first[one] + number for one, numbers in some.items() for number in numbers]
        vectors = [written[one][numbers.start : numbers.stop] for one, numbers in some.items()]
        everything = torch.cat([*vectors, own.error[position][None]])
        places.append((torch.tensor([*columns, errors + position]), everything, own.constant[position]))
    return places


def _bounds(mlp: ReplacedMLP) -> list[int]:
    """The number of features at earlier positions, for each position and the end: pos + 1."""
    return torch.searchsorted(mlp.positions, torch.arange(len(mlp.error) + 1, device=mlp.error.device)).tolist()


def _graph(
    ids: Tensor,
    mlps: Sequence[ReplacedMLP],
    target: LogitNodes,
    edges: Tensor,
    constants: Tensor,
    names: Sequence[str],
    tokenizer: Tokenizer | None,
) -> AttributionGraph:
    nodes, matrix = _nodes(ids, mlps, target), edges.double().numpy()
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
        tokens=token_labels(ids[0], tokenizer),
        logits=target.names,
        transcoders=names,
        replacement_score=replacement,
        completeness_score=completeness,
        against=target.against,
        title=f"Attribution graph of {' · '.join(target.names)}",
        value_name="direct effect",
        signed=True,
    )


def _nodes(ids: Tensor, mlps: Sequence[ReplacedMLP], target: LogitNodes) -> pd.DataFrame:
    """The nodes: kind, layer, position, feature (of a token or logit: its id) and value."""
    length = ids.shape[1]
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


def _copies(model: OlmoForCausalLM, length: int) -> int:
    """How many copies of a text run at a time. Errors: WorkbenchError if one does not fit into memory."""
    return max(1, tokens_at_a_time(model, WHAT, _bytes(model, length), length) // length)


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
