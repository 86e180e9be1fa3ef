"""Attribution graphs of the page's prompt: their calls, and the value of the picture (see circuit_graph.js)."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import WorkbenchError
from workbench.features.attribution_graph import attribution_graph, check_nodes
from workbench.features.circuit_tracer import as_circuit_tracer
from workbench.features.graph import CONFIRMED, CONTRADICTED, FEATURE, IN_PART, LOGIT, AttributionGraph
from workbench.features.graph_labels import feature_labels
from workbench.features.replaced_mlps import layer_of_mlp
from workbench.page.session.arguments import ModelOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import origin, result
from workbench.page.session.calls import Call, prompt_arguments, tokenizer_argument
from workbench.page.session.dictionaries import DictionariesOf, fitting
from workbench.page.session.requests import TabRequest
from workbench.report import Report, Section, as_csv

CHECKED = 20  # nodes that a graph takes away in the model with one click
SENTENCE = (
    "Features of transcoders replace the MLPs. Thickness: the share of all paths into the logits that use the edge. "
    "Orange raises its target, dashed blue lowers it. Diamonds are errors: what the transcoders leave out."
)


def transcoders_of(bench: Bench, checkpoint: str) -> DictionariesOf:
    """The transcoders of a checkpoint's MLPs that the page has, at most one of each layer.

    Errors: WorkbenchError if there are none, with the checkpoints that have some and the command that makes one.
    """
    there = {name: bench.dictionary(name) for name in fitting(bench, checkpoint)}
    layers = {name: layer for name, one in there.items() if (layer := layer_of_mlp(one)) is not None}
    found: dict[int, str] = {}
    for name, layer in layers.items():
        if there[name].model in ("", checkpoint):
            found.setdefault(layer, name)
    if not found:
        others = sorted({there[name].model for name in layers} & {*bench.known})
        advice = f"Choose {' or '.join(others)}, or train some:" if others else "Train some:"
        raise WorkbenchError(
            f"there are no transcoders of {checkpoint}, and this graph shows their features. {advice} `python -m "
            f"workbench features train {checkpoint} --site blocks.0.mlp_in --writes blocks.0.mlp_out --out FOLDER` "
            "for each layer; then start the page with `python app.py --dictionary FOLDER …`"
        )
    return DictionariesOf(checkpoint, tuple(found[layer] for layer in sorted(found)))


def graph_call(bench: Bench, request: TabRequest, targets: Sequence[int] = ()) -> Call:
    """The call of the attribution graph of the prompt, without removed nodes.

    targets: the id of the next token that it explains, and that of another one to compare with; empty for the
    likeliest tokens.
    """
    transcoders = transcoders_of(bench, request.query.checkpoint)
    options = {"checks": 0, "tokenizer": tokenizer_argument(request)}
    return Call.of(attribution_graph, *prompt_arguments(request), transcoders, *targets, **options).shown_by(None)


def checks_call(graph: Call, nodes: int | Sequence[str]) -> Call:
    """The call that adds to a graph the effect of removing nodes in the model (`check_nodes`).

    nodes: how many, the strongest first, or their names.
    """
    given = nodes if isinstance(nodes, int) else tuple(nodes)
    return Call.of(check_nodes, *graph.arguments[:3], graph, given).shown_by(None)


def graph_value(bench: Bench, found: AttributionGraph, call: Call, most: int) -> dict[str, Any]:
    """The nodes and the `most` strongest edges of a graph as a part of the value of the picture."""
    edges = found.strongest_edges(most)
    kept = sorted({*edges["source"], *edges["target"], *found.nodes.index[found.nodes["kind"] == LOGIT]})
    counts = found.verdicts.value_counts()
    signs = np.where(edges["value"] < 0, -1.0, 1.0)
    names = edges["source_name"] + " → " + edges["target_name"]
    columns = (signs * edges["influence"], edges["value"], edges["share"])
    return {
        "tokens": list(found.tokens),
        "layers": len(found.transcoders),
        "nodes": dict(node_rows(bench, found, call, kept)),
        "edges": [list(row) for row in zip(names, *(column.tolist() for column in columns), strict=True)],
        "every": int(np.count_nonzero(found.values)),
        "checked": {
            "nodes": int(counts.drop("", errors="ignore").sum()),
            **{name: int(counts.get(name, 0)) for name in (CONFIRMED, IN_PART, CONTRADICTED)},
            "correlation": None if np.isnan(found.agreement) else found.agreement,
            "inner": len(found.strongest_inner()),
        },
    }


def node_rows(
    bench: Bench, found: AttributionGraph, call: Call, kept: Sequence[int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each kept node, and its description for the picture."""
    names, verdicts = found.names, found.verdicts
    meanings = node_labels(bench, found, call, kept)
    table = found.nodes.loc[list(kept)].astype(object)
    total = float(found.nodes["weight"].sum())
    logits = dict(zip(found.nodes.index[found.nodes["kind"] == LOGIT], found.logits, strict=True))
    for number, node in table.where(table.notna(), None).to_dict("index").items():
        said = {name: node[name] for name in ("kind", "layer", "position", "value", "effect", "measured", "held")}
        said |= {"influence": node["influence"] / total, "weight": node["weight"] / total}
        said |= {"meaning": meanings.get(names[number], ""), "verdict": verdicts[number]}
        if node["kind"] == FEATURE:
            said |= {"feature": node["feature"], "dictionary": found.transcoders[node["layer"]]}
        if node["kind"] == LOGIT:
            said |= {"text": logits[number], "probability": node["weight"]}
        yield names[number], said


def node_labels(bench: Bench, found: AttributionGraph, call: Call, kept: Sequence[int]) -> dict[str, str]:
    """What the features among these nodes mean, by the names of the nodes."""
    chosen = next(part for part in call.parts if isinstance(part, DictionariesOf))
    small = AttributionGraph(
        found.values[np.ix_(kept, kept)],
        nodes=found.nodes.loc[list(kept)],
        tokens=found.tokens,
        logits=found.logits,
        transcoders=found.transcoders,
        replacement_score=found.replacement_score,
        completeness_score=found.completeness_score,
    )
    return feature_labels(bench.load(chosen.name)[0], small, chosen.value(bench), bench.tokenizer(chosen.name))


def key_of_features(request: TabRequest, token: str, against: str) -> tuple[object, ...]:
    """The key of an attribution graph: what it is computed from, with the texts that choose what it explains."""
    return "features", request.query.checkpoint, request.query.prompt, request.query.edits, token, against


def is_graph(call: Call) -> bool:
    """Whether the result of a call is an attribution graph."""
    return call.function in (attribution_graph, check_nodes)


def circuit_tracer_json(bench: Bench, call: Call) -> str:
    """A graph that the page offers, pruned, in the JSON of circuit-tracer (see `write_circuit_tracer`).

    Errors: WorkbenchError for a call whose result is no attribution graph.
    """
    found = _checked_graph(bench, call)
    pruned = found.pruned()
    kept = found.nodes.index[pd.Index(found.names).isin(pruned.names)].tolist()
    labels = node_labels(bench, found, call, kept)
    tokenizer = bench.tokenizer(next(part.name for part in call.parts if isinstance(part, ModelOf)))
    return json.dumps(as_circuit_tracer(found, call.file_name, labels=labels, tokenizer=tokenizer), allow_nan=False)


def edges_csv(bench: Bench, call: Call) -> str:
    """The edges of a graph that the page offers, pruned as in `circuit_tracer_json`, as CSV: a row for each, the
    largest first (see `AttributionGraph.edges`).

    Errors: those of `circuit_tracer_json`.
    """
    edges = _checked_graph(bench, call).pruned().edges()
    return as_csv(Report("edges", [Section("edges", edges)], origin(call, bench)))


def _checked_graph(bench: Bench, call: Call) -> AttributionGraph:
    if not is_graph(call):
        raise WorkbenchError(f"{call.function.__name__} gives no attribution graph, and only one has nodes and edges")
    found: AttributionGraph = result(call, bench)
    return found
